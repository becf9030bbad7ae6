"""`attncli ablate`: ablates some heads or edges, or each head in turn, and prints what the prediction loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.errors import UsageProblem
from attncli.explain.ablated_pass import Edge, Head, Without
from attncli.explain.ablation import ablate, edges_between
from attncli.explain.defaults import PARTS, AttentionPart, Replacement
from attncli.explain.locate import TextKind, find_token
from attncli.explain.question import MapAxes
from attncli.explain.reading import BOTH, Reading, TextPair
from attncli.render.ablation import ablation_document, ablation_screen
from attncli.views import ViewOptions, refuse_part, text_of


def run(
    text: str,
    source: ModelSource,
    heads: tuple[Head, ...],
    edges: Sequence[str],
    token: str | None,
    replacement: Replacement,
    part: AttentionPart | None,
    target: str | None,
    pair: str | None,
    *,
    json: bool,
) -> None:
    """Prints what the prediction loses. Raises UsageProblem for an edge, head or token that does not exist."""
    loaded = load(source)
    reading = _reading(loaded, text, part, ViewOptions(target=target, pair=pair))
    removed = None if not (heads or edges) else [_without(loaded, reading, heads, edges, part)]
    axes = (replace(reading, parts=BOTH) if loaded.translates else reading).axes
    named: TextKind = "target text" if loaded.translates else "text"
    finding = ablate(
        reading,
        loaded.tokenizer,
        removed,
        token=None if token is None else find_token(axes.rows, token, axes.first, named),
        replacement=replacement,
    )
    show_result(
        lambda: ablation_document(finding, loaded.name),
        lambda console: ablation_screen(finding, loaded.name, console.width, everything=removed is None),
        json=json,
    )


def _reading(loaded: LoadedModel, text: str, part: AttentionPart | None, options: ViewOptions) -> Reading:
    """Returns a text, or a text and its translation, with the attentions whose heads are ablated.

    The options are `target`, the translation, and `pair`, the second text for BERT.
    """
    refuse_part(loaded, part)
    if options.target is not None and not loaded.translates:
        raise UsageProblem(f"--target is a translation, and {loaded.name} does not translate.", "Leave --target out.")
    read = text_of(loaded, text, options)
    if isinstance(read, TextPair):
        return Reading.translated(loaded.model, read, PARTS if part is None else [part])
    reading = Reading.of(loaded.model, read)
    if not reading.predicts:
        raise UsageProblem(
            f"{loaded.name} is an encoder without an output head, so it predicts nothing.",
            "attncli explain shows its attention.",
        )
    return reading


def _without(
    loaded: LoadedModel, reading: Reading, heads: tuple[Head, ...], edges: Sequence[str], part: AttentionPart | None
) -> Without:
    """Returns the heads and edges to ablate. Raises UsageProblem if an encoder-decoder is given no attention."""
    if loaded.translates and part is None:
        given = "--head" if heads else "--edge"
        raise UsageProblem(
            f"{loaded.name} has an encoder, a decoder and cross-attention, so {given} is ambiguous.",
            f"Choose with {' or '.join(f'--part {name}' for name in PARTS)}.",
        )
    cut = tuple(dict.fromkeys(pair for edge in edges for pair in _parse_edge(edge, reading.axes)))
    return Without(heads, cut, reading.parts[0])


def _parse_edge(edge: str, axes: MapAxes) -> tuple[Edge, ...]:
    """Returns the edges of one --edge: '6:4' -> ((6, 4),). A word stands for each of its tokens, as in 'mat:cat'."""
    query, colon, source = edge.partition(":")
    if not (query and colon and source):
        raise UsageProblem(
            f"--edge {edge!r} is not an edge.",
            "Use QUERY:SOURCE, such as 6:4 to mask the attention of token 6 to token 4.",
        )
    return edges_between(axes, query, source)
