"""Draws the curves of runs as an SVG or PNG file, with the optional dependency matplotlib.

Figures are drawn in memory; the caller writes the file. matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attncli.errors import UsageProblem
from attncli.render.chart import TIME, Curve, visible_span
from attncli.render.curves import UNITS, Axes
from attncli.render.escape import one_line
from attncli.render.watched import HEADING, along_axis, coinciding
from attncli.training.curves import Floats, RunCurves, RunHeads

FORMATS = ("svg", "png")
_INCHES = 8, 4.5
_DOTS_PER_INCH = 160
_MOST_POINTS = 2000  # of a line; if there are more points, neighbors are averaged
_LINE = 0.006  # the thickness of a line of 1.5 points, as a share of the height


def curves_figure(runs: Sequence[RunCurves], axes: Axes, kind: str) -> bytes:
    """Returns the content of a figure file. `kind` is one of FORMATS. Equal runs give equal bytes.

    Raises UsageProblem when matplotlib is not installed.
    """
    return _file(lambda plot: _draw(plot, runs, axes), kind)


def watched_figure(run: RunHeads, along: str, kind: str) -> bytes:
    """Returns the content of a figure file with the head curves of a run. Raises errors as `curves_figure` does."""
    return _file(lambda plot: _draw_heads(plot, run, along), kind)


def _file(draw: Callable[[Any], None], kind: str) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageProblem(
            "Drawing to a file needs matplotlib, which is not installed.", "Install it: pip install 'attncli[plot]'"
        ) from None
    settings: Any = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "attncli",  # the same bytes every time
        "text.parse_math": False,  # names are not formulas
        "text.usetex": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about letters that the font lacks
        figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        draw(figure.add_subplot())
        written = io.BytesIO()
        figure.savefig(written, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return written.getvalue()


def _draw(plot: Any, runs: Sequence[RunCurves], axes: Axes) -> None:
    handles, labels, curves = [], [], []
    for at, run in enumerate(runs):
        color = f"C{at % 10}"
        x, y = _thinned(*_finite(*axes.training(run)))
        (line,) = plot.plot(_scaled(x, axes.along), y, color=color, linewidth=1, alpha=0.6)
        val_x, val_y = _finite(*axes.validation(run))
        (marks,) = plot.plot(_scaled(val_x, axes.along), val_y, color=color, linewidth=1.5, marker="o", markersize=4)
        curves += [Curve(x, y, ""), Curve(val_x, val_y, "", "o")]
        name = one_line(run.name)
        handles += [line, marks]
        labels += [f"train ({name})", f"validation ({name})"]
    span, top = visible_span(curves)
    plot.set_ylim(*span)
    plot.set_ylabel(UNITS[axes.up] + ("" if top is None else f" (starts at {top:.3g}, cut off)"))
    _finish(plot, axes.along)
    plot.legend(handles, labels, frameon=False)


def _draw_heads(plot: Any, run: RunHeads, along: str) -> None:
    handles, labels = [], []
    same = coinciding(run, _LINE)
    for at, kind in enumerate(run.kinds):
        x, y = _finite(along_axis(run, along), kind.scores)
        color = f"C{at % 10}"
        (line,) = plot.plot(_scaled(x, along), y, color=color, linewidth=1.5, marker="o", markersize=4)
        chance_x, chance = _finite(along_axis(run, along), kind.chances)
        plot.plot(_scaled(chance_x, along), chance, color=color, linewidth=1, linestyle=":")
        handles.append(line)
        twin = f" (on the curve of {one_line(run.kinds[same[at]].kind)})" if at in same else ""
        labels.append(one_line(kind.kind) + twin)
    plot.set_ylim(0, 1)
    plot.set_ylabel(f"{HEADING} (dotted: chance)")
    _finish(plot, along)
    plot.legend(handles, labels, frameon=False, title=one_line(run.name))


def _finish(plot: Any, along: str) -> None:
    """Labels the x axis, and removes the top and the right border."""
    plot.set_xlabel("minutes" if along == TIME else along)
    if along != TIME:
        plot.xaxis.set_major_formatter("{x:,.0f}")
    plot.grid(alpha=0.3)
    plot.spines[["top", "right"]].set_visible(False)


def _scaled(x: Floats, along: str) -> Floats:
    return x / 60 if along == TIME else x


def _finite(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Returns at most _MOST_POINTS points, each the mean of a stretch of neighboring points."""
    if len(x) <= _MOST_POINTS:
        return x, y
    starts = np.linspace(0, len(x), _MOST_POINTS, endpoint=False).astype(int)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts
