"""The ledger of one logit on a screen: by component, by head, by source, and what is left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.escape import fold, token_label
from attncli.render.heading import LABEL, named, next_label, question_document, question_heading, titled, token_document
from attncli.render.numbers import bar, plural

if TYPE_CHECKING:
    from attncli.explain.ledger import Ledger

_ROWS = 8  # heads and sources shown by name
Entry = tuple[str, float]


def ledger_screen(found: Ledger, model: str, console: Console) -> RenderableType:
    """`--view logit`."""
    asked, width = found.question, console.width
    sources = [f"{at} {token_label(piece, LABEL)}" for at, piece in enumerate(asked.pieces)][: asked.focus + 1]
    heads = [f"head {layer}.{head}" for layer in range(asked.layers) for head in range(asked.heads)]
    parts = _components(found)
    by_head = _largest(heads, found.heads.sum(-1).ravel(), "head")
    by_source = _largest(sources, found.heads.sum((0, 1))[: asked.focus + 1], "source")
    most = max(abs(value) for _, value in (*parts, *by_head, *by_source))
    column = max(cell_len(name) for name, _ in (*parts, *by_head, *by_source))
    target = next_label(found.target, LABEL)
    base = "the vocabulary's mean" if found.against is None else f"that of {next_label(found.against, LABEL)}"
    title = f"Why {target} after {named(asked, asked.focus)}?"
    logit = Text(fold(f"its logit is {found.logit:+.4f}, counted from {base}", width), "bold")
    total = Text(fold(f"sum of all terms {found.total:+.4f}, remainder {found.remainder:+.1e}", width), "dim")

    def drawn(entries: Sequence[Entry]) -> Table:
        return _signed_bars(entries, column, most, width)

    return Group(
        question_heading(asked, model, width),
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
        Text(fold("█ for it  ▒ against it  ·  the scale of the final norm is held as it is", width), "dim"),
        Text(fold("More: --target TOKEN · --against TOKEN · --view lens · --json", width), "dim"),
    )


def _components(found: Ledger) -> list[Entry]:
    """The parts of the model in the order in which they write."""
    entries = [("embedding", found.embedding)]
    if found.position is not None:
        entries.append(("position", found.position))
    for layer, (heads, fed) in enumerate(zip(found.heads.sum((1, 2)), found.feed_forward, strict=True)):
        entries += [(f"attention {layer}", float(heads)), (f"feed-forward {layer}", float(fed))]
    biases = {"attention biases": found.attention_bias, "feed-forward biases": found.feed_forward_bias}
    entries += [(name, float(terms.sum())) for name, terms in biases.items() if terms is not None]
    if found.norm_bias is not None:
        entries.append(("final norm's bias", found.norm_bias))
    return entries


def _largest(names: Sequence[str], values: Floats, thing: str) -> list[Entry]:
    """The largest of either sign by name, the rest together."""
    order = np.argsort(-np.abs(values), kind="stable")
    entries = [(names[at], float(values[at])) for at in order[:_ROWS]]
    if len(order) > _ROWS:
        entries.append((plural(len(order) - _ROWS, f"more {thing}"), float(values[order[_ROWS:]].sum())))
    return entries


def _signed_bars(entries: Sequence[Entry], column: int, most: float, width: int) -> Table:
    """A name, a number with its sign, a bar of its size."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", width=min(column, max(width - 18, 4)))
    table.add_column(no_wrap=True, justify="right", width=8)
    table.add_column(no_wrap=True)
    room = max(1, min(40, width - column - 10))
    for name, value in entries:
        share = abs(value) / most if most > 0 else 0.0
        drawn = Text(bar(share, room), "cyan") if value >= 0 else Text(bar(share, room, "▒"), "red")
        table.add_row(Text(name), Text(f"{value:+.3f}"), drawn)
    return table


def ledger_document(found: Ledger, model: str) -> dict[str, Any]:
    """The same for programs: every term. heads[layer][head][source]; null for what the model does not have."""
    against = None if found.against is None else token_document(found.against)
    terms = {
        "embedding": found.embedding,
        "position": found.position,
        "heads": found.heads.tolist(),
        "attention_bias": None if found.attention_bias is None else found.attention_bias.tolist(),
        "feed_forward": found.feed_forward.tolist(),
        "feed_forward_bias": None if found.feed_forward_bias is None else found.feed_forward_bias.tolist(),
        "norm_bias": found.norm_bias,
    }
    return {
        **question_document(found.question, model, "logit"),
        "target": token_document(found.target),
        "against": against,
        "logit": found.logit,
        "terms": terms,
        "sum": found.total,
        "remainder": found.remainder,
    }
