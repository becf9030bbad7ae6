"""The screen of `--view grid`: every head's attention as a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.cells import block, map_colors, pool_by_maximum, pooled_reach, scale
from attncli.render.escape import fold, pad
from attncli.render.heading import of_attention, part_option, row_and_column, subject_document, subject_heading, titled

if TYPE_CHECKING:
    from attncli.explain.grid import Grid

_THUMBNAIL = 6  # cells across, at least


def grid_screen(finding: Grid, model: str, console: Console) -> RenderableType:
    """Returns every head's thumbnail, a block of lines for each layer."""
    subject, width = finding.subject, console.width
    colors = map_colors(console)
    across = max(1, min(subject.heads, (width - 3) // (_THUMBNAIL + 1)))  # thumbnails on a line
    room = max((width - 3) // across - 1, 1)
    again = math.ceil(finding.weights.shape[-1] / room)
    pool = finding.pool * again
    lines: list[Text] = []
    for layer in range(subject.layers):
        for first in range(0, subject.heads, across):
            heads = range(first, min(first + across, subject.heads))
            weights = {f"{layer}.{head}": pool_by_maximum(finding.weights[layer, head], again, again) for head in heads}
            lines += _thumbnails(weights, pooled_reach(subject.axes.reach, pool, pool), room, colors)
    size = "each cell is one weight" if pool == 1 else f"each cell: the largest of {pool} x {pool}"
    last = f"{part_option(subject.axes, 'cross')}--head {subject.layers - 1}.0"
    return Group(
        subject_heading(subject, model, width),
        Text(),
        titled(f"Every head{of_attention(subject.axes)}, layer.head", row_and_column(subject.axes), width),
        *lines,
        Text(),
        scale(colors),
        Text(fold(size, width), "dim"),
        Text(fold(f"More: --view map {last} · --view steps {last} · --json", width), "dim"),
    )


def _thumbnails(weights: dict[str, Floats], reach: Sequence[int], room: int, colors: str | None) -> list[Text]:
    """Returns the lines of thumbnails (P, Q) side by side, below their names.

    A weight is two cells wide if the thumbnail then fits into `room` cells, otherwise one cell wide.
    """
    side = next(iter(weights.values())).shape[1]
    wide = 2 if side * 2 <= room else 1
    lines = [Text("   " + "".join(pad(name, side * wide + 1) for name in weights).rstrip(), "dim")]
    for parts in zip(*(block(values, reach, wide, colors) for values in weights.values()), strict=True):
        line = Text("   ")
        for at, part in enumerate(parts):
            part.pad_right(side * wide - part.cell_len)
            line.append_text(part).append(" " if at + 1 < len(parts) else "")
        lines.append(line)
    return lines


def grid_document(finding: Grid, model: str) -> dict[str, Any]:
    """Returns the thumbnails as a JSON-ready dictionary: weights[layer][head][row][column]."""
    document = subject_document(finding.subject, model, "grid")
    return {**document, "pool": finding.pool, "weights": finding.weights.tolist()}
