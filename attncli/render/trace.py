"""The screen of --trace: a block per token, with the candidates that each sampling step removed and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from attncli.generation.events import Token, TokenLogprob, Trace, TraceStep
from attncli.render.escape import fit, id_label, pad
from attncli.render.numbers import percent

_WIDE = 60  # cells: on a screen of at least this width, each step shows its best tokens
_TITLE, _SHORT_TITLE = 23, 16  # cells of a step's name and setting
_NUMBERS = 22  # cells of the three columns of numbers
_LABEL = 14  # cells of a token among the best


def trace_head(width: int) -> Text:
    """Returns the column names."""
    title = _TITLE if width >= _WIDE else _SHORT_TITLE
    head = f"  {'step':<{title}}{'removed':>8}{'share':>6}{'left':>8}"
    best = ("  best of those left", "  best left") if width >= _WIDE else ()
    return Text(next((head + name for name in best if cell_len(head + name) <= width), head), "dim")


def trace_block(number: int, token: Token, width: int) -> Text:
    """Returns the sampling steps of the `number`-th token, in at most `width` cells. `width` is at least 40."""
    assert token.trace is not None
    fact = f"  drawn at {percent(token.trace.probability)}"
    label = fit(f"{number} {id_label(token.id, token.text)}", width - len(fact))
    block = Text(label, "bold").append(fact, "not bold")
    for step in token.trace.steps:
        block.append("\n").append(_step(step, token.id, width))
    if width < _WIDE:
        block.append("\n  ").append(_best(token.trace.steps[-1].best, token.id, width - 2))
    return block


def _step(step: TraceStep, drawn: int, width: int) -> Text:
    wide = width >= _WIDE
    removed = (f"{step.removed:,}", percent(step.removed_probability)) if step.removed else ("", "")
    setting = "" if step.setting is None else f" {step.setting:g}"
    room = _TITLE if wide else _SHORT_TITLE
    title = pad(fit(step.name, room - len(setting)) + setting, room)
    line = Text(f"  {title}{removed[0]:>8}{removed[1]:>6}{step.left:>8,}")
    return line.append("  ").append(_best(step.best, drawn, width - _TITLE - _NUMBERS - 4)) if wide else line


def _best(choices: Sequence[TokenLogprob], drawn: int, width: int) -> Text:
    """Returns the most probable candidates with their probabilities, as many as fit. The sampled token is bold."""
    line = Text()
    for choice in choices:
        shown = f"{fit(id_label(choice.id, choice.text), _LABEL)} {percent(choice.probability)}"
        gap = "  " if line else ""
        if line.cell_len + cell_len(gap + shown) > width:
            break
        line.append(gap).append(shown, "bold green" if choice.id == drawn else "")
    return line


def trace_document(trace: Trace) -> dict[str, Any]:
    """Returns the trace as a JSON-ready dictionary in full precision."""
    return {
        "probability": trace.probability,
        "steps": [
            {
                "name": step.name,
                "setting": step.setting,
                "removed": step.removed,
                "removed_probability": step.removed_probability,
                "left": step.left,
                "best": [{"id": c.id, "text": c.text, "probability": c.probability} for c in step.best],
            }
            for step in trace.steps
        ],
    }
