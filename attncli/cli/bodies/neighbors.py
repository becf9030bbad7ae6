"""`attncli neighbors`: the tokens nearest to a word's embedding, or to its residual stream in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.explain.geometry import Neighbors, neighbors, neighbors_in_text, spell
from attncli.render.geometry import neighbors_document, neighbors_screen


@dataclass(frozen=True)
class Question:
    """The arguments of `attncli neighbors`: a word, optionally its text and layer, where to search, and a count."""

    word: str
    inside: str | None
    layer: int | None
    among: Literal["vocabulary", "text"]
    count: int


def run(question: Question, source: ModelSource, json: bool, pictures: Pictures) -> None:
    """Prints the nearest tokens. Raises UsageProblem for a word or layer that does not exist."""
    loaded = load(source)
    finding = _neighbors(question, loaded)
    show_result(
        lambda: neighbors_document(finding, loaded.name),
        lambda console: neighbors_screen(finding, loaded.name, console),
        json=json,
        title="attncli neighbors",
        pictures=pictures,
    )


def _neighbors(question: Question, loaded: LoadedModel) -> Neighbors:
    network, tokenizer, word, count = loaded.model, loaded.tokenizer, question.word, question.count
    if question.inside is None:
        return neighbors(network, tokenizer, spell(tokenizer, word), count=count)
    text = loaded.pieces(question.inside)
    return neighbors_in_text(network, tokenizer, text, word, layer=question.layer, among=question.among, count=count)
