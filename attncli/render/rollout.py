"""The screen of `--view rollout`: attention rollout, as the ratio to the rollout of uniform attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.explain.ranking import ranked
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import (
    LABEL,
    named,
    of_attention,
    part_option,
    subject_document,
    subject_heading,
    titled,
    up_to,
)
from attncli.render.numbers import bar, percent
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.explain.rollout import Rollout

_ROWS = 12  # sources shown by name


def rollout_screen(finding: Rollout, model: str, console: Console) -> RenderableType:
    """Returns one row for each source, the largest ratio first."""
    subject, width = finding.subject, console.width
    ratios = ratio(finding)
    order = ranked(ratios, (at for at in range(subject.reach) if finding.even[at] > 0))
    most = max(float(ratios[order[0]]), 1e-9)
    label = min(LABEL, max(width - 30, 4))
    times = "times even" if width >= 60 else "x even"
    room = max(1, min(40, width - label - 25 - len(times)))
    table = Table.grid(padding=(0, 1))
    for at in range(6):
        table.add_column(justify="left" if at in (1, 2) else "right", no_wrap=True)
    table.add_row("", "", "", times, "rollout", "even", style="dim")
    for at in order[:_ROWS]:
        value = float(ratios[at])
        table.add_row(
            Text(str(at), "dim"),
            Text(token_label(subject.pieces[at], label)),
            Text(bar(value / most, room), BAR),
            Text(f"x{value:.2f}" if value < 99.5 else f"x{value:.0f}"),
            Text(percent(float(finding.shares[at]))),
            Text(percent(float(finding.even[at])), "dim"),
        )
    if rest := order[_ROWS:]:
        shares, even = (percent(float(values[rest].sum())) for values in (finding.shares, finding.even))
        table.add_row("", Text(fit(f"{len(rest)} more", max(label, 6))), "", "", Text(shares), Text(even, "dim"))
    even = f"Even attention under the same mask already gives the first token {percent(float(finding.even[0]))}."
    row, part = named(subject, subject.focus, 12), part_option(subject.axes, "")
    row = f"the row that predicts {row}" if subject.axes.first else row
    if not subject.axes.masked and len(subject.pieces) > 1:
        even = "No mask: even attention gives all other tokens the same."
    return Group(
        subject_heading(subject, model, width),
        Text(),
        titled(f"Where does {row} look, through all layers?", f"attention rollout{of_attention(subject.axes)}", width),
        table,
        Text(),
        Text(fold(even, width), "dim"),
        Text(fold(f"More: {part}--view bars · {part}--view map · --json", width), "dim"),
    )


def ratio(finding: Rollout) -> Floats:
    """Returns the rollout divided by uniform attention's rollout (T,); NaN for tokens that are masked."""
    return np.divide(finding.shares, finding.even, out=np.full_like(finding.shares, np.nan), where=finding.even > 0)


def rollout_document(finding: Rollout, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary.

    A ratio is null for masked tokens, and if uniform attention gives 0.
    """
    reach = finding.subject.reach
    return {
        **subject_document(finding.subject, model, "rollout"),
        "shares": up_to(reach, finding.shares),
        "even": up_to(reach, finding.even),
        "ratio": [value if math.isfinite(value) else None for value in ratio(finding).tolist()],
    }
