"""Runs the commands on a page and puts what they print below them: python docs/refresh.py docs/attention.md

A block of the page that begins ```console holds a command, after '$ ', and below it what that prints on 80 columns.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

_BLOCK = re.compile(r"^```console\n\$ attncli (?P<arguments>.+)\n(?P<shown>(?:(?!```).*\n)*)```$", re.MULTILINE)
SCREEN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm", "ATTNCLI_MODEL": "checkpoints/stories"}
SCREEN |= {"ATTNCLI_MODELS": os.devnull}  # what a page shows does not depend on the models of whoever makes it


def commands(page: str) -> list[tuple[str, str]]:
    """The arguments of every command on a page, and what the page says it prints."""
    return [(block["arguments"], block["shown"]) for block in _BLOCK.finditer(page)]


def refreshed(page: str, run: Callable[[str], str]) -> str:
    """The page with what every command prints now; `run` gives that for its arguments."""

    def block(found: re.Match[str]) -> str:
        arguments = found["arguments"]
        return f"```console\n$ attncli {arguments}\n{run(arguments)}```"

    return _BLOCK.sub(block, page)


def printed(arguments: str) -> str:
    """What `attncli ARGUMENTS` prints on standard output, without spaces at the ends of lines."""
    from attncli.cli.main import run

    with redirect_stdout(io.StringIO()) as shown:
        code = run(shlex.split(arguments))
    assert code == 0, f"attncli {arguments} ended with {code}"
    return "".join(line.rstrip() + "\n" for line in shown.getvalue().splitlines())


def main() -> None:
    """Writes the pages named on the command line anew."""
    os.environ |= SCREEN
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(refreshed(page.read_text(encoding="utf-8"), printed), encoding="utf-8")


if __name__ == "__main__":
    main()
