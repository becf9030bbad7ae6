"""Attention rollout on a screen, as the ratio to that of even attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import LABEL, named, question_document, question_heading, titled, up_to
from attncli.render.numbers import bar, percent

if TYPE_CHECKING:
    from attncli.explain.rollout import Rollout

_ROWS = 12  # sources shown by name


def rollout_screen(found: Rollout, model: str, console: Console) -> RenderableType:
    """`--view rollout`."""
    asked, width = found.question, console.width
    ratios = ratio(found)
    seen = [at for at in range(asked.focus + 1) if found.even[at] > 0]
    ranked = sorted(seen, key=lambda at: -ratios[at])
    most = max(float(ratios[ranked[0]]), 1e-9)
    label = min(LABEL, max(width - 30, 4))
    times = "times even" if width >= 60 else "x even"
    room = max(1, min(40, width - label - 25 - len(times)))
    table = Table.grid(padding=(0, 1))
    for at in range(6):
        table.add_column(justify="left" if at in (1, 2) else "right", no_wrap=True)
    table.add_row("", "", "", times, "rollout", "even", style="dim")
    for at in ranked[:_ROWS]:
        value = float(ratios[at])
        table.add_row(
            Text(str(at), "dim"),
            Text(token_label(asked.pieces[at], label)),
            Text(bar(value / most, room), "cyan"),
            Text(f"x{value:.2f}" if value < 99.5 else f"x{value:.0f}"),
            Text(percent(float(found.shares[at]))),
            Text(percent(float(found.even[at])), "dim"),
        )
    if rest := ranked[_ROWS:]:
        shares, even = (percent(float(values[rest].sum())) for values in (found.shares, found.even))
        table.add_row("", Text(fit(f"{len(rest)} more", max(label, 6))), "", "", Text(shares), Text(even, "dim"))
    first = percent(float(found.even[0]))
    return Group(
        question_heading(asked, model, width),
        Text(),
        titled(f"Where does {named(asked, asked.focus, 12)} look, through all layers?", "attention rollout", width),
        table,
        Text(),
        Text(fold(f"Even attention under the same mask already gives the first token {first}.", width), "dim"),
        Text(fold("More: --view bars · --view map · --json", width), "dim"),
    )


def ratio(found: Rollout) -> Floats:
    """(T,) the rollout over that of even attention; NaN where nothing can come from."""
    return np.divide(found.shares, found.even, out=np.full_like(found.shares, np.nan), where=found.even > 0)


def rollout_document(found: Rollout, model: str) -> dict[str, Any]:
    """The same for programs: null after the focus, and for the ratio where even attention has nothing."""
    focus = found.question.focus
    return {
        **question_document(found.question, model, "rollout"),
        "shares": up_to(focus, found.shares),
        "even": up_to(focus, found.even),
        "ratio": [value if math.isfinite(value) else None for value in ratio(found).tolist()],
    }
