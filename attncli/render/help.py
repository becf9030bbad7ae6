"""Prints help pages: the first page and the page of each command. Pages have no borders, so they fit every terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from attncli.render.console import show
from attncli.render.escape import fold
from attncli.render.palette import BAR, TITLE

_LONGEST_NAME = 26  # cells; a longer name has a line of its own
_COLUMNS_FROM = 60  # cells; on narrower screens the help text is below the name
_GAP = 2
_BELOW = 6  # cells of indentation for a help text below its name
_LEAST = 20  # cells for words, however narrow the screen


HelpRow = tuple[str, str, str]  # an option or argument, the name of its value, and its help text
Sections = Mapping[str, Sequence[HelpRow]]


def show_page(console: Console, told: str, sections: Sections, closing: Sequence[str], usage: str = "") -> None:
    """Prints a page: usage, a sentence, examples, sections of entries, closing remarks."""
    sentence, *examples = [line.strip() for line in told.strip().split("\n") if line.strip()]
    lines = [Text(f"Usage: {usage}", "bold"), Text()] if usage else []
    lines += [*_folded(sentence, console.width), Text()]
    lines += [Text(f"  {example}", BAR) for example in examples]
    for title, entries in sections.items():
        lines += [Text(), Text(title, TITLE), *_rows(entries, console.width)]
    for remark in closing:
        lines += [Text(), *_folded(remark, console.width, "dim")]
    show(console, Text("\n").join(lines))


def _folded(text: str, width: int, style: str = "") -> list[Text]:
    return [Text(line, style) for line in fold(text, max(width, _LEAST)).split("\n")]


def _rows(entries: Sequence[HelpRow], width: int) -> list[Text]:
    """Returns the lines of entries in two columns. A name that is too long for its column is above its help text."""
    names = [Text("  ").append(name, "bold").append(f" {value}" if value else "") for name, value, _ in entries]
    fitting = max((name.cell_len for name in names if name.cell_len <= _LONGEST_NAME), default=0)
    wide = width >= _COLUMNS_FROM
    column = fitting + _GAP if wide else _BELOW
    lines = []
    for name, (_, _, told) in zip(names, entries, strict=True):
        first, *more = fold(told, max(width - column, _LEAST)).split("\n")
        if wide and name.cell_len <= fitting:
            lines.append(name.append(" " * (column - name.cell_len)).append(first))
        else:
            lines += [name, Text(" " * column + first)]
        lines += [Text(" " * column + line) for line in more]
    return lines
