"""SampleConfig: how the next token is sampled. The sampling steps are implemented in generation/sampling.py."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

from attncli.config.limits import FINITE_ABOVE_0, FINITE_FROM_0, SEED, Limit, at_least, is_whole
from attncli.config.option import check, option
from attncli.config.values import BIAS, COUNT
from attncli.errors import UsageProblem

_MOST_SAMPLES = 10_000
_LARGEST_ADDED = 1_000_000  # to a logit; with a larger number, float32 would round the logit away
_DRAW = "Sampling, applied in this order"  # the order of generation/sampling.py

_SHARE = Limit("above 0 and at most 1 (off)", lambda share: 0 < share <= 1)
_ADDABLE = Limit(
    f"from {-_LARGEST_ADDED:,} to {_LARGEST_ADDED:,}", lambda value: -_LARGEST_ADDED <= value <= _LARGEST_ADDED
)
_BIAS = Limit(f"-inf (a ban) or {_ADDABLE.rule}", lambda bias: bias == -math.inf or _ADDABLE.holds(bias))
_TOKEN = Limit("the text of a token, or its id from 0", lambda token: token >= 0 if isinstance(token, int) else token)


def draw_seed() -> int:
    """Returns a random seed, for a command without --seed. It has at most six digits, so that it is easy to type."""
    return secrets.randbelow(10**6)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The settings that decide the text for a prompt: the sampling steps, the length, stop strings and the seed."""

    logit_bias: tuple[tuple[int | str, float], ...] = option(  # (token, number) pairs; a token is an id or a text
        (),
        "Add a number to the logit of a token, named by its text or #ID; -inf bans it. May be given several times.",
        format=BIAS,
        off=(),
        panel=_DRAW,
        rare=True,
        example='" cat=2.5"',
    )
    repetition_penalty: float = option(
        1.0,
        "Values above 1 make tokens that are already in the prompt or the text less likely; 1 is off.",
        limit=Limit("above 0 (1 is off)", FINITE_ABOVE_0.holds),
        off=1.0,
        panel=_DRAW,
        rare=True,
    )
    presence_penalty: float = option(
        0.0,
        "Values above 0 make tokens that were already generated less likely; the prompt does not count. 0 is off.",
        limit=_ADDABLE,
        off=0.0,
        panel=_DRAW,
        rare=True,
    )
    temperature: float = option(
        1.0,
        "Values above 1 make a text more varied, values below 1 more predictable. 0 takes the most probable token and "
        "skips top-k, top-p, min-p and typical.",
        "--temperature",
        "-t",
        limit=FINITE_FROM_0,
        panel=_DRAW,
    )
    top_k: int = option(
        0,
        "Sample from the k most probable tokens; 0 is off.",
        limit=Limit("a whole number, 0 (off) or above", lambda count: is_whole(count) and count >= 0),
        off=0,
        panel=_DRAW,
        letter="k",
    )
    top_p: float = option(
        1.0,
        "Sample from the smallest set of tokens whose probabilities sum to at least X; 1 is off.",
        limit=_SHARE,
        off=1.0,
        panel=_DRAW,
        letter="p",
    )
    min_p: float = option(  # the default avoids most misspellings by small models (benchmarks/README.md)
        0.05,
        "Drop tokens less probable than X times the most probable token; 0 is off.",
        limit=Limit("from 0 (off) to 1", lambda share: 0 <= share <= 1),
        off=0.0,
        panel=_DRAW,
    )
    typical: float = option(
        1.0,
        "Locally typical sampling: keep the tokens whose surprisal is closest to the entropy, until their "
        "probabilities sum to X; 1 is off.",
        limit=_SHARE,
        off=1.0,
        panel=_DRAW,
        rare=True,
    )
    max_new_tokens: int = option(
        200, "The maximum number of new tokens.", "--max-new-tokens", "-n", format=COUNT, limit=at_least(1)
    )
    num_samples: int = option(
        1,
        "Number of texts to generate, in a batch.",
        limit=Limit(
            f"a whole number from 1 to {_MOST_SAMPLES:,}", lambda count: is_whole(count) and 1 <= count <= _MOST_SAMPLES
        ),
    )
    stop: tuple[str, ...] = option(
        (),
        "Stop before this string. May be given several times.",
        limit=Limit("at least one character", bool),
        off=(),
        example="END",
    )
    seed: int = option(
        0,
        "The random seed: the same seed gives the same result. Unset: a new seed, which is printed.",
        "--seed",
        "-s",
        limit=SEED,
        unset=draw_seed,
    )

    def __post_init__(self) -> None:
        check(self)
        tokens = [token for token, _ in self.logit_bias]
        for token, bias in self.logit_bias:
            _TOKEN.check("logit_bias", token)
            _BIAS.check("logit_bias", bias)
            if tokens.count(token) > 1:
                raise _named_twice(token)


def _named_twice(token: int | str) -> UsageProblem:
    shown = f"#{token}" if isinstance(token, int) else repr(token)
    return UsageProblem.naming(
        lambda name: (f"{name('logit_bias')} names the token {shown} twice.", "Give one number for each token.")
    )
