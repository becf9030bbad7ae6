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
from attncli.render.heading import (
    LABEL,
    indexed,
    named,
    next_label,
    subject_document,
    subject_heading,
    titled,
    token_document,
)
from attncli.render.numbers import bar, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.explain.logit import LogitAttribution
    from attncli.explain.question import Subject

_ROWS = 8  # heads and sources shown by name
Term = tuple[str, float]  # the name of a component, head or source, and its term


def logit_screen(finding: LogitAttribution, model: str, console: Console) -> RenderableType:
    """Returns three tables of signed bars: by component of the model, by head, and by source."""
    subject, width = finding.subject, console.width
    axes, parts = subject.axes, _components(finding)
    by_head = _largest(*_heads(finding), "head")
    by_source = _largest(_sources(subject), finding.heads.sum((0, 1))[: subject.reach], "source")
    most = max(abs(value) for _, value in (*parts, *by_head, *by_source))
    column = max(cell_len(name) for name, _ in (*parts, *by_head, *by_source))
    target = next_label(finding.target, LABEL)
    base = "the vocabulary's mean" if finding.against is None else f"that of {next_label(finding.against, LABEL)}"
    place = f" [{axes.row_index(subject.focus)}]" if axes.first else f" after {named(subject, subject.focus)}"
    title = f"Why {target}{place}?"
    norms = "every norm is" if finding.post_norm else "the final norm is"
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
        Text(fold(f"█ for it  ▒ against it  ·  the scale of {norms} held fixed", width), "dim"),
        Text(
            fold(
                f"More: {'--token' if axes.first else '--target'} TOKEN · --against TOKEN · --view lens · --json", width
            ),
            "dim",
        ),
    )


def _sources(subject: Subject) -> list[str]:
    """Returns the names of the sources: '2 ␣dog'; in a translation, 'source 2 ␣dog' and 'target 1 Ein'."""
    axes = subject.axes
    return [f"{indexed(axes, at)} {token_label(piece, LABEL)}" for at, piece in enumerate(axes.columns)]


def _heads(finding: LogitAttribution) -> tuple[list[str], Floats]:
    """Returns the name and the term of every head. In a translation, the heads of cross-attention come last."""
    subject, split = finding.subject, finding.subject.axes.sources
    own, cross = finding.heads[..., split:].sum(-1), finding.heads[..., :split].sum(-1)
    names = [f"{layer}.{head}" for layer in range(subject.layers) for head in range(subject.heads)]
    if not split:
        return [f"head {name}" for name in names], own.ravel()
    return [*(f"self {name}" for name in names), *(f"cross {name}" for name in names)], np.stack([own, cross]).ravel()


def _components(finding: LogitAttribution) -> list[Term]:
    """Returns the components in the order in which they write to the residual stream."""
    terms = [("embedding", finding.embedding)]
    if finding.position is not None:
        terms.append(("position", finding.position))
    split = finding.subject.axes.sources
    own, cross = finding.heads[..., split:].sum((1, 2)), finding.heads[..., :split].sum((1, 2))
    for layer, fed in enumerate(finding.feed_forward):
        terms.append((f"{'self-attention' if split else 'attention'} {layer}", float(own[layer])))
        terms += [(f"cross-attention {layer}", float(cross[layer]))] if split else []
        terms.append((f"feed-forward {layer}", float(fed)))
    biases = {
        "attention biases": finding.attention_bias,
        "cross-attention biases": finding.cross_bias,
        "feed-forward biases": finding.feed_forward_bias,
    }
    terms += [(name, float(values.sum())) for name, values in biases.items() if values is not None]
    single = {
        "biases of the norms" if finding.post_norm else "final norm's bias": finding.norm_bias,
        "head's bias": finding.head_bias,
    }
    return [*terms, *((name, value) for name, value in single.items() if value is not None)]


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
        **({} if finding.cross_bias is None else {"cross_bias": finding.cross_bias.tolist()}),
        **({} if finding.head_bias is None else {"head_bias": finding.head_bias}),
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
