"""The arithmetic of one row of one head on a screen, with the numbers it is done on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import LABEL, named, question_document, question_heading, titled
from attncli.render.numbers import percent, plural

if TYPE_CHECKING:
    from attncli.explain.steps import Steps

_ROWS = 16  # sources shown by name
_WHOLE = 70  # columns from which the sizes of values are shown too


def steps_screen(found: Steps, model: str, console: Console) -> RenderableType:
    """`--view steps`."""
    asked, width = found.question, console.width
    wide = len(found.query)
    head = f"{found.layer}.{found.head}"
    busiest = not found.asked_for and asked.focus > 0  # the first token sees no other in any head
    title = f"{'Busiest head' if busiest else 'Head'} {head}, the row of {named(asked, asked.focus)}"
    return Group(
        question_heading(asked, model, width),
        Text(),
        titled(title, "softmax(q·k / √D + mask) x values, through the output matrix", width),
        _step(1, f"the query: {plural(wide, 'number')}", width),
        _vector(found.query, width),
        _step(2, f"q·k with the key of each source, / √{wide} = {math.sqrt(wide):.2f}, mask, softmax", width),
        _table(found, width),
        *(Text(fold(line, width), "dim") for line in _remarks(found)),
        _step(3, f"weights x values: {plural(wide, 'number')}", width),
        _vector(found.mixed, width),
        _step(4, f"through the output matrix: {len(found.written)} numbers", width),
        _vector(found.written, width),
        _step(5, "with the other heads, what attention adds", width),
        _vector(found.attention, width),
        Text(),
        Text(fold(f"Largest difference from the model's own fast path: {found.difference:.1e}", width)),
        Text(fold(f"More: --head {head} · --token {max(asked.focus - 1, 0)} · --view map · --json", width), "dim"),
    )


def _step(number: int, text: str, width: int) -> Text:
    return Text(fold(f"{number}. {text}", width), "bold")


def _vector(values: Floats, width: int) -> Text:
    """As many of the numbers as fit, and the length of all of them."""
    length = f"length {float(np.linalg.norm(values)):.3f}"
    numbers = [f"{value:.2f}" for value in values]
    line = "   "
    for number in numbers:
        if len(line) + len(number) + len(length) + 5 > width:
            line += "… "
            break
        line += number + " "
    return Text(fit(line, max(width - len(length) - 1, 1))).append(
        " " + length if len(length) + 5 <= width else "", "dim"
    )


def _table(found: Steps, width: int) -> Table:
    """A row for each source: its product, scaled, masked, and its weight."""
    pieces, whole = found.question.pieces, width >= _WHOLE
    table = Table.grid(padding=(0, 1))
    columns = ["", "source", "q·k", "/ √D", "mask", "softmax", *(["|value|", "x weight"] if whole else [])]
    if width < 50:
        columns.remove("mask")
    for name in columns:
        table.add_column(justify="left" if name == "source" else "right", no_wrap=True, overflow="ellipsis")
    table.add_row(*columns, style="dim")
    label = max(4, min(LABEL, width - 31))
    shown = _shown(found)
    for at in shown:
        allowed = bool(found.allowed[at])
        length = float(np.linalg.norm(found.values[at]))
        cells = [
            Text(str(at), "dim"),
            Text(token_label(pieces[at], label)),
            Text(f"{found.products[at]:.2f}"),
            Text(f"{found.scores[at]:.2f}"),
            *([Text("" if allowed else "−∞")] if "mask" in columns else []),
            Text(percent(float(found.weights[at])) if allowed else "" if "mask" in columns else "−∞"),
        ]
        if whole:
            cells += [Text(f"{length:.2f}"), Text(f"{found.weights[at] * length:.3f}" if allowed else "")]
        table.add_row(*cells, style="" if allowed else "dim")
    if rest := len(pieces) - len(shown):
        left = float(found.weights.sum() - found.weights[shown].sum())
        blanks = [""] * (3 if "mask" in columns else 2)
        table.add_row("", Text(fit(f"{rest} more", max(label, 6))), *blanks, Text(percent(max(left, 0.0))))
    return table


def _shown(found: Steps) -> list[int]:
    """The sources to name, in the order of the text: of many those with most weight, and the next that is masked."""
    size = len(found.question.pieces)
    if size <= _ROWS:
        return list(range(size))
    best = np.argsort(-found.weights, kind="stable")[: _ROWS - 1].tolist()
    after = found.question.focus + 1
    return sorted({*best, *([after] if after < size else [])})


def _remarks(found: Steps) -> list[str]:
    """The sentence on what the mask forbids, or why it forbids nothing, and whose keys are shown."""
    asked, lines = found.question, []
    focus = token_label(asked.pieces[asked.focus], LABEL)
    if asked.focus + 1 < len(asked.pieces):
        lines.append(f"{focus} cannot see {named(asked, asked.focus + 1)}, which comes later")
    elif found.allowed.all():
        earlier = f" (see --token {asked.focus - 1})" if asked.focus else ""
        lines.append(f"nothing comes after {focus}, so the mask forbids nothing{earlier}")
    if found.window is not None and asked.focus >= found.window:
        lines.append(f"{focus} cannot see {named(asked, 0)}: this layer looks back {found.window - 1} tokens")
    if found.shared_by > 1:
        lines.append(f"keys and values are shared by {found.shared_by} heads")
    return [f"   {line}" for line in lines]


def steps_document(found: Steps, model: str) -> dict[str, Any]:
    """The same for programs: every number."""
    arrays = ("query", "keys", "values", "products", "scores", "allowed", "weights", "mixed", "written", "attention")
    return {
        **question_document(found.question, model, "steps"),
        "layer": found.layer,
        "head": found.head,
        "window": found.window,
        "shared_by": found.shared_by,
        **{name: getattr(found, name).tolist() for name in arrays},
        "difference": found.difference,
    }
