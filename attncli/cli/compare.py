"""`attncli compare`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource, PageFile, Pictures
from attncli.config.limits import at_least
from attncli.config.option import REQUIRED, argument, option

_TOKEN = (
    "The word, or the index of a token; give one for each text, or one for both. Unset: the only word in both texts."
)
_LAYER = "Measure the difference after this number of layers; 0 is the embedding. Unset: after the last layer."


def compare(
    *,
    a: str = argument(REQUIRED, "The first text.", metavar="A"),
    b: str = argument(REQUIRED, "The second text.", metavar="B"),
    source: ModelSource,
    token: tuple[str, ...] = option((), _TOKEN),
    layer: int | None = option(None, _LAYER, limit=at_least(0)),
    json: bool = JSON,
    page: PageFile,
    pictures: Pictures,
) -> None:
    """Compare a word's vectors in two texts, layer by layer, and show which tokens made them differ.

    attncli compare "He could not bear" "She saw a big brown bear"
    attncli compare "his right hand, then his left" "sad when her mom left"
    """
    pictures.refuse({"--page": page.page})
    from attncli.cli.bodies.compare import run

    run((a, b), source, token, layer, json, page, pictures)
