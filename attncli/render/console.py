"""The two streams: results on standard output; progress, timing and errors on standard error.

Owns how consoles are made (no markup, no guessing of highlights), and how an error looks.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.text import Text

from attncli.errors import AttnError
from attncli.render.escape import one_line
from attncli.render.status import status

__all__ = ["messages", "output", "print_error", "print_json", "print_note", "show", "status"]

# What JSON leaves as it is and a terminal may obey: C1 controls, and marks that are invisible or turn writing around.
_CONTROLS = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def output() -> Console:
    """Where results go."""
    return _console(stderr=False)


def messages() -> Console:
    """Where everything else goes."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()  # Rich takes FORCE_COLOR for a terminal's cursor too
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
    """The colours that CLICOLOR_FORCE or FORCE_COLOR ask for also where there is no terminal; NO_COLOR forbids them."""
    asked = any(os.environ.get(name, "0") not in ("", "0") for name in ("CLICOLOR_FORCE", "FORCE_COLOR"))
    if not asked or os.environ.get("NO_COLOR"):
        return None
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    return "256" if "256" in os.environ.get("TERM", "") else "standard"


def show(console: Console, renderable: RenderableType) -> None:
    """Prints a screen; off a terminal without the blanks that fill its lines."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def print_json(document: Any, indent: int | None = 2) -> None:
    """A result for programs: one JSON document on standard output, full precision; on one line without an indent.

    What could control a terminal is escaped also where JSON would let it stand.
    """
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, ensure_ascii=not unicode, allow_nan=False, indent=indent)
    sys.stdout.write(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    if indent is None:
        sys.stdout.flush()


def print_note(text: str) -> None:
    """A remark on standard error."""
    console = messages()
    console.print(Text(one_line(text), style="dim"), soft_wrap=not console.is_terminal)


def print_error(error: AttnError) -> None:
    """What went wrong and what to do next, on one line or two."""
    line = Text("error: ", style="bold red")
    line.append(one_line(error.message), style="default not bold")
    console = messages()
    whole = not console.is_terminal  # a terminal gets lines cut between words, a log one line
    console.print(line, soft_wrap=whole)
    if error.hint:
        console.print(Text("  " + one_line(error.hint)), soft_wrap=whole)
