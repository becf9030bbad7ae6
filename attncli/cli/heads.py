"""`attncli heads`."""

from __future__ import annotations

from attncli.cli.shared import JSON, MODEL_ARGUMENT, ModelSource
from attncli.config import SampleConfig
from attncli.config.option import option, option_from
from attncli.config.values import COUNT

_LENGTH = "Random tokens, which come twice. Unset: by the model's context and windows, at most 50."


def heads(
    *,
    name: str | None = MODEL_ARGUMENT,
    source: ModelSource,
    length: int | None = option(None, _LENGTH, format=COUNT),
    repeats: int | None = option(None, "How many random texts to average over. Unset: 32."),
    everyone: bool = option(False, "Also every head's scores, a row a head.", "--all"),
    seed: int = option_from(SampleConfig, "seed"),
    json: bool = JSON,
) -> None:
    """Find out what every head is for: previous token, duplicate, induction or sink, each beside chance.

    attncli heads
    attncli heads my-model --all
    """
    from attncli.cli.bodies.heads import run

    run(source.named(name), length, repeats, seed, everyone=everyone, json=json)
