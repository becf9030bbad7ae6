"""Draws curves in the cells of a terminal: as Braille dots, or in ASCII if Braille cannot be shown.

This module computes the scales, the ticks and the dots. It does not depend on training: a curve consists of points, a
style, and optionally a character that marks each point.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from attncli.render.escape import fit
from attncli.render.numbers import count, duration

Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]
Interval = tuple[float, float]  # the least and the greatest value

STEPS, TOKENS, TIME = "steps", "tokens", "time"  # what the x axis shows; also its label
_DIM = Style(dim=True)
_LARGEST = 1e300  # larger values are clipped, so that no difference overflows
_BEGINNING = 0.1  # the share of a curve that counts as its start, which may be cut off
_MARGIN = 0.05
_WORTH_CUTTING = 1.3  # the start is cut off only if the rest is then drawn this many times larger
_HIGHEST = 98  # per cent of the points after the start that are always shown
_ROWS_PER_TICK, _CELLS_PER_TICK = 3, 14
_SMALLEST_PLOT = 12, 3  # cells across and down; a smaller chart has no axes
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Curve:
    """A curve: its points in the order of x.

    The points are joined by a line. If there is a `sign`, the sign marks each point instead. `end` marks the end of a
    line.
    """

    x: Floats
    y: Floats
    style: str
    sign: str = ""
    end: str = ""


@dataclass(frozen=True)
class _Look:
    """Maps the dots of a cell to a character. Each dot has a weight; the sum of the weights is an index in `glyphs`."""

    weights: Codes  # (high, wide)
    glyphs: Codes  # the character of each code; a cell without dots is a space
    vertical: str
    horizontal: str
    corner: str
    tick_left: str
    tick_below: str
    cut: str


_BRAILLE = _Look(
    np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint32),
    np.array([0x20, *range(0x2801, 0x2900)], np.uint32),
    *"│─└┤┬↑",
)
_ASCII = _Look(np.array([[1], [2]], np.uint32), np.array([ord(sign) for sign in " '.:"], np.uint32), *"|-+++^")


class Picture:
    """Rows of styled text for a console. No row is wrapped."""

    def __init__(self, rows: Sequence[list[Segment]]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in self.rows:
            yield from row
            yield Segment.line()

    @property
    def lines(self) -> list[str]:
        """The rows without their styles."""
        return ["".join(segment.text for segment in row) for row in self.rows]


def ascii_only(console: Console) -> bool:
    """Whether a console can show only ASCII characters, according to its encoding or the locale."""
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    return console.options.ascii_only or locale in ("C", "POSIX")


def styled_row(pieces: Sequence[tuple[str, str]], width: int) -> list[Segment]:
    """Returns the given styled texts as one row, cut or padded to exactly `width` cells."""
    row, room = [], width
    for text, style in pieces:
        if room and text:
            row.append(Segment(fit(text, room), Style.parse(style)))
            room -= row[-1].cell_length
    return [*row, Segment(" " * room)]


def chart(
    curves: Sequence[Curve],
    width: int,
    height: int,
    *,
    heading: Sequence[tuple[str, str]],
    along: str = STEPS,
    reaches: float = 0.0,
    ascii: bool = False,
) -> Picture:
    """Draws curves over two axes, in exactly `width` x `height` cells.

    Args:
        curves: the curves to draw; a later curve covers an earlier one. Points that are not finite are left out.
        width: in cells.
        height: in cells, with one row for the heading and two for the x axis, if they fit.
        heading: what the y axis shows, as (text, style). A note follows when the start of a curve is cut off.
        along: what the x axis shows: STEPS, TOKENS or TIME in seconds.
        reaches: a value that the x axis contains, even if all curves end before it.
        ascii: whether to use only ASCII characters.
    """
    look = _ASCII if ascii else _BRAILLE
    curves = [_finite(curve) for curve in curves]
    rows = max(height - 3, 0)
    x_span, (y_span, top) = _x_span(curves, reaches), visible_span(curves)
    y_ticks = _y_ticks(y_span, rows)
    y_labels = _number_labels(y_ticks)
    gutter = max(map(cell_len, y_labels), default=0) + 1
    if width - gutter - 1 < _SMALLEST_PLOT[0] or rows < _SMALLEST_PLOT[1]:
        return Picture(_plot(curves, width, height, x_span, y_span, look))
    cells = width - gutter - 1
    note = f"  {look.cut} starts at {top:.3g}" if top is not None else ""
    room = width - sum(cell_len(text) for text, _ in heading)
    drawn = [styled_row([*heading, (note if cell_len(note) <= room else "", "dim")], width)]
    ticks_at = _rows(np.array(y_ticks), y_span, rows, look).tolist()
    at_rows = dict(zip(ticks_at, y_labels, strict=True))
    for at, row in enumerate(_plot(curves, cells, rows, x_span, y_span, look)):
        edge = look.cut if at == 0 and top is not None else look.tick_left if at in at_rows else look.vertical
        drawn.append([Segment(f"{at_rows.get(at, ''):>{gutter}}{edge}", _DIM), *row])
    ruler, labels = _x_axis(x_span, along, cells, look)
    drawn.append([Segment(" " * gutter + look.corner + ruler, _DIM)])
    drawn.append([Segment(" " * (gutter + 1) + labels, _DIM)])
    return Picture(drawn)


def _finite(curve: Curve) -> Curve:
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = (np.clip(values[kept], -_LARGEST, _LARGEST) for values in (x, y))
    return replace(curve, x=x, y=y)


# Scales


def visible_span(curves: Sequence[Curve]) -> tuple[Interval, float | None]:
    """Returns the span of the y axis and, if the start of a curve is cut off, the greatest value of the curves.

    The greatest value is None if no start is cut off.
    """
    curves = [curve for curve in curves if len(curve.y)]
    if not curves:
        return (0.0, 1.0), None
    low, top = min(float(curve.y.min()) for curve in curves), max(float(curve.y.max()) for curve in curves)
    high = max(_high_after_beginning(curve) for curve in curves)
    margin = _MARGIN * (high - low)
    if high + margin > low and top - low > _WORTH_CUTTING * (high + margin - low):
        return _widened(low, high + margin), top
    return _widened(low, top), None


def _widened(low: float, high: float) -> Interval:
    """Returns the span, or a wider one if it is almost empty, so that dividing by its length is safe."""
    if high - low > 1e-9 * max(1.0, abs(low), abs(high)):
        return low, high
    around = _MARGIN * max(1.0, abs(low))
    return low - around, low + around


def _x_span(curves: Sequence[Curve], reaches: float) -> Interval:
    ends = [float(end) for curve in curves if len(curve.x) for end in (curve.x.min(), curve.x.max())]
    low, high = min([0.0, *ends]), max([reaches, *ends])
    return (low, high) if high - low > 1e-9 * max(1.0, abs(low), abs(high)) else (low, low + max(1.0, 0.1 * abs(low)))


def _high_after_beginning(curve: Curve) -> float:
    """Returns the highest value after the first tenth of the curve.

    For a line, returns a high percentile instead, to ignore outliers.
    """
    first, last = float(curve.x.min()), float(curve.x.max())
    late = curve.y[curve.x >= first + _BEGINNING * (last - first)]
    return float(late.max()) if curve.sign else float(np.percentile(late, _HIGHEST))


def _share(values: Floats, span: Interval) -> Floats:
    """Returns the position of values between the ends of a span, from 0 to 1."""
    shares: Floats = (values - span[0]) / (span[1] - span[0])
    return shares


def _columns(x: Floats, span: Interval, cells: int, look: _Look) -> NDArray[np.int64]:
    """Returns the columns of x values, counted from the left."""
    wide = look.weights.shape[1]
    dots = np.rint(_share(x, span) * (cells * wide - 1))
    cell: NDArray[np.int64] = (dots // wide).astype(np.int64)
    return cell


def _rows(y: Floats, span: Interval, cells: int, look: _Look) -> NDArray[np.int64]:
    """Returns the rows of y values, counted from the top. A value outside the span has a row outside the picture."""
    high = look.weights.shape[0]
    dots = np.rint((1 - np.clip(_share(y, span), -1, 2)) * (cells * high - 1))
    cell: NDArray[np.int64] = (dots // high).astype(np.int64)
    return cell


# Ticks


def _nice_step(span: Interval, wanted: int) -> float:
    """Returns a round distance between ticks, for at most about `wanted` ticks: 1, 2, 2.5 or 5 times a power of ten."""
    least = (span[1] - span[0]) / wanted
    power = 10.0 ** math.floor(math.log10(least))
    return next(nice * power for nice in _NICE if nice * power >= least * 0.999)


def _ticks(span: Interval, step: float) -> list[float]:
    """Returns the multiples of a step within a span."""
    first, last = math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9)
    return [at * step for at in range(first, last + 1)]


def _y_ticks(span: Interval, rows: int) -> list[float]:
    """Returns the ticks of the y axis: one for every few rows, and at least two."""
    wanted = max(rows // _ROWS_PER_TICK, 2)
    ticks = _ticks(span, _nice_step(span, wanted))
    return ticks if len(ticks) > 1 else _ticks(span, _nice_step(span, 2 * wanted))


def _number_labels(ticks: Sequence[float]) -> list[str]:
    """Returns labels with as many decimals as the values need, at most five: [2.5, 3.0] -> ['2.5', '3.0']."""
    largest = max(map(abs, ticks), default=0.0)
    if largest >= 1e5:
        return [f"{tick:.3g}" for tick in ticks]
    for decimals in range(1, 6):
        labels = [f"{tick:.{decimals}f}" for tick in ticks]
        if all(abs(float(label) - tick) <= 1e-6 * largest for label, tick in zip(labels, ticks, strict=True)):
            break
    return labels if ticks else []


def _clock(seconds: float) -> str:
    """Formats seconds as the label of a tick: 90 -> '1m 30s', 300 -> '5m', 7200 -> '2h'."""
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f}h"
    return f"{seconds / 60:.0f}m" if 60 <= seconds < 3600 and seconds % 60 == 0 else duration(seconds)


def _x_axis(span: Interval, along: str, cells: int, look: _Look) -> tuple[str, str]:
    """Returns two lines of `cells` cells: the x axis with its ticks, and the labels below it.

    The name of the axis is at the right end of the labels.
    """
    wanted = max(cells // _CELLS_PER_TICK, 1)
    labelled = _x_labels(span, along, cells, wanted, look)
    if len(labelled) < 2:
        labelled = _x_labels(span, along, cells, 2 * wanted, look)
    line, labels = look.horizontal * cells, ""
    for at, start, text in labelled:
        line = line[:at] + look.tick_below + line[at + 1 :]
        labels = labels.ljust(start) + text
    return line, labels.ljust(cells - len(along)) + along


def _x_labels(span: Interval, along: str, cells: int, wanted: int, look: _Look) -> list[tuple[int, int, str]]:
    """Returns the ticks whose labels fit: the cell of each, the cell where its label starts, and the label."""
    label: Callable[[float], str] = {TIME: _clock, TOKENS: count}.get(along, lambda step: f"{step:,.0f}")
    step = _nice_step(span, wanted)
    if along == TIME:
        step = next((nice for nice in _NICE_SECONDS if nice >= (span[1] - span[0]) / wanted), step)
    step = 5.0 if step == 2.5 else max(step, 1.0)  # whole steps, tokens and seconds
    labelled, end = [], -1
    for tick in _ticks(span, step):
        at = int(_columns(np.array(tick), span, cells, look))
        text = label(tick)
        start = max(at - len(text) // 2, 0)
        if start > end and start + len(text) < cells - len(along):
            labelled.append((at, start, text))
            end = start + len(text)
    return labelled


# Dots


def _plot(
    curves: Sequence[Curve], width: int, height: int, x_span: Interval, y_span: Interval, look: _Look
) -> list[list[Segment]]:
    """Returns the rows of the plot without axes, in `width` x `height` cells."""
    high, wide = look.weights.shape
    owners = np.full((height, width), -1)
    codes = np.zeros((height, width), np.uint32)
    if not (width and height):
        return [[] for _ in range(height)]
    for at, curve in enumerate(curves):
        if not curve.sign and len(curve.x):
            dots = _line(curve, width * wide, height * high, x_span, y_span)
            added = (dots.reshape(height, high, width, wide) * look.weights[None, :, None, :]).sum((1, 3), np.uint32)
            codes |= added
            owners[added > 0] = at
    characters = look.glyphs[codes]
    for at, curve in enumerate(curves):
        x, y = (curve.x, curve.y) if curve.sign else (curve.x[-1:], curve.y[-1:])
        sign = curve.sign or curve.end
        if sign:
            columns, rows = _columns(x, x_span, width, look), _rows(y, y_span, height, look)
            shown = (rows >= 0) & (rows < height)
            characters[rows[shown], columns[shown]] = ord(sign)
            owners[rows[shown], columns[shown]] = at
    styles = [Style.parse(curve.style) for curve in curves]
    return [_segments(characters[row], owners[row], styles) for row in range(height)]


def _line(curve: Curve, columns: int, rows: int, x_span: Interval, y_span: Interval) -> NDArray[np.bool_]:
    """Returns the dots (rows, columns) of a line.

    Each column has the mean of its points, joined to the next column.
    """
    at = np.rint(_share(curve.x, x_span) * (columns - 1)).astype(int)
    counts = np.bincount(at, minlength=columns)
    means = np.bincount(at, curve.y / counts[at], minlength=columns)
    known = np.flatnonzero(counts)
    drawn = np.arange(known[0], known[-1] + 1)
    level = (1 - _share(np.interp(drawn, known, means[known]), y_span)) * (rows - 1)
    middle = (level[1:] + level[:-1]) / 2
    before, after = np.concatenate([level[:1], middle]), np.concatenate([middle, level[-1:]])
    top = np.rint(np.minimum(level, np.minimum(before, after)))
    bottom = np.rint(np.maximum(level, np.maximum(before, after)))
    row = np.arange(rows)[:, None]
    dots = np.zeros((rows, columns), np.bool_)
    dots[:, drawn] = (row >= top) & (row <= bottom)
    return dots


def _segments(characters: Codes, owners: NDArray[np.int64], styles: Sequence[Style]) -> list[Segment]:
    """Splits a row into segments. Each segment is a stretch of cells that belong to the same curve."""
    text = characters.astype("<u4").tobytes().decode("utf-32-le")
    edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(text)]
    return [
        Segment(text[start:end], styles[owners[start]] if owners[start] >= 0 else None)
        for start, end in pairwise(edges)
    ]
