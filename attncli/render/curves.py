"""Shows the loss curves of runs in the terminal, and returns them as JSON.

This module decides which figure each axis shows. Runs differ in color, and also in a sign and a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len

from attncli.render.chart import STEPS, TIME, TOKENS, Curve, Picture, chart, styled_row
from attncli.render.escape import one_line, pad
from attncli.training.curves import Floats, Points, RunCurves

LOSS, BITS = "loss", "bits"
UNITS = {LOSS: "nats per token", BITS: "bits per byte"}
_STYLES = ("cyan", "magenta", "yellow", "green", "blue", "red")
_SIGNS, _ASCII_SIGNS = "●▲■◆▼★", "ox#%@&"
_NAME_CELLS = 5, 30  # of a name in the legend, at least and at most
_FIGURE_CELLS = 35  # kept for the figures beside a name; a longer name is cut


@dataclass(frozen=True)
class Axes:
    """The quantities on the axes: STEPS, TOKENS or TIME on x, LOSS or BITS on y."""

    along: str
    up: str

    def training(self, run: RunCurves) -> tuple[Floats, Floats]:
        """Returns x and y of the training curve."""
        return self._of(run, run.training)

    def validation(self, run: RunCurves) -> tuple[Floats, Floats]:
        """Returns x and y of the scores on the validation part."""
        return self._of(run, run.validation)

    def final(self, run: RunCurves) -> float | None:
        """Returns the validation score of the best weights, measured at the end; None if the run has not ended."""
        return None if run.final is None else run.final[self.up == BITS]

    def missing(self, run: RunCurves) -> str | None:
        """Returns the name of an axis for which a run has no figures; None if it has figures for both axes."""
        for name, at in ((self.along, 0), (UNITS[self.up], 1)):
            if not any(np.isfinite(curve[at]).any() for curve in (self.training(run), self.validation(run))):
                return name
        return None

    def _of(self, run: RunCurves, points: Points) -> tuple[Floats, Floats]:
        tokens = points.steps * (run.tokens_per_step or math.nan)
        x = {STEPS: points.steps, TOKENS: tokens, TIME: points.seconds}[self.along]
        return x, points.bits if self.up == BITS else points.nats


def curves_screen(runs: Sequence[RunCurves], axes: Axes, width: int, height: int, ascii: bool = False) -> Picture:
    """Returns a chart of exactly `height` rows, and below it a row for each run.

    A run's row has its number, the character that marks it, its name and its figures.
    """
    several = len(runs) > 1
    signs = _ASCII_SIGNS if ascii else _SIGNS
    curves = []
    for at, run in enumerate(runs):
        style, sign = _STYLES[at % len(_STYLES)], signs[at % len(signs)]
        curves.append(Curve(*axes.training(run), style, end=_number(at) if several else ""))
        curves.append(Curve(*axes.validation(run), f"bold {style}" if several else "bold magenta", sign))
    line = "-" if ascii else "─"
    if several:
        heading = [(f"{UNITS[axes.up]}  ", ""), (f"{line} train, {signs[: len(runs)]} validation", "dim")]
    else:
        heading = [
            (f"{UNITS[axes.up]}  ", ""),
            (f"{line} train  ", curves[0].style),
            (f"{signs[0]} validation", curves[1].style),
        ]
    drawn = chart(curves, width, height, heading=heading, along=axes.along, ascii=ascii)
    names = min(max(cell_len(one_line(run.name)) for run in runs), _NAME_CELLS[1])
    names = max(_NAME_CELLS[0], min(names, width - _FIGURE_CELLS))
    legend = []
    for at, run in enumerate(runs):
        key = f"{_number(at)} {signs[at % len(signs)]} " if several else ""
        row = [(key, _STYLES[at % len(_STYLES)]), (pad(one_line(run.name), names), "bold")]
        for figure in _figures(run, axes):
            if len(key) + names + sum(len(text) for text, _ in row[2:]) + len(figure) <= width:
                row.append((figure, ""))
        legend.append(styled_row(row, width))
    return Picture([*drawn.rows, *legend])


def _number(at: int) -> str:
    """Returns the character at the end of a run's training line: 1 to 9, then letters."""
    return "123456789abcdefghijklmnopqrstuvwxyz"[min(at, 34)]


def _figures(run: RunCurves, axes: Axes) -> list[str]:
    """Returns the last training loss, the lowest validation loss and the final validation loss, each if it is known.

    The label of the final loss says if it was measured on a sample of the validation part.
    """
    train, validation = (y[np.isfinite(y)] for _, y in (axes.training(run), axes.validation(run)))
    figures = [
        ("train", train[-1] if len(train) else None),
        ("best val", validation.min() if len(validation) else None),
    ]
    figures.append(("final val of a sample" if run.final_sampled else "final val", axes.final(run)))
    return [f"  {name} {value:.3f}" for name, value in figures if value is not None and math.isfinite(value)]


def curves_document(runs: Sequence[RunCurves]) -> dict[str, Any]:
    """Returns the runs as JSON values, in full precision; null for a figure that is not known."""
    return {"runs": [_run_document(run) for run in runs]}


def _run_document(run: RunCurves) -> dict[str, Any]:
    final: dict[str, Any] | None = None
    if run.final is not None:
        final = {"nats_per_token": _plain(run.final[0]), "bits_per_byte": _plain(run.final[1])}
        final |= {"validation": "sampled" if run.final_sampled else "whole"}
    return {
        "name": run.name,
        "path": run.path,
        "tokenizer_sha256": run.tokenizer,
        "train": _points_document(run, run.training),
        "validation": _points_document(run, run.validation),
        "final_validation": final,
    }


def _points_document(run: RunCurves, points: Points) -> dict[str, list[float | int | None]]:
    columns = {
        "step": points.steps,
        "tokens": points.steps * (run.tokens_per_step or math.nan),
        "seconds": points.seconds,
        "nats_per_token": points.nats,
        "bits_per_byte": points.bits,
    }
    return {
        name: [_plain(value, whole=name in ("step", "tokens")) for value in values.tolist()]
        for name, values in columns.items()
    }


def _plain(value: float, *, whole: bool = False) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if whole else value
