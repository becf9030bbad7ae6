"""Runs the commands on pages and writes their output below them: python docs/refresh.py README.md docs/*.md

A block that begins with ```console contains a command after '$ ' and its output on 80 columns. If the last line of the
block is '…', the block keeps its number of lines, and the rest of the output is left out. PICTURES lists the SVG files,
each with its command.
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
from tempfile import TemporaryDirectory

_BLOCK = re.compile(r"^```console\n\$ attncli (?P<arguments>.+)\n(?P<shown>(?:(?!```).*\n)*)```$", re.MULTILINE)
_REST = "…\n"
SCREEN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm", "ATTNCLI_MODEL": "checkpoints/stories"}
SCREEN |= {"ATTNCLI_MODELS": os.devnull}  # the output must not depend on the models of the writer
_SENTENCE = '"The little cat sat on the old mat. The little"'
PICTURES = {  # by file; the command writes it with --svg
    "docs/explain-light.svg": f"explain {_SENTENCE} --theme light",
    "docs/explain-dark.svg": f"explain {_SENTENCE} --theme dark",
}


def commands(page: str) -> list[tuple[str, str]]:
    """Returns the arguments of every command on a page, each with the output that the page shows."""
    return [(block["arguments"], block["shown"]) for block in _BLOCK.finditer(page)]


def refreshed(page: str, run: Callable[[str], str]) -> str:
    """Returns the page with the new output of every command; `run` returns the output for a command's arguments."""

    def block(found: re.Match[str]) -> str:
        arguments = found["arguments"]
        return f"```console\n$ attncli {arguments}\n{excerpt(run(arguments), found['shown'])}```"

    return _BLOCK.sub(block, page)


def excerpt(output: str, shown: str) -> str:
    """Returns the output. If `shown` ends with '…', returns only as many lines as `shown` has, and '…'."""
    if not shown.endswith(_REST):
        return output
    lines = shown.removesuffix(_REST).count("\n")
    return "".join([*output.splitlines(keepends=True)[:lines], _REST])


def printed(arguments: str) -> str:
    """Returns the standard output of `attncli ARGUMENTS`, without spaces at the ends of lines."""
    from attncli.cli.main import run

    with redirect_stdout(io.StringIO()) as shown:
        code = run(shlex.split(arguments))
    assert code == 0, f"attncli {arguments} ended with {code}"
    return "".join(line.rstrip() + "\n" for line in shown.getvalue().splitlines())


def picture(arguments: str) -> str:
    """Returns the SVG picture that `attncli ARGUMENTS --svg FILE` writes."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "picture.svg")
        printed(f"{arguments} --svg {shlex.quote(str(file))}")
        return file.read_text(encoding="utf-8")


def main() -> None:
    """Rewrites the pages named on the command line, and all pictures."""
    os.environ |= SCREEN
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(refreshed(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
    for name, arguments in PICTURES.items():
        Path(name).write_text(picture(arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
