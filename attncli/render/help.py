"""The first page of help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_NAME_WIDTH = 22


def first_page(sentence: str, sections: Mapping[str, Sequence[tuple[str, str]]]) -> RenderableType:
    """A sentence, examples, then sections of (name, what it does)."""
    first, *examples = [line.strip() for line in sentence.strip().split("\n") if line.strip()]
    parts: list[RenderableType] = [Text(first), Text()]
    parts += [Text(f"  {line}", style="cyan") for line in examples]
    for title, rows in sections.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=10 if title != "Options" else _NAME_WIDTH)
        table.add_column(overflow="fold")
        for name, text in rows:
            table.add_row(Text(f"  {name}", style="bold"), Text(text))
        parts += [Text(), Text(title, style="bold cyan"), table]
    return Group(*parts, Text(), Text("attncli COMMAND --help explains a command, with examples.", style="dim"))
