"""Draws attention weights as the cells of a map, in shades, colors or half blocks, and draws the legend.

A weight from 0 to 1 is drawn in 24-bit or 256 colors if the terminal has them, otherwise in five shades. Masked cells
are blank, so that they differ from a weight of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.style import Style
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.palette import BAR, heat

_SHADES = "·░▒▓█"
_LEGEND = "· 0%  ░ up to 25%  ▒ 50%  ▓ 75%  █ 100%"


def map_colors(console: Console) -> str | None:
    """Returns the color system of a terminal; None if it has fewer than 256 colors.

    With 16 colors, different weights would look alike.
    """
    return console.color_system if console.color_system in ("truecolor", "256") else None


def _shaded_row(values: Floats, wide: int) -> Text:
    """Returns one shade for each weight, in steps of a quarter."""
    shades = (_SHADES[math.ceil(value * 4 - 0.05) if value > 0.0125 else 0] for value in values)
    return Text("".join(shade.ljust(wide, " " if shade == "·" else shade) for shade in shades), BAR)


def _shades(values: Floats, reach: Sequence[int], wide: int) -> list[Text]:
    """Draws a head's weights (P, Q) as shades, one row of weights per line."""
    return [_shaded_row(row[:end], wide) for row, end in zip(values, reach, strict=True)]


def _colored_row(values: Floats, wide: int, colors: str) -> Text:
    """Returns one cell for each weight, with the color of its value as the background."""
    line = Text()
    for value in values:
        line.append(" " * wide, Style(bgcolor=heat(float(value), colors).bgcolor))
    return line


def _half_blocks(values: Floats, reach: Sequence[int], wide: int, colors: str) -> list[Text]:
    """Draws a head's weights (P, Q) in colors, two rows of weights per line."""
    lines = []
    for row in range(0, len(values), 2):
        line, ends = Text(), (reach[row], reach[row + 1] if row + 1 < len(values) else 0)
        for column in range(max(ends)):
            upper = heat(float(values[row, column]), colors).bgcolor if column < ends[0] else None
            lower = heat(float(values[row + 1, column]), colors).bgcolor if column < ends[1] else None
            line.append(("▀" if upper else "▄") * wide, Style(color=upper or lower, bgcolor=lower if upper else None))
        lines.append(line)
    return lines


def pool_by_maximum(weights: Floats, down: int, across: int) -> Floats:
    """Returns the maximum of each block: (R, C) -> (ceil(R / down), ceil(C / across)).

    The mean of a block would hide sharp peaks.
    """
    rows, columns = (math.ceil(size / by) for size, by in zip(weights.shape, (down, across), strict=True))
    padded = np.zeros((rows * down, columns * across))
    padded[: weights.shape[0], : weights.shape[1]] = weights
    pooled: Floats = padded.reshape(rows, down, columns, across).max((1, 3))
    return pooled


def scale(colors: str | None) -> Text:
    """Returns the legend: a linear scale from 0% to 100% of a row."""
    if colors is None:
        return Text(_LEGEND, "dim")
    text = Text("0% ", "dim")
    for step in range(11):
        text.append(" ", heat(step / 10, colors))
    return text.append(" 100% of a row", "dim")


def block(values: Floats, reach: Sequence[int], wide: int, colors: str | None) -> list[Text]:
    """Draws a head's weights (P, Q). The first `reach[i]` cells of row i are not masked.

    With colors, each line of text shows two rows as half blocks. Without colors, each line shows one row as shades.
    """
    return _half_blocks(values, reach, wide, colors) if colors else _shades(values, reach, wide)


def pooled_reach(reach: Sequence[int], down: int, across: int) -> list[int]:
    """Returns the number of cells that are not masked in each row of a map that `pool_by_maximum` returns."""
    return [math.ceil(max(reach[row : row + down]) / across) for row in range(0, len(reach), down)]


def row_of_cells(values: Floats, wide: int, colors: str | None) -> Text:
    """Returns one row of weights, one cell for each weight."""
    return _colored_row(values, wide, colors) if colors else _shaded_row(values, wide)
