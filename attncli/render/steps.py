"""The screen of `--view steps`: the arithmetic of one row of one head, with its numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats, MapAxes
from attncli.explain.ranking import ranked
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import (
    LABEL,
    named,
    named_source,
    of_attention,
    part_option,
    subject_document,
    subject_heading,
    titled,
)
from attncli.render.numbers import percent, plural

if TYPE_CHECKING:
    from attncli.explain.steps import Steps

_ROWS = 16  # sources shown by name
_WHOLE = 70  # the least width at which the norms of values are shown too


def steps_screen(finding: Steps, model: str, console: Console) -> RenderableType:
    """Returns five steps, from the query to the attention output, and the difference from the fast path."""
    subject, width = finding.subject, console.width
    wide = len(finding.query)
    head = f"{finding.layer}.{finding.head}"
    busiest = not finding.asked_for and subject.reach > 1  # with a single visible token, all heads are equal
    which = f"{'Busiest head' if busiest else 'Head'} {head}{of_attention(subject.axes)}"
    title = f"{which}, the row {'that predicts' if subject.axes.first else 'of'} {named(subject, subject.focus)}"
    mask = ", mask" if _has_mask(subject.axes) else ""
    part = part_option(subject.axes, "cross")
    earlier = subject.axes.row_index(max(subject.focus - 1, 0))
    scale = f", / √{wide} = {math.sqrt(wide):.2f}" if finding.scaled else ""
    biased = ", plus the bias of the distance" if finding.bias is not None else ""
    return Group(
        subject_heading(subject, model, width),
        Text(),
        titled(title, f"softmax({_formula(finding)}) x values, through the output matrix", width),
        _step(1, f"the query: {plural(wide, 'number')}", width),
        _vector(finding.query, width),
        _step(2, f"q·k with the key of each source{scale}{biased}{mask}, softmax", width),
        _table(finding, width),
        *(Text(fold(line, width), "dim") for line in _remarks(finding)),
        _step(3, f"weights x values: {plural(wide, 'number')}", width),
        _vector(finding.mixed, width),
        _step(4, f"through the output matrix: {len(finding.written)} numbers", width),
        _vector(finding.written, width),
        _step(5, "plus the other heads: the output of attention", width),
        _vector(finding.attention, width),
        Text(),
        Text(fold(f"Largest difference from the model's own fast path: {finding.difference:.1e}", width)),
        Text(fold(f"More: {part}--head {head} · {part}--token {earlier} · {part}--view map · --json", width), "dim"),
    )


def _formula(finding: Steps) -> str:
    """Returns the argument of the softmax: 'q·k / √D + mask'."""
    axes = finding.subject.axes
    scaled = "q·k / √D" if finding.scaled else "q·k"
    biased = " + bias" if finding.bias is not None else ""
    return scaled + biased + (" + mask" if _has_mask(axes) else "")


def _has_mask(axes: MapAxes) -> bool:
    """Whether the attention has a causal mask: the self-attention of a decoder has one."""
    return axes.part == "decoder" or axes.predicts_next


def _step(number: int, text: str, width: int) -> Text:
    return Text(fold(f"{number}. {text}", width), "bold")


def _vector(values: Floats, width: int) -> Text:
    """Returns one line with as many numbers of a vector as fit, and the length of the vector."""
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


def _table(finding: Steps, width: int) -> Table:
    """Returns one row for each source: q·k, scaled, masked, and the weight."""
    pieces, whole = finding.subject.pieces, width >= _WHOLE
    table = Table.grid(padding=(0, 1))
    score = "/ √D" if finding.bias is None else "+ bias"
    columns = ["", "source", "q·k", score, "mask", "softmax", *(["|value|", "x weight"] if whole else [])]
    if width < 50 or not _has_mask(finding.subject.axes):
        columns.remove("mask")
    for name in columns:
        table.add_column(justify="left" if name == "source" else "right", no_wrap=True, overflow="ellipsis")
    table.add_row(*columns, style="dim")
    label = max(4, min(LABEL, width - 31))
    shown = _shown(finding)
    for at in shown:
        allowed = bool(finding.allowed[at])
        length = float(np.linalg.norm(finding.values[at]))
        cells = [
            Text(str(at), "dim"),
            Text(token_label(pieces[at], label)),
            Text(f"{finding.products[at]:.2f}"),
            Text(f"{finding.scores[at]:.2f}"),
            *([Text("" if allowed else "−∞")] if "mask" in columns else []),
            Text(percent(float(finding.weights[at])) if allowed else "" if "mask" in columns else "−∞"),
        ]
        if whole:
            cells += [Text(f"{length:.2f}"), Text(f"{finding.weights[at] * length:.3f}" if allowed else "")]
        table.add_row(*cells, style="" if allowed else "dim")
    if rest := len(pieces) - len(shown):
        left = float(finding.weights.sum() - finding.weights[shown].sum())
        blanks = [""] * (3 if "mask" in columns else 2)
        table.add_row("", Text(fit(f"{rest} more", max(label, 6))), *blanks, Text(percent(max(left, 0.0))))
    return table


def _shown(finding: Steps) -> list[int]:
    """Returns the sources to show, in text order.

    In a long text, these are the sources with the largest weights, and the first masked source.
    """
    size = len(finding.subject.pieces)
    if size <= _ROWS:
        return list(range(size))
    best = ranked(finding.weights)[: _ROWS - 1]
    after = finding.subject.reach
    return sorted({*best, *([after] if after < size else [])})


def _remarks(finding: Steps) -> list[str]:
    """Returns remarks on the mask, on the window, and on heads that share keys and values."""
    subject, lines, axes = finding.subject, [], finding.subject.axes
    focus = token_label(axes.rows[subject.focus], LABEL)
    if not _has_mask(axes):
        seen, text = "is predicted from" if axes.first else "can see", "source" if axes.part else "text"
        lines.append(f"no mask: {focus} {seen} every token of the {text}")
    elif subject.reach < len(subject.pieces):
        unseen = named_source(axes, subject.reach)
        seen = f"{focus} is predicted without" if axes.first else f"{focus} cannot see"
        lines.append(f"{seen} {unseen}, {'the token itself' if axes.first else 'which comes later'}")
    elif finding.allowed.all():
        earlier = f" (see --token {axes.row_index(subject.focus - 1)})" if subject.focus else ""
        lines.append(f"nothing comes after {focus}, so the mask forbids nothing{earlier}")
    if finding.window is not None and subject.focus >= finding.window:
        lines.append(f"{focus} cannot see {named_source(axes, 0)}: this layer looks back {finding.window - 1} tokens")
    if finding.shared_by > 1:
        lines.append(f"keys and values are shared by {finding.shared_by} heads")
    return [f"   {line}" for line in lines]


def steps_document(finding: Steps, model: str) -> dict[str, Any]:
    """Returns every number as a JSON-ready dictionary."""
    arrays = ("query", "keys", "values", "products", "scores", "allowed", "weights", "mixed", "written", "attention")
    return {
        **subject_document(finding.subject, model, "steps"),
        "layer": finding.layer,
        "head": finding.head,
        "window": finding.window,
        "shared_by": finding.shared_by,
        **{name: getattr(finding, name).tolist() for name in arrays},
        "difference": finding.difference,
        **({} if finding.bias is None else {"bias": finding.bias.tolist()}),
    }
