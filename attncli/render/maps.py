"""Attention as a picture: one head's map in numbers or shades, and every head's thumbnail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats, rows_around
from attncli.render.escape import fold, pad, token_label
from attncli.render.heading import (
    LABEL,
    explanation_heading,
    explanation_heading_document,
    question_document,
    question_heading,
    titled,
)
from attncli.render.palette import heat
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.grid import Grid
    from attncli.explain.head_map import HeadMap

_MOST_LINES = 40  # of a map
_SHADES = "·░▒▓█"
_LEGEND = "· 0%  ░ up to 25%  ▒ 50%  ▓ 75%  █ 100%"
_THUMBNAIL = 6  # cells across, at least
_TWO_LABELS = 2 * LABEL + 1  # cells for the labels of two rows


def attention_map(pieces: Sequence[Piece], head: HeadMap, focus: int, console: Console) -> RenderableType:
    """One head, row looks at column: in numbers while they fit, else in cells; of a long text the rows there are."""
    if len(head.weights) < len(pieces):
        return _rows_around(pieces, head, focus, console)
    if len(pieces) <= (console.width - LABEL - 5) // 4:
        return _number_map(pieces, head.weights, focus, console)
    return _cell_map(pieces, head.weights, focus, console)


def _number_map(pieces: Sequence[Piece], weights: Floats, focus: int, console: Console) -> Table:
    """Two digits of per cent a cell; what the mask forbids is blank."""
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="left", no_wrap=True)
    for _ in pieces:
        table.add_column(justify="right", no_wrap=True, width=4)
    table.add_row("", *(Text(str(at), "dim") for at in range(len(pieces))))
    for row, piece in enumerate(pieces):
        label = Text(f"{row:>3} ", "dim").append(
            token_label(piece, LABEL) + " ", style="bold" if row == focus else "not dim"
        )
        values = [float(weights[row, column]) for column in range(row + 1)]
        table.add_row(
            label, *(Text(f"{round(value * 100):>3} ", heat(value, console.color_system)) for value in values)
        )
    return table


def _cell_map(pieces: Sequence[Piece], weights: Floats, focus: int, console: Console) -> Group:
    """A cell a weight, for more tokens than numbers fit; pooled by maximum where even those do not fit.

    With colours two rows a line, in half blocks; else a line for each row, in shades.
    """
    colors = _palette(console)
    count, each = len(pieces), 2 if colors else 1  # rows a line
    labels = _TWO_LABELS if colors and _room(console.width, _TWO_LABELS) >= 2 * count else _labels(console.width)
    room = _room(console.width, labels)
    pool = max(math.ceil(count / room), math.ceil(count / (each * _MOST_LINES)))
    pooled = pool_by_maximum(weights, pool, pool)
    wide = 2 if len(pooled) * 2 <= room else 1
    drawn = _half_blocks(pooled, wide, colors) if colors else _shades(pooled, wide)
    rows = [range(first, min(first + each * pool, count), pool) for first in range(0, count, each * pool)]
    legends = [f"each cell: the largest of {pool} x {pool}"] if pool > 1 else []
    return _labelled(
        [_row_label(pieces, line, labels, focus) for line in rows],
        [_ruler(len(pooled), pool, wide), *drawn],
        _legends(legends, colors),
        console.width,
    )


def _rows_around(pieces: Sequence[Piece], head: HeadMap, focus: int, console: Console) -> Group:
    """Single rows around the focus, for a text too long for all; columns pooled by maximum where they do not fit."""
    colors, labels = _palette(console), _labels(console.width)
    room = _room(console.width, labels)
    shown = rows_around(focus, len(pieces))
    first, last = shown.start, shown.stop
    pool = math.ceil(last / room)
    pooled = pool_by_maximum(head.weights[first - head.first_row : last - head.first_row, :last], 1, pool)
    wide = 2 if pooled.shape[1] * 2 <= room else 1
    seen = [values[: row // pool + 1] for row, values in enumerate(pooled, first)]
    drawn = [_colored_row(values, wide, colors) if colors else _shaded_row(values, wide) for values in seen]
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
    """Lines of cells beside their labels, the first without one, and the legends below the cells."""
    room = max(label.cell_len for label in labels) + 1
    lines = [Text(" " * room).append_text(drawn[0])]
    for label, cells in zip(labels, drawn[1:], strict=True):
        label.pad_right(room - label.cell_len)
        lines.append(label.append_text(cells))
    for legend in legends:
        legend.truncate(width, overflow="ellipsis")
        lines.append(Text(" " * min(room, width - legend.cell_len)).append_text(legend))
    return Group(*lines)


def _palette(console: Console) -> str | None:
    """The colours that a terminal has, where a palette can be shown in them: with 16 the cells would look alike."""
    return console.color_system if console.color_system in ("truecolor", "256") else None


def _labels(width: int) -> int:
    """Cells for the label of a row."""
    return min(LABEL, max(width - 12, 1))


def _room(width: int, labels: int) -> int:
    """Cells beside the labels and the indices."""
    return max(width - labels - 6, 1)


def _row_label(pieces: Sequence[Piece], rows: range, labels: int, focus: int) -> Text:
    """The index of the first of the rows of a line, and the tokens of all of them."""
    line = Text().append(f"{rows[0]:>4} ", "dim")
    each = (labels + 1) // len(rows) - 1
    for at, row in enumerate(rows):
        line.append(" " if at else "").append(token_label(pieces[row], each), "bold" if row == focus else None)
    return line


def _shaded_row(values: Floats, wide: int) -> Text:
    """A shade a cell, each a quarter of the scale."""
    shades = (_SHADES[math.ceil(value * 4 - 0.05) if value > 0.0125 else 0] for value in values)
    return Text("".join(shade.ljust(wide, " " if shade == "·" else shade) for shade in shades), "cyan")


def _shades(values: Floats, wide: int) -> list[Text]:
    """A head's weights (P, P) in shades, a line a row; what the mask forbids is blank."""
    return [_shaded_row(row[: at + 1], wide) for at, row in enumerate(values)]


def _colored_row(values: Floats, wide: int, colors: str) -> Text:
    """A cell's ground in the colour of its value."""
    line = Text()
    for value in values:
        line.append(" " * wide, Style(bgcolor=heat(float(value), colors).bgcolor))
    return line


def _half_blocks(values: Floats, wide: int, colors: str) -> list[Text]:
    """A head's weights (P, P) in colours, two rows a line; what the mask forbids is blank."""
    side, lines = len(values), []
    for row in range(0, side, 2):
        line = Text()
        for column in range(min(row + 2, side)):
            upper = heat(float(values[row, column]), colors).bgcolor if column <= row else None
            lower = heat(float(values[row + 1, column]), colors).bgcolor if row + 1 < side else None
            line.append(("▀" if upper else "▄") * wide, Style(color=upper or lower, bgcolor=lower if upper else None))
        lines.append(line)
    return lines


def _legends(legends: Sequence[str], colors: str | None) -> list[Text]:
    """The scale, and what else is to know of the cells."""
    return [_scale(colors), *(Text(legend, "dim") for legend in legends)]


def pool_by_maximum(weights: Floats, down: int, across: int) -> Floats:
    """(R, C) -> (ceil(R / down), ceil(C / across)), the maximum of each block: a mean would hide sharp peaks."""
    rows, columns = (math.ceil(size / by) for size, by in zip(weights.shape, (down, across), strict=True))
    padded = np.zeros((rows * down, columns * across))
    padded[: weights.shape[0], : weights.shape[1]] = weights
    pooled: Floats = padded.reshape(rows, down, columns, across).max((1, 3))
    return pooled


def _ruler(columns: int, pool: int, wide: int) -> Text:
    """Token indices above every few columns, each whole or not at all."""
    line = ""
    for column in range(0, columns, 5):
        at = str(column * pool)
        start = column * wide
        if start >= len(line) + bool(line) and start + len(at) <= columns * wide:
            line = line.ljust(start) + at
    return Text(line, style="dim")


def head_title(found: Explanation, width: int) -> Text:
    """Which head the map is of, why, and how much of a previous-token head it is on this text."""
    head, unit = found.map, found.unit
    facts = "row looks at column, % of row"
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = (f"{value:.2f}".lstrip("0") for value in (head.previous_token, head.previous_token_chance))
        facts += f" · looks at the {unit} before: {score}, chance {chance}"
    name = f"{head.layer}.{head.head}"
    if head.asked_for:
        return titled(f"Head {name}", facts, width)
    if len(found.pieces) == 1:
        return titled(f"Head {name}: there is only one {unit}", facts, width)
    if found.sources.focus == 0:
        return titled(f"Head {name}: no head brings anything from {others(found)}", facts, width)
    return titled(f"Busiest head {name}: it brings most from {others(found)}", facts, width)


def others(found: Explanation) -> str:
    """The sources by which the busiest head is chosen: where idle heads look is not counted."""
    return f"other {found.unit}s" + (", the first aside" if found.sources.first_is_apart else "")


def map_screen(found: Explanation, model: str, console: Console) -> RenderableType:
    """`--view map`: one head, every row on its own; of a long text those around the focus."""
    width, focus = console.width, found.sources.focus
    cells = (width - LABEL - 5) // 4
    drawn = (
        _number_map(found.pieces, found.map.weights, focus, console)
        if len(found.pieces) <= cells and len(found.map.weights) == len(found.pieces)
        else _rows_around(found.pieces, found.map, focus, console)
    )
    return Group(explanation_heading(found, model, width), Text(), head_title(found, width), drawn)


def map_document(found: Explanation, model: str) -> dict[str, Any]:
    """The same for programs: every row that was found."""
    document = explanation_heading_document(found, model)
    return {"view": "map", **document, "focus": found.sources.focus, "map": head_document(found.map)}


def head_document(head: HeadMap) -> dict[str, Any]:
    """One head's map, for programs."""
    return {
        "layer": head.layer,
        "head": head.head,
        "first_row": head.first_row,
        "weights": head.weights.tolist(),
        "previous_token": head.previous_token,
        "previous_token_chance": head.previous_token_chance,
    }


def grid_screen(found: Grid, model: str, console: Console) -> RenderableType:
    """`--view grid`: a thumbnail for every head, layers downwards."""
    asked, width = found.question, console.width
    cells = found.weights.shape[-1]
    across = max(1, min(asked.heads, (width - 3) // (_THUMBNAIL + 1)))  # thumbnails on a line
    room = max((width - 3) // across - 1, 1)
    again = math.ceil(cells / room)
    side, pool = math.ceil(cells / again), found.pool * again
    wide = 2 if side * 2 <= room else 1
    colors = _palette(console)
    lines: list[Text] = []
    for layer in range(asked.layers):
        for first in range(0, asked.heads, across):
            heads = range(first, min(first + across, asked.heads))
            thumbnails = [
                _thumbnail(pool_by_maximum(found.weights[layer, head], again, again), wide, colors) for head in heads
            ]
            names = "".join(pad(f"{layer}.{head}", side * wide + 1) for head in heads)
            lines.append(Text("   " + names.rstrip(), "dim"))
            for parts in zip(*thumbnails, strict=True):
                line = Text("   ")
                for at, part in enumerate(parts):
                    line.append_text(part).append(" " if at + 1 < len(parts) else "")
                lines.append(line)
    size = "each cell is one weight" if pool == 1 else f"each cell: the largest of {pool} x {pool}"
    scale = _scale(colors)
    more = f"More: --view map --head {asked.layers - 1}.0 · --view steps --head {asked.layers - 1}.0 · --json"
    return Group(
        question_heading(asked, model, width),
        Text(),
        titled("Every head, layer.head", "row looks at column", width),
        *lines,
        Text(),
        scale,
        Text(fold(size, width), "dim"),
        Text(fold(more, width), "dim"),
    )


def _thumbnail(values: Floats, wide: int, colors: str | None) -> list[Text]:
    """A head's weights (P, P): with colours two rows a line in half blocks, else a shade a cell; all lines as wide."""
    lines = _half_blocks(values, wide, colors) if colors else _shades(values, wide)
    for line in lines:
        line.pad_right(len(values) * wide - line.cell_len)
    return lines


def _scale(colors: str | None) -> Text:
    """The legend: linear, from nothing to all of a row."""
    if colors is None:
        return Text(_LEGEND, "dim")
    text = Text("0% ", "dim")
    for step in range(11):
        text.append(" ", heat(step / 10, colors))
    return text.append(" 100% of a row", "dim")


def grid_document(found: Grid, model: str) -> dict[str, Any]:
    """The same for programs: weights[layer][head][row][column]."""
    return {**question_document(found.question, model, "grid"), "pool": found.pool, "weights": found.weights.tolist()}
