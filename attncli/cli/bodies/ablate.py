"""`attncli ablate`: ablates some heads or edges, or each head in turn, and prints what the prediction loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.errors import UsageProblem
from attncli.explain.ablation import Edge, Without, ablate, edges_between
from attncli.explain.locate import find_token
from attncli.render.ablation import ablation_document, ablation_screen
from attncli.text.tokenizer import Piece


def run(
    text: str,
    source: ModelSource,
    heads: tuple[tuple[int, int], ...],
    edges: Sequence[str],
    token: str | None,
    replacement: Literal["zero", "mean"],
    *,
    json: bool,
) -> None:
    """Prints what the prediction loses. Raises UsageProblem for an edge, head or token that does not exist."""
    loaded = load(source)
    loaded.refuse_encoder("predicts no next token")
    loaded.refuse_translator("ablates a decoder alone")
    pieces = loaded.pieces(text)
    cut = tuple(dict.fromkeys(pair for edge in edges for pair in _parse_edge(edge, pieces)))
    finding = ablate(
        loaded.model,
        loaded.tokenizer,
        pieces,
        [Without(heads, cut)] if heads or cut else None,
        token=find_token(pieces, token) if token is not None else None,
        replacement=replacement,
    )
    show_result(
        lambda: ablation_document(finding, loaded.name),
        lambda console: ablation_screen(finding, loaded.name, console.width, everything=not (heads or cut)),
        json=json,
    )


def _parse_edge(edge: str, pieces: Sequence[Piece]) -> tuple[Edge, ...]:
    """Returns the edges of one --edge: '6:4' -> ((6, 4),). A word stands for each of its tokens, as in 'mat:cat'."""
    query, colon, source = edge.partition(":")
    if not (query and colon and source):
        raise UsageProblem(
            f"--edge {edge!r} is not an edge.",
            "Use QUERY:SOURCE, such as 6:4 to mask the attention of token 6 to token 4.",
        )
    return edges_between(pieces, query, source)
