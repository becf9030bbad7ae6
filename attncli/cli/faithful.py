"""`attncli faithful`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource
from attncli.cli.texts import note_if_like_a_file
from attncli.config import SampleConfig
from attncli.config.limits import at_least
from attncli.config.option import argument, option, option_from
from attncli.config.values import COUNT
from attncli.errors import UsageProblem
from attncli.explain.defaults import LEAST_TEXTS, PASSAGES
from attncli.paths import is_file

_TEXTS = "Texts, text files, or - for standard input. Files are sampled: random passages are drawn from them."
_LIMIT = f"The largest number of passages to draw from the files. Unset: {PASSAGES}."


def faithful(
    *,
    texts: tuple[str, ...] = argument((), _TEXTS, metavar="FILE|TEXT"),
    source: ModelSource,
    limit: int | None = option(None, _LIMIT, format=COUNT, limit=at_least(1)),
    seed: int = option_from(SampleConfig, "seed"),
    json: bool = JSON,
) -> None:
    """Test which ranking of the sources is faithful to the prediction: mask the top sources, then all other sources.

    attncli faithful book.txt
    attncli faithful book.txt --limit 200 --seed 1
    """
    if not texts:
        raise UsageProblem("There is no text.", "For example: attncli faithful book.txt")
    files = [text for text in texts if text == "-" or is_file(text)]
    given = [text for text in texts if text not in files]
    for text in given:
        note_if_like_a_file(text)
    passages = (limit or PASSAGES) if files else 0
    if len(given) + passages < LEAST_TEXTS:
        raise UsageProblem(
            f"{LEAST_TEXTS} texts are needed; the number given is {len(given) + passages}.",
            f"Give more texts, or a file and --limit of at least {LEAST_TEXTS}.",
        )
    from attncli.cli.bodies.faithful import run

    run(given, files, source, passages, seed, json=json)
