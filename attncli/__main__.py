"""The process of `attncli` and `python -m attncli`: signals are taken, and a first word shown, before anything else.

What is imported at the top takes a few milliseconds; the application is imported inside `main`.
"""

from __future__ import annotations

import sys

from attncli import stopping
from attncli.cli.process import limit_spinning, open_streams
from attncli.render.status import enable_status, hide_status, status

TYPE_CHECKING = False  # importing typing takes a while
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line of this process and exits."""
    open_streams()
    stopping.install()
    limit_spinning()
    enable_status()
    with stopping.CleanUp(hide_status):
        status("starting")
        code = _run()
        hide_status()
    sys.exit(code)


def _run() -> int:
    """The command line's exit code, or that of the signal which stopped it."""
    try:
        from attncli.cli.main import run

        stopping.unwind()
        code = run(sys.argv[1:])
        stopping.finish()
        return code
    except BaseException:  # also what a library made of the exception that a signal raised
        if (number := stopping.received()) is None:
            raise
        hide_status()
        return stopping.exit_code(number)


if __name__ == "__main__":
    main()
