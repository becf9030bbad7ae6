"""`attncli heads`."""

from __future__ import annotations

from attncli.cli.shared import JSON, MODEL_ARGUMENT, ModelSource
from attncli.config import SampleConfig
from attncli.config.option import option, option_from
from attncli.config.values import COUNT
from attncli.explain.defaults import HEAD_TEXTS, HEAD_TOKENS, PARTS, SOURCE_HEAD_TOKENS, AttentionPart

_LENGTH = (
    f"Number of random tokens; the text is these tokens twice. Unset: by context and windows, at most {HEAD_TOKENS}, "
    f"or {SOURCE_HEAD_TOKENS} for a model that translates."
)
_PART = "For a model that translates: show only this attention, with the three best heads of each kind."
_REPEATS = f"How many random texts to average over. Unset: {HEAD_TEXTS}."


def heads(
    *,
    name: str | None = MODEL_ARGUMENT,
    source: ModelSource,
    length: int | None = option(None, _LENGTH, format=COUNT),
    repeats: int | None = option(None, _REPEATS),
    part: AttentionPart | None = option(None, _PART, choices=PARTS),
    everyone: bool = option(False, "Also show the scores of every head, one row per head.", "--all"),
    seed: int = option_from(SampleConfig, "seed"),
    json: bool = JSON,
) -> None:
    """Find out what every head does: previous token, duplicate, induction or sink, compared with chance.

    attncli heads
    attncli heads my-model --all
    """
    from attncli.cli.bodies.heads import run

    run(source.named(name), length, repeats, seed, part, everyone=everyone, json=json)
