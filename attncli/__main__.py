"""The entry point of `attncli` and `python -m attncli`: installs signal handlers, shows a status, runs the application.

The imports at the top of this file take a few milliseconds. The application takes longer, so `_run` imports it.
"""

from __future__ import annotations

import os
import sys

from attncli import stopping
from attncli.cli.process import delay_full_collections, limit_spinning, open_streams
from attncli.render.status import enable_status, hide_status, status

TYPE_CHECKING = False  # instead of importing typing, which is slow
if TYPE_CHECKING:
    from typing import NoReturn

_CANNOT_START = 4  # the exit code if the application cannot be imported, for example without memory


def main() -> NoReturn:
    """Runs the command line of this process and exits."""
    open_streams()
    stopping.install()
    limit_spinning()
    delay_full_collections()
    enable_status()
    with stopping.CleanUp(hide_status):
        status("starting")
        code = _run()
        hide_status()
    sys.exit(code)


def _run() -> int:
    """Runs the command line and returns its exit code; if a signal ended the command, the exit code of the signal."""
    try:
        from attncli.cli.main import run
    except (ImportError, OSError, MemoryError) as problem:
        if "ATTNCLI_DEBUG" in os.environ:
            raise
        os.write(2, f"error: attncli cannot be imported: {problem}\n".encode())
        return _CANNOT_START
    try:
        stopping.unwind()
        code = run(sys.argv[1:])
        stopping.finish()
        return code
    except BaseException:  # a library may have replaced the exception that a signal raised
        if (number := stopping.received()) is None:
            raise
        hide_status()
        return stopping.exit_code(number)


if __name__ == "__main__":
    main()
