"""Draws one head's attention as a map, in numbers or cells: row attends to column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import MapAxes, rows_around
from attncli.render.cells import block, map_colors, pool_by_maximum, pooled_reach, row_of_cells, scale
from attncli.render.escape import token_label
from attncli.render.heading import (
    LABEL,
    explanation_heading,
    explanation_heading_document,
    of_attention,
    row_and_column,
    titled,
)
from attncli.render.palette import FOCUS, heat
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.head_map import HeadMap

_MOST_LINES = 40  # the most lines of text of a map
_TWO_LABELS = 2 * LABEL + 1  # cells for the labels of two rows


def attention_map(head: HeadMap, focus: int, console: Console) -> RenderableType:
    """Draws one head's map in numbers if they fit, otherwise in cells. In a long text, draws only the computed rows."""
    rows, columns = len(head.axes.rows), len(head.axes.columns)
    if len(head.weights) < rows:
        return _rows_around(head, focus, console)
    if columns <= (console.width - LABEL - 5) // 4 and rows <= _MOST_LINES:
        return _number_map(head, focus, console)
    return _cell_map(head, focus, console)


def _number_map(head: HeadMap, focus: int, console: Console) -> Table:
    """Returns a table of the weights in per cent. Masked cells are blank."""
    axes = head.axes
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="left", no_wrap=True)
    for _ in axes.columns:
        table.add_column(justify="right", no_wrap=True, width=4)
    table.add_row("", *(Text(str(at), "dim") for at in range(len(axes.columns))))
    if not axes.squared:
        table.add_row("", *(Text(_short(piece), "dim") for piece in axes.columns))
    for row, piece in enumerate(axes.rows):
        label = Text(f"{axes.row_index(row):>3} ", "dim").append(
            token_label(piece, LABEL) + " ", style=FOCUS if row == focus else "not dim"
        )
        values = [float(weight) for weight in head.weights[row, : axes.reach[row]]]
        table.add_row(label, *(Text(str(round(value * 100)), heat(value, console.color_system)) for value in values))
    return table


def _short(piece: Piece) -> str:
    """Returns the first three cells of a token's label, without the sign of a leading space."""
    label = token_label(piece)
    label = label[1:] if label.startswith("␣") and len(label) > 1 else label
    while cell_len(label) > 3:
        label = label[:-1]
    return label


def _cell_map(head: HeadMap, focus: int, console: Console) -> Group:
    """Draws a head's weights as cells, for a map whose numbers do not fit the screen.

    A cell shows one weight or, if there are too many weights, the maximum of a block of weights.
    """
    colors, axes = map_colors(console), head.axes
    count, columns, each = len(axes.rows), len(axes.columns), 2 if colors else 1  # `each`: rows on a line
    labels = _TWO_LABELS if colors and _room(console.width, _TWO_LABELS) >= 2 * columns else _labels(console.width)
    room = _room(console.width, labels)
    pool = max(math.ceil(columns / room), math.ceil(count / (each * _MOST_LINES)))
    pooled = pool_by_maximum(head.weights, pool, pool)
    wide = 2 if pooled.shape[1] * 2 <= room else 1
    drawn = block(pooled, pooled_reach(axes.reach, pool, pool), wide, colors)
    rows = [range(first, min(first + each * pool, count), pool) for first in range(0, count, each * pool)]
    legends = [f"each cell: the largest of {pool} x {pool}"] if pool > 1 else []
    return _labelled(
        [_row_label(axes, line, labels, focus) for line in rows],
        [_ruler(pooled.shape[1], pool, wide), *drawn],
        _legends([*_columns_named(axes, console.width), *legends], colors),
        console.width,
    )


def _rows_around(head: HeadMap, focus: int, console: Console) -> Group:
    """Draws only the rows around the focus, for a map with too many rows.

    If the columns do not fit, a cell shows the maximum of several columns.
    """
    colors, labels, axes = map_colors(console), _labels(console.width), head.axes
    room = _room(console.width, labels)
    shown = rows_around(focus, len(axes.rows))
    last = max(axes.reach[row] for row in shown)
    pool = math.ceil(last / room)
    pooled = pool_by_maximum(head.weights[shown.start - head.first_row : shown.stop - head.first_row, :last], 1, pool)
    wide = 2 if pooled.shape[1] * 2 <= room else 1
    seen = [values[: math.ceil(axes.reach[row] / pool)] for row, values in zip(shown, pooled, strict=True)]
    drawn = [row_of_cells(values, wide, colors) for values in seen]
    ends = axes.row_index(shown.start), axes.row_index(shown.stop - 1)
    legends = [*_columns_named(axes, console.width), f"rows {ends[0]} to {ends[1]} of {len(axes.rows)}"]
    if pool > 1:
        legends.append(f"each cell: the largest of {pool} columns")
    return _labelled(
        [_row_label(axes, range(row, row + 1), labels, focus) for row in shown],
        [_ruler(pooled.shape[1], pool, wide), *drawn],
        _legends(legends, colors),
        console.width,
    )


def _columns_named(axes: MapAxes, width: int) -> list[str]:
    """Returns lines that name the columns of a map whose rows are other tokens; none for a square map."""
    if axes.squared:
        return []
    lines = ["columns:"]
    for at, piece in enumerate(axes.columns):
        name = f" {at} {token_label(piece, LABEL)}"
        if cell_len(lines[-1] + name) <= width:
            lines[-1] += name
        else:
            lines.append(name.lstrip())
    return lines


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


def _row_label(axes: MapAxes, rows: range, labels: int, focus: int) -> Text:
    """Returns the label of a line: the index of its first row, and the tokens of all its rows."""
    line = Text().append(f"{axes.row_index(rows[0]):>4} ", "dim")
    each = (labels + 1) // len(rows) - 1
    for at, row in enumerate(rows):
        line.append(" " if at else "").append(token_label(axes.rows[row], each), FOCUS if row == focus else None)
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
    facts = f"{row_and_column(head.axes)}, % of row"
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = (f"{value:.2f}".lstrip("0") for value in (head.previous_token, head.previous_token_chance))
        facts += f" · looks at the {unit} before: {score}, chance {chance}"
    name = f"{head.layer}.{head.head}{of_attention(head.axes)}"
    if head.aligning is not None:
        why = "it agrees best with the predictions" if head.agrees else "sharp, and covers the source"
        return titled(f"Aligning head {name}: {why}", facts, width)
    if head.asked_for:
        return titled(f"Head {name}", facts, width)
    if len(finding.pieces) == 1:
        return titled(f"Head {name}: there is only one {unit}", facts, width)
    if finding.sources.reach == 1:
        return titled(f"Head {name}: no head brings anything from {others(finding)}", facts, width)
    return titled(f"Busiest head {name}: it brings most from {others(finding)}", facts, width)


def others(finding: Explanation) -> str:
    """Names the sources whose contributions decide which head is busiest: 'other tokens, the first aside'.

    Sources that are listed separately are left out, because idle heads attend to them.
    """
    special = "the first" if finding.axes.predicts_next else "special tokens"
    return f"other {finding.unit}s" + (f", {special} aside" if finding.sources.apart else "")


def map_screen(finding: Explanation, model: str, console: Console) -> RenderableType:
    """Returns the screen of `--view map`: one head's map, with one row on each line.

    In a long text, only the rows around the focus are shown.
    """
    width, focus, head = console.width, finding.sources.focus, finding.map
    rows, columns = len(head.axes.rows), len(head.axes.columns)
    numbers = columns <= (width - LABEL - 5) // 4 and rows <= _MOST_LINES and len(head.weights) == rows
    drawn = (_number_map if numbers else _rows_around)(head, focus, console)
    return Group(explanation_heading(finding, model, width), Text(), head_title(finding, width), drawn)


def map_document(finding: Explanation, model: str) -> dict[str, Any]:
    """Returns the map as a JSON-ready dictionary, with every row that was computed."""
    document = explanation_heading_document(finding, model)
    focus = finding.axes.row_index(finding.sources.focus)
    return {"view": "map", **document, "focus": focus, "map": head_document(finding.map)}


def head_document(head: HeadMap) -> dict[str, Any]:
    """Returns one head's map as a JSON-ready dictionary."""
    by = "predictions" if head.agrees else "sharpness"
    chosen = {} if head.aligning is None else {"aligning": head.aligning, "aligning_by": by}
    return {
        "layer": head.layer,
        "head": head.head,
        "first_row": head.axes.row_index(head.first_row),
        "weights": head.weights.tolist(),
        "previous_token": head.previous_token,
        "previous_token_chance": head.previous_token_chance,
        **chosen,
    }
