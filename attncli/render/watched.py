"""Shows the head curves of a run in the terminal and as JSON: the score of the best head of each kind, by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.cells import cell_len

from attncli.render.chart import STEPS, TIME, TOKENS, Curve, Picture, chart, styled_row
from attncli.render.escape import one_line, pad
from attncli.render.numbers import count, decimal, duration
from attncli.training.curves import Floats, HeadCurve, RunHeads

_STYLES = ("cyan", "yellow", "bold magenta", "green", "blue", "red")
_KIND_CELLS = 10
HEADING = "weight on the pattern, best head of each kind"
_SHORT_HEADING = "weight on the pattern"


def along_axis(run: RunHeads, along: str) -> Floats:
    """Returns the x value of every evaluation, in STEPS, TOKENS or TIME; NaN if it is not known."""
    return {STEPS: run.steps, TOKENS: run.steps * (run.tokens_per_step or math.nan), TIME: run.seconds}[along]


def watched_screen(run: RunHeads, along: str, width: int, height: int, ascii: bool = False) -> Picture:
    """Returns a chart of exactly `height` rows, and below it a row for each kind of head."""
    x = along_axis(run, along)
    letters = _letters(run)
    curves = [
        Curve(x, kind.scores, _STYLES[at % len(_STYLES)], end=letter)
        for at, (kind, letter) in enumerate(zip(run.kinds, letters, strict=True))
    ]
    drawn = chart(
        curves,
        width,
        height,
        heading=[(HEADING if len(HEADING) <= width else _SHORT_HEADING, "")],
        along=along,
        ascii=ascii,
    )
    rows = []
    same = coinciding(run, _span(run) / (8 * height))  # half a dot
    for at, (kind, letter) in enumerate(zip(run.kinds, letters, strict=True)):
        row = [(f"{letter} {pad(one_line(kind.kind), _KIND_CELLS)}", _STYLES[at % len(_STYLES)])]
        last, *more = _figures(kind, x, along)
        twin = [f"  on the curve of {one_line(run.kinds[same[at]].kind)}"] if at in same else []
        for figure in (last, *twin, *more):
            if sum(cell_len(text) for text, _ in row) + len(figure) <= width:
                row.append((figure, ""))
        rows.append(styled_row(row, width))
    return Picture([*drawn.rows, *rows])


def coinciding(run: RunHeads, tolerance: float) -> dict[int, int]:
    """Returns the kinds whose curve equals the curve of an earlier kind within a tolerance: kind -> earlier kind."""
    same: dict[int, int] = {}
    for at, kind in enumerate(run.kinds):
        for first, other in enumerate(run.kinds[:at]):
            known = np.isfinite(kind.scores).any()
            if known and np.allclose(kind.scores, other.scores, rtol=0, atol=tolerance, equal_nan=True):
                same[at] = first
                break
    return same


def _span(run: RunHeads) -> float:
    """Returns the difference between the highest and the lowest score."""
    known = np.concatenate([kind.scores[np.isfinite(kind.scores)] for kind in run.kinds] or [np.zeros(0)])
    return float(np.ptp(known)) if len(known) else 0.0


def _letters(run: RunHeads) -> list[str]:
    """Returns a character for each kind: the first letter of its name, or digits if two kinds share a letter."""
    first = [one_line(kind.kind)[:1] for kind in run.kinds]
    plain = all(letter.isascii() and letter.isalpha() for letter in first)
    return first if plain and len(set(first)) == len(first) else [str(at + 1) for at in range(len(first))]


def _figures(kind: HeadCurve, x: Floats, along: str) -> list[str]:
    """Returns the figures of one kind of head: the last score, when the kind appeared or its best score, and chance.

    A kind appears when its best head first has a score above .5. If it never appears, the best score is shown.
    """
    if not (known := np.flatnonzero(np.isfinite(kind.scores)).tolist()):
        return ["  no head has a score"]
    last = known[-1]
    figures = [f" {decimal(kind.scores[last]):>4}  head {kind.heads[last]}"]
    if kind.appears is not None:
        figures.append(f"  above .5 from {_place(x[kind.appears], along)}")
    else:
        top = max(known, key=lambda at: float(kind.scores[at]))
        figures.append(f"  at most {decimal(kind.scores[top])}, at {_place(x[top], along)}")
    chance = kind.chances[last]
    return [*figures, f"  chance {decimal(chance)}"] if math.isfinite(chance) else figures


def _place(value: float, along: str) -> str:
    """Formats a position on the x axis as a label: a duration, a step or a number of tokens.

    Returns '?' if the position is not finite.
    """
    if not math.isfinite(value):
        return "?"
    return duration(value) if along == TIME else f"step {value:,.0f}" if along == STEPS else f"{count(value)} tokens"


def watched_document(run: RunHeads) -> dict[str, Any]:
    """Returns the head curves as JSON values; null for a figure that is not known."""
    return {
        "name": run.name,
        "path": run.path,
        "step": [_plain(step) for step in run.steps.tolist()],
        "seconds": [_plain(seconds) for seconds in run.seconds.tolist()],
        "tokens_per_step": run.tokens_per_step,
        "kinds": {
            kind.kind: {
                "score": [_plain(score) for score in kind.scores.tolist()],
                "chance": [_plain(chance) for chance in kind.chances.tolist()],
                "head": list(kind.heads),
                "appears_at_step": None if kind.appears is None else _plain(float(run.steps[kind.appears])),
            }
            for kind in run.kinds
        },
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
