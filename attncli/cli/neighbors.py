"""`attncli neighbors`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.limits import at_least
from attncli.config.option import REQUIRED, argument, option
from attncli.errors import UsageProblem

_IN = "A text with the word: use the word's residual stream in this text. Unset: use the word's embedding."
_LAYER = "With --in: the residual stream after this number of layers; 0 is the embedding. Unset: after the last layer."
_AMONG = "With --in: compare with all token embeddings, or with the text's other tokens."


def neighbors(
    *,
    word: str = argument(REQUIRED, "A word; with --in, a word of the text or the index of a token."),
    source: ModelSource,
    inside: str | None = option(None, _IN, "--in", metavar="TEXT"),
    layer: int | None = option(None, _LAYER, limit=at_least(0)),
    among: str = option("vocabulary", _AMONG, choices=("vocabulary", "text"), rare=True),
    top_k: int = option(10, "How many tokens to show.", "--top-k", "-k", limit=at_least(1)),
    json: bool = JSON,
    pictures: Pictures,
) -> None:
    """Show the tokens nearest to a word by cosine similarity, compared with chance.

    attncli neighbors dog
    attncli neighbors bear --in "He could not bear" --layer 4
    """
    if inside is None and (layer is not None or among == "text"):
        raise UsageProblem("--layer and --among text need a text.", f"Add --in 'a text with {word} in it'.")
    pictures.refuse()
    from attncli.cli.bodies.neighbors import Question, run

    run(Question(word, inside, layer, "text" if among == "text" else "vocabulary", top_k), source, json, pictures)
