"""Draws one head's attention as a map, in numbers or cells: row attends to column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats, rows_around
from attncli.render.cells import map_colors, pool_by_maximum, row_of_cells, scale, square
from attncli.render.escape import token_label
from attncli.render.heading import LABEL, explanation_heading, explanation_heading_document, titled
from attncli.render.palette import FOCUS, heat
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.head_map import HeadMap

_MOST_LINES = 40  # the most lines of text of a map
_TWO_LABELS = 2 * LABEL + 1  # cells for the labels of two rows


def attention_map(pieces: Sequence[Piece], head: HeadMap, focus: int, console: Console) -> RenderableType:
    """Draws one head's map in numbers if they fit, otherwise in cells. In a long text, draws only the computed rows."""
    if len(head.weights) < len(pieces):
        return _rows_around(pieces, head, focus, console)
    if len(pieces) <= (console.width - LABEL - 5) // 4:
        return _number_map(pieces, head.weights, focus, console)
    return _cell_map(pieces, head.weights, focus, console)


def _number_map(pieces: Sequence[Piece], weights: Floats, focus: int, console: Console) -> Table:
    """Returns a table of the weights in per cent. Masked cells are blank."""
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="left", no_wrap=True)
    for _ in pieces:
        table.add_column(justify="right", no_wrap=True, width=4)
    table.add_row("", *(Text(str(at), "dim") for at in range(len(pieces))))
    for row, piece in enumerate(pieces):
        label = Text(f"{row:>3} ", "dim").append(
            token_label(piece, LABEL) + " ", style=FOCUS if row == focus else "not dim"
        )
        values = [float(weights[row, column]) for column in range(row + 1)]
        table.add_row(label, *(Text(str(round(value * 100)), heat(value, console.color_system)) for value in values))
    return table


def _cell_map(pieces: Sequence[Piece], weights: Floats, focus: int, console: Console) -> Group:
    """Draws a head's weights as cells, for a map whose numbers do not fit the screen.

    A cell shows one weight or, if there are too many weights, the maximum of a block of weights.
    """
    colors = map_colors(console)
    count, each = len(pieces), 2 if colors else 1  # `each`: rows on a line
    labels = _TWO_LABELS if colors and _room(console.width, _TWO_LABELS) >= 2 * count else _labels(console.width)
    room = _room(console.width, labels)
    pool = max(math.ceil(count / room), math.ceil(count / (each * _MOST_LINES)))
    pooled = pool_by_maximum(weights, pool, pool)
    wide = 2 if len(pooled) * 2 <= room else 1
    drawn = square(pooled, wide, colors)
    rows = [range(first, min(first + each * pool, count), pool) for first in range(0, count, each * pool)]
    legends = [f"each cell: the largest of {pool} x {pool}"] if pool > 1 else []
    return _labelled(
        [_row_label(pieces, line, labels, focus) for line in rows],
        [_ruler(len(pooled), pool, wide), *drawn],
        _legends(legends, colors),
        console.width,
    )


def _rows_around(pieces: Sequence[Piece], head: HeadMap, focus: int, console: Console) -> Group:
    """Draws only the rows around the focus, for a map with too many rows.

    If the columns do not fit, a cell shows the maximum of several columns.
    """
    colors, labels = map_colors(console), _labels(console.width)
    room = _room(console.width, labels)
    shown = rows_around(focus, len(pieces))
    first, last = shown.start, shown.stop
    pool = math.ceil(last / room)
    pooled = pool_by_maximum(head.weights[first - head.first_row : last - head.first_row, :last], 1, pool)
    wide = 2 if pooled.shape[1] * 2 <= room else 1
    seen = [values[: row // pool + 1] for row, values in enumerate(pooled, first)]
    drawn = [row_of_cells(values, wide, colors) for values in seen]
    legends = [f"rows {first} to {last - 1} of {len(pieces)}"]
    if pool > 1:
        legends.append(f"each cell: the largest of {pool} columns")
    return _labelled(
        [_row_label(pieces, range(row, row + 1), labels, focus) for row in shown],
        [_ruler(pooled.shape[1], pool, wide), *drawn],
        _legends(legends, colors),
        console.width,
    )


def _labelled(labels: Sequence[Text], drawn: Sequence[Text], legends: Sequence[Text], width: int) -> Group:
    """Returns lines of cells beside their labels, then legends. The first line is the ruler, which has no label."""
    room = max(label.cell_len for label in labels) + 1
    lines = [Text(" " * room).append_text(drawn[0])]
    for label, cells in zip(labels, drawn[1:], strict=True):
        label.pad_right(room - label.cell_len)
        lines.append(label.append_text(cells))
    for legend in legends:
        legend.truncate(width, overflow="ellipsis")
        lines.append(Text(" " * min(room, width - legend.cell_len)).append_text(legend))
    return Group(*lines)


def _labels(width: int) -> int:
    """Returns the width of a row's label, in cells."""
    return min(LABEL, max(width - 12, 1))


def _room(width: int, labels: int) -> int:
    """Returns the width that labels and indices leave for the map, in cells."""
    return max(width - labels - 6, 1)


def _row_label(pieces: Sequence[Piece], rows: range, labels: int, focus: int) -> Text:
    """Returns the label of a line: the index of its first row, and the tokens of all its rows."""
    line = Text().append(f"{rows[0]:>4} ", "dim")
    each = (labels + 1) // len(rows) - 1
    for at, row in enumerate(rows):
        line.append(" " if at else "").append(token_label(pieces[row], each), FOCUS if row == focus else None)
    return line


def _legends(legends: Sequence[str], colors: str | None) -> list[Text]:
    """Returns the legend of the scale, then the given legends."""
    return [scale(colors), *(Text(legend, "dim") for legend in legends)]


def _ruler(columns: int, pool: int, wide: int) -> Text:
    """Returns the line of token indices above every fifth column. An index that does not fit is left out."""
    line = ""
    for column in range(0, columns, 5):
        at = str(column * pool)
        start = column * wide
        if start >= len(line) + bool(line) and start + len(at) <= columns * wide:
            line = line.ljust(start) + at
    return Text(line, style="dim")


def head_title(finding: Explanation, width: int) -> Text:
    """Returns the title of the map: the head, why it is shown, and its previous-token score on this text."""
    head, unit = finding.map, finding.unit
    facts = "row looks at column, % of row"
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = (f"{value:.2f}".lstrip("0") for value in (head.previous_token, head.previous_token_chance))
        facts += f" · looks at the {unit} before: {score}, chance {chance}"
    name = f"{head.layer}.{head.head}"
    if head.asked_for:
        return titled(f"Head {name}", facts, width)
    if len(finding.pieces) == 1:
        return titled(f"Head {name}: there is only one {unit}", facts, width)
    if finding.sources.focus == 0:
        return titled(f"Head {name}: no head brings anything from {others(finding)}", facts, width)
    return titled(f"Busiest head {name}: it brings most from {others(finding)}", facts, width)


def others(finding: Explanation) -> str:
    """Names the sources whose contributions decide which head is busiest: 'other tokens, the first aside'.

    The first token is left out if it is listed separately, because idle heads attend to it.
    """
    return f"other {finding.unit}s" + (", the first aside" if finding.sources.first_is_apart else "")


def map_screen(finding: Explanation, model: str, console: Console) -> RenderableType:
    """Returns the screen of `--view map`: one head's map, with one row on each line.

    In a long text, only the rows around the focus are shown.
    """
    width, focus = console.width, finding.sources.focus
    cells = (width - LABEL - 5) // 4
    drawn = (
        _number_map(finding.pieces, finding.map.weights, focus, console)
        if len(finding.pieces) <= cells and len(finding.map.weights) == len(finding.pieces)
        else _rows_around(finding.pieces, finding.map, focus, console)
    )
    return Group(explanation_heading(finding, model, width), Text(), head_title(finding, width), drawn)


def map_document(finding: Explanation, model: str) -> dict[str, Any]:
    """Returns the map as a JSON-ready dictionary, with every row that was computed."""
    document = explanation_heading_document(finding, model)
    return {"view": "map", **document, "focus": finding.sources.focus, "map": head_document(finding.map)}


def head_document(head: HeadMap) -> dict[str, Any]:
    """Returns one head's map as a JSON-ready dictionary."""
    return {
        "layer": head.layer,
        "head": head.head,
        "first_row": head.first_row,
        "weights": head.weights.tolist(),
        "previous_token": head.previous_token,
        "previous_token_chance": head.previous_token_chance,
    }
