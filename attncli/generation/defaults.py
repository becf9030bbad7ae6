"""Chooses the settings of a generation that depend on the model: prompts, sources, banned tokens, temperature."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.config.sampling import SAMPLES
from attncli.errors import UsageProblem
from attncli.generation.bias import with_token_ids

_LONGEST_TIMES, _LONGEST_PLUS = 2, 10  # of a translation's length, for each source token and in addition


def target_and_source(loaded: LoadedModel, ids: list[int], target: str | None) -> tuple[list[int], list[int] | None]:
    """Returns the decoder's prompt and its source, given ids from `loaded.prompt`.

    The source is None if the model does not translate. `target` is the beginning of a translation. Raises UsageProblem
    for a target if the model does not translate.
    """
    if loaded.translates:
        return loaded.target(target or ""), ids
    if target is not None:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('target')} is the beginning of a translation, and {loaded.name} does not translate.",
                f"Leave out {named('target')}.",
            )
        )
    return ids, None


def longest_translation(source_tokens: int, room: int) -> int:
    """Returns the largest number of tokens of a translation: 2 S + 10 for S source tokens, at least 1.

    `room` is the number of tokens that the context has left.
    """
    return max(min(_LONGEST_TIMES * source_tokens + _LONGEST_PLUS, room), 1)


def settings_for(loaded: LoadedModel, config: SampleConfig, given: Collection[str]) -> SampleConfig:
    """Returns the settings with which a model generates. `given` are the fields that the user has set.

    The tokens of the logit bias become ids, and the tokens that the model's directory bans are added to it. A target
    that reaches a limit ends with the token that the directory forces. An encoder-decoder takes the most probable token
    at each step (temperature 0), unless the user has set one of SAMPLES or searches with beams. Raises UsageProblem for
    a text of the logit bias that is not one token.
    """
    config = with_token_ids(config, loaded.tokenizer)
    named = {id_ for id_, _ in config.logit_bias}
    bans = tuple((id_, -math.inf) for id_ in sorted(loaded.banned) if id_ not in named)
    greedy = loaded.translates and config.beams == 1 and not any(name in given for name in SAMPLES)
    temperature = 0.0 if greedy else config.temperature
    return replace(config, logit_bias=config.logit_bias + bans, temperature=temperature, forced_end=loaded.forced_end)
