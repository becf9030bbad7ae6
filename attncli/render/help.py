"""Pages of help: the first one, and that of each command. No borders: a page is read at any width, in any terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from attncli.render.console import show
from attncli.render.escape import fold

_LONGEST_NAME = 26  # cells; what is longer stands on a line of its own
_COLUMNS_FROM = 60  # cells; in less room each help stands below its name
_GAP = 2
_BELOW = 6  # cells that a help below its name is indented by
_LEAST = 20  # cells for words, in however little room


Entry = tuple[str, str, str]  # what is typed, the name of the value it takes, and what it does
Sections = Mapping[str, Sequence[Entry]]


def show_page(console: Console, told: str, sections: Sections, closing: Sequence[str], usage: str = "") -> None:
    """Shows a page: how it is called, a sentence with examples below it, entries in sections, and closing remarks."""
    sentence, *examples = [line.strip() for line in told.strip().split("\n") if line.strip()]
    lines = [Text(f"Usage: {usage}", "bold"), Text()] if usage else []
    lines += [*_folded(sentence, console.width), Text()]
    lines += [Text(f"  {example}", "cyan") for example in examples]
    for title, entries in sections.items():
        lines += [Text(), Text(title, "bold cyan"), *_rows(entries, console.width)]
    for remark in closing:
        lines += [Text(), *_folded(remark, console.width, "dim")]
    show(console, Text("\n").join(lines))


def _folded(text: str, width: int, style: str = "") -> list[Text]:
    return [Text(line, style) for line in fold(text, max(width, _LEAST)).split("\n")]


def _rows(entries: Sequence[Entry], width: int) -> list[Text]:
    """Names on the left and their helps on the right; a name too long for that, or in little room, above its help."""
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
