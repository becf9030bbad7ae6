"""The screen of `attncli circuit why`: one attention score by pairs of components, and what the head wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.explain.ranking import ranked
from attncli.render.circuit_ends import signed_share
from attncli.render.escape import fit, fold, id_label, token_label
from attncli.render.heading import pieces_document, shape_of, titled
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.circuits.scores import ScoreAttribution

_PAIRS = 10  # of components
_PARTS = 8  # components in a table of one side
_LABEL = 12
_WIDEST_BAR = 20
_CHANCE = "± is one standard deviation for a random direction of the same length"


def why_screen(finding: ScoreAttribution, model: str, width: int) -> RenderableType:
    """Draws the score as a sum, its largest pairs, each side's components, and what the head wrote."""
    query, source = (_named(finding, at) for at in (finding.query, finding.source))
    facts = f"{shape_of(model, finding.layers, finding.heads)} · {plural(len(finding.pieces), 'token')}"
    title = f"Why does head {finding.layer}.{finding.head} look from {query} at {source}?"
    share = f"{percent(finding.weight)} of the attention of {query}; score {finding.score:+.2f}"
    parts: list[RenderableType] = [Text(fold(facts, width), "bold"), Text(), titled(title, share, width), Text()]
    parts += [titled("Pairs of components, what each adds to the score", _CHANCE, width), _pairs(finding, width)]
    parts += [Text(fold(_sum(finding), width), "dim"), Text()]
    for axis, side, at in ((1, "query", query), (0, "key", source)):
        parts += [titled(f"What wrote the {side} of {at}", "each component with the whole other side", width)]
        parts += [_side(finding, axis, width), Text()]
    parts += [*_written(finding, width), Text(), *_notes(finding, width)]
    return Group(*parts)


def _named(finding: ScoreAttribution, at: int) -> str:
    return f"{token_label(finding.pieces[at], _LABEL)} [{at}]"


def _apart(finding: ScoreAttribution) -> Floats:
    """Returns by how much each term exceeds its mean over all sources of the query."""
    apart: Floats = finding.terms - finding.average
    return apart


def _pairs(finding: ScoreAttribution, width: int) -> Table:
    """Returns the pairs with the largest terms, relative to the mean over all sources of the query."""
    apart = _apart(finding)
    order = ranked(np.abs(apart).ravel())[:_PAIRS]
    widest = float(np.abs(apart).max()) or 1.0
    room = max(min(width - 52, _WIDEST_BAR), 0)
    table = _columns("left", "left", "right", "right", "right", "left")
    table.add_row(*(Text(name, "dim") for name in ("query from", "key from", "score", "±", "vs mean", "")))
    for at in order:
        one, two = divmod(at, len(finding.components))
        value = float(apart[one, two])
        table.add_row(
            finding.components[one],
            finding.components[two],
            f"{finding.terms[one, two]:+.2f}",
            f"{finding.chance[one, two]:.2f}",
            f"{value:+.2f}",
            Text(bar(abs(value) / widest, room), BAR if value > 0 else "yellow"),
        )
    return table


def _columns(*justified: Any) -> Table:
    table = Table.grid(padding=(0, 1))
    for justify in justified:
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def _sum(finding: ScoreAttribution) -> str:
    pairs = finding.terms.size
    relative = f" and {finding.relative:+.2f} for the relative position" if finding.relative else ""
    remainder = abs(finding.score - finding.total)
    exact = "less than 1e-9" if remainder < 1e-9 else f"{remainder:.1e}"
    return (
        f"All {pairs:,} pairs{relative} sum to {finding.total:+.4f}; the model's score differs by {exact}. 'vs mean' "
        "is the term minus its mean over all tokens that the query can look at."
    )


def _side(finding: ScoreAttribution, axis: int, width: int) -> Table:
    """Returns the components of the query (axis 1) or of the key (axis 0), with the whole other side."""
    terms, apart = finding.terms.sum(axis), _apart(finding).sum(axis)
    order = ranked(np.abs(apart))[:_PARTS]
    widest = float(np.abs(apart).max()) or 1.0
    room = max(min(width - 34, _WIDEST_BAR), 0)
    table = _columns("left", "right", "right", "left")
    table.add_row(*(Text(name, "dim") for name in ("component", "score", "vs mean", "")))
    for at in order:
        drawn = Text(bar(abs(float(apart[at])) / widest, room), BAR if apart[at] > 0 else "yellow")
        table.add_row(finding.components[at], f"{terms[at]:+.2f}", f"{apart[at]:+.2f}", drawn)
    return table


def _written(finding: ScoreAttribution, width: int) -> list[RenderableType]:
    """Returns what the head wrote from the source: the tokens that it raises, by component of the source."""
    write = finding.written
    shown = max(min((width - 24) // 14, len(write.tokens)), 1)
    order = ranked(np.abs(write.shares))[:_PARTS]
    title = f"What it writes there from {_named(finding, finding.source)}"
    lines: list[RenderableType] = [titled(title, "logits that it raises directly; " + _CHANCE, width)]
    table = _columns("left", "right", *["right"] * shown)
    names = [fit(id_label(*token), 11) for token in write.tokens[:shown]]
    table.add_row(*(Text(name, "dim") for name in ("value from", "share", *names)))
    total = [f"{value:+.2f}" for value in write.logits.sum(0)[:shown]]
    table.add_row("all", "100%", *total)
    for at in order:
        cells = [f"{write.logits[at, i]:+.2f}±{write.chance[at, i]:.2f}" for i in range(shown)]
        table.add_row(finding.components[at], signed_share(float(write.shares[at])), *cells)
    return [*lines, table]


def _notes(finding: ScoreAttribution, width: int) -> list[Text]:
    frozen = ", and so are the norms of query and key" if finding.frozen else ""
    notes = [
        f"Norms are held at their actual scales{frozen}: that makes the sum exact, and leaves out that a component "
        "also changes the scale. 'biases' are all constants together.",
        "Attention depends on scores relative to other tokens, so 'vs mean' says what makes this token stand out.",
    ]
    return [Text(fold(note, width), "dim") for note in notes if cell_len(note)]


def why_document(finding: ScoreAttribution, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    write = finding.written
    return {
        "model": model,
        "layers": finding.layers,
        "heads": finding.heads,
        "tokens": pieces_document(finding.pieces),
        "layer": finding.layer,
        "head": finding.head,
        "query": finding.query,
        "source": finding.source,
        "score": finding.score,
        "weight": finding.weight,
        "components": list(finding.components),
        "terms": finding.terms.tolist(),
        "average": finding.average.tolist(),
        "chance": finding.chance.tolist(),
        "relative_position": finding.relative,
        "frozen_query_key_norm": finding.frozen,
        "written": {
            "norm": write.norm,
            "shares": write.shares.tolist(),
            "tokens": [{"id": id_, "text": text} for id_, text in write.tokens],
            "logits": write.logits.tolist(),
            "chance": write.chance.tolist(),
        },
    }
