"""The screen of `--view logit`: one logit as a sum, by component, by head and by source, and the remainder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.explain.ranking import ranked
from attncli.render.escape import fold, token_label
from attncli.render.heading import LABEL, named, next_label, subject_document, subject_heading, titled, token_document
from attncli.render.numbers import bar, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.explain.logit import LogitAttribution

_ROWS = 8  # heads and sources shown by name
Term = tuple[str, float]  # the name of a component, head or source, and its term


def logit_screen(finding: LogitAttribution, model: str, console: Console) -> RenderableType:
    """Returns three tables of signed bars: by component of the model, by head, and by source."""
    subject, width = finding.subject, console.width
    sources = [f"{at} {token_label(piece, LABEL)}" for at, piece in enumerate(subject.pieces)][: subject.focus + 1]
    heads = [f"head {layer}.{head}" for layer in range(subject.layers) for head in range(subject.heads)]
    parts = _components(finding)
    by_head = _largest(heads, finding.heads.sum(-1).ravel(), "head")
    by_source = _largest(sources, finding.heads.sum((0, 1))[: subject.focus + 1], "source")
    most = max(abs(value) for _, value in (*parts, *by_head, *by_source))
    column = max(cell_len(name) for name, _ in (*parts, *by_head, *by_source))
    target = next_label(finding.target, LABEL)
    base = "the vocabulary's mean" if finding.against is None else f"that of {next_label(finding.against, LABEL)}"
    title = f"Why {target} after {named(subject, subject.focus)}?"
    logit = Text(fold(f"its logit is {finding.logit:+.4f}, counted from {base}", width), "bold")
    total = Text(fold(f"sum of all terms {finding.total:+.4f}, remainder {finding.remainder:+.1e}", width), "dim")

    def drawn(terms: Sequence[Term]) -> Table:
        return _signed_bars(terms, column, most, width)

    return Group(
        subject_heading(subject, model, width),
        Text(),
        titled(title, "direct logit attribution", width),
        logit,
        drawn(parts),
        total,
        Text(),
        titled("Of attention, by head", "all sources together", width),
        drawn(by_head),
        Text(),
        titled("Of attention, by source", "all layers and heads together", width),
        drawn(by_source),
        Text(),
        Text(fold("█ for it  ▒ against it  ·  the scale of the final norm is held fixed", width), "dim"),
        Text(fold("More: --target TOKEN · --against TOKEN · --view lens · --json", width), "dim"),
    )


def _components(finding: LogitAttribution) -> list[Term]:
    """Returns the components in the order in which they write to the residual stream."""
    terms = [("embedding", finding.embedding)]
    if finding.position is not None:
        terms.append(("position", finding.position))
    for layer, (heads, fed) in enumerate(zip(finding.heads.sum((1, 2)), finding.feed_forward, strict=True)):
        terms += [(f"attention {layer}", float(heads)), (f"feed-forward {layer}", float(fed))]
    biases = {"attention biases": finding.attention_bias, "feed-forward biases": finding.feed_forward_bias}
    terms += [(name, float(values.sum())) for name, values in biases.items() if values is not None]
    if finding.norm_bias is not None:
        terms.append(("final norm's bias", finding.norm_bias))
    return terms


def _largest(names: Sequence[str], values: Floats, thing: str) -> list[Term]:
    """Returns the terms with the largest absolute values, each with its name, then the sum of all other terms."""
    order = ranked(np.abs(values))
    terms = [(names[at], float(values[at])) for at in order[:_ROWS]]
    if len(order) > _ROWS:
        terms.append((plural(len(order) - _ROWS, f"more {thing}"), float(values[order[_ROWS:]].sum())))
    return terms


def _signed_bars(terms: Sequence[Term], column: int, most: float, width: int) -> Table:
    """Returns one row for each term: its name, its signed value, and a bar."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", width=min(column, max(width - 18, 4)))
    table.add_column(no_wrap=True, justify="right", width=8)
    table.add_column(no_wrap=True)
    room = max(1, min(40, width - column - 10))
    for name, value in terms:
        share = abs(value) / most if most > 0 else 0.0
        drawn = Text(bar(share, room), BAR) if value >= 0 else Text(bar(share, room, "▒"), "red")
        table.add_row(Text(name), Text(f"{value:+.3f}"), drawn)
    return table


def logit_document(finding: LogitAttribution, model: str) -> dict[str, Any]:
    """Returns every term as JSON values: heads[layer][head][source]. A term that the model does not have is null."""
    against = None if finding.against is None else token_document(finding.against)
    terms = {
        "embedding": finding.embedding,
        "position": finding.position,
        "heads": finding.heads.tolist(),
        "attention_bias": None if finding.attention_bias is None else finding.attention_bias.tolist(),
        "feed_forward": finding.feed_forward.tolist(),
        "feed_forward_bias": None if finding.feed_forward_bias is None else finding.feed_forward_bias.tolist(),
        "norm_bias": finding.norm_bias,
    }
    return {
        **subject_document(finding.subject, model, "logit"),
        "target": token_document(finding.target),
        "against": against,
        "logit": finding.logit,
        "terms": terms,
        "sum": finding.total,
        "remainder": finding.remainder,
    }
