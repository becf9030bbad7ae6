"""Writes to the two output streams: results to standard output; progress, timing and errors to standard error.

This module creates the Rich consoles, without markup and automatic highlighting, and prints notes, errors and JSON.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.text import Text

from attncli.errors import AttnError
from attncli.render.escape import one_line
from attncli.render.status import status

__all__ = ["messages", "output", "print_error", "print_json", "print_note", "show", "status"]

# Characters that JSON does not escape and a terminal may obey: C1 controls, invisible and bidirectional marks.
_CONTROLS = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def output() -> Console:
    """Returns the console of standard output, for results."""
    return _console(stderr=False)


def messages() -> Console:
    """Returns the console of standard error, for progress, timing, notes and errors."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()  # for Rich, FORCE_COLOR implies a terminal with a cursor
    forced = _forced_colors()
    return Console(
        stderr=stderr,
        force_terminal=terminal,
        color_system=forced or "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def _forced_colors() -> Literal["standard", "256", "truecolor"] | None:
    """Returns the color system that CLICOLOR_FORCE or FORCE_COLOR forces if the output is not a terminal.

    Returns None if neither variable forces colors, or if NO_COLOR is set.
    """
    asked = any(os.environ.get(name, "0") not in ("", "0") for name in ("CLICOLOR_FORCE", "FORCE_COLOR"))
    if not asked or os.environ.get("NO_COLOR"):
        return None
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    return "256" if "256" in os.environ.get("TERM", "") else "standard"


def show(console: Console, renderable: RenderableType) -> None:
    """Prints a screen. Trailing spaces are removed if the output is not a terminal."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def print_json(document: Any, indent: int | None = 2) -> None:
    """Prints a JSON document on standard output in full precision. If `indent` is None, prints it on one line.

    Characters that could control a terminal are escaped, even if JSON does not require it.
    """
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, ensure_ascii=not unicode, allow_nan=False, indent=indent)
    sys.stdout.write(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    if indent is None:
        sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines on standard output as they come, without wrapping."""
    for line in lines:
        sys.stdout.write(f"{line}\n")


def print_note(text: str) -> None:
    """Prints a remark on standard error."""
    console = messages()
    console.print(Text(one_line(text), style="dim"), soft_wrap=not console.is_terminal)


def print_error(error: AttnError) -> None:
    """Prints an error in one or two lines: what is wrong, and what to do next."""
    line = Text("error: ", style="bold red")
    line.append(one_line(error.message), style="default not bold")
    console = messages()
    whole = not console.is_terminal  # lines are wrapped on a terminal, not in a log
    console.print(line, soft_wrap=whole)
    if error.hint:
        console.print(Text("  " + one_line(error.hint)), soft_wrap=whole)
