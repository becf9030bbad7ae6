"""`attncli analogy`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.limits import at_least
from attncli.config.option import REQUIRED, argument, option


def analogy(
    *,
    a: str = argument(REQUIRED, "The first word, such as man: A is to B as C is to the answer.", metavar="A"),
    b: str = argument(REQUIRED, "The second word, such as king.", metavar="B"),
    c: str = argument(REQUIRED, "The third word, such as woman.", metavar="C"),
    source: ModelSource,
    expect: str | None = option(None, "The expected answer, whose rank is shown too.", metavar="WORD"),
    top_k: int = option(10, "How many tokens to show.", "--top-k", "-k", limit=at_least(1)),
    json: bool = JSON,
    pictures: Pictures,
) -> None:
    """Find the word that is to C as B is to A: the tokens nearest to B - A + C in the embedding, compared with chance.

    attncli analogy man king woman --expect queen
    attncli analogy boy he girl --expect she
    """
    pictures.refuse()
    from attncli.cli.bodies.analogy import run

    run((a, b, c), source, expect, top_k, json, pictures)
