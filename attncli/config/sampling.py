"""SampleConfig: how the next token is sampled. A setting is one field here and one step in generation/sampling.py."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

from attncli.config.limits import FINITE_FROM_0, SEED, Limit, at_least, is_positive, is_whole
from attncli.config.option import check, option
from attncli.config.values import BIAS, COUNT
from attncli.errors import UsageProblem

_MOST_SAMPLES = 10_000
_LARGEST_ADDED = 1_000_000  # to a logit or subtracted from it; with more, float32 would lose the logit to rounding
_DRAW = "Sampling, applied in this order"  # the order of generation/sampling.py

_SHARE = Limit("above 0 and at most 1 (off)", lambda share: 0 < share <= 1)
_ADDABLE = Limit(
    f"from {-_LARGEST_ADDED:,} to {_LARGEST_ADDED:,}", lambda value: -_LARGEST_ADDED <= value <= _LARGEST_ADDED
)
_BIAS = Limit(f"-inf (a ban) or {_ADDABLE.rule}", lambda bias: bias == -math.inf or _ADDABLE.holds(bias))
_TOKEN = Limit("the text of a token, or its id from 0", lambda token: token >= 0 if isinstance(token, int) else token)


def draw_seed() -> int:
    """Draws the seed of a run without --seed. The seed is small enough to type."""
    return secrets.randbelow(10**6)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is sampled from the model's distribution."""

    logit_bias: tuple[tuple[int | str, float], ...] = option(  # pairs of a token, as id or text, and the number to add
        (),
        "Add a number to the logit of a token, given by its text or as #ID; -inf bans it. May be given several times.",
        format=BIAS,
        off=(),
        panel=_DRAW,
        rare=True,
        example='" cat=2.5"',
    )
    repetition_penalty: float = option(
        1.0,
        "Values above 1 make tokens that are already in the prompt or the text less likely; 1 is off.",
        limit=Limit("above 0 (1 is off)", is_positive),
        off=1.0,
        panel=_DRAW,
        rare=True,
    )
    presence_penalty: float = option(
        0.0,
        "Values above 0 make tokens that were already generated less likely, not those of the prompt; 0 is off.",
        limit=_ADDABLE,
        off=0.0,
        panel=_DRAW,
        rare=True,
    )
    temperature: float = option(
        1.0,
        "Above 1 makes a text more varied, below 1 more predictable; 0 always takes the most probable token and skips "
        "top-k, top-p, min-p, typical.",
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
    min_p: float = option(  # the default removes most misspellings of a small model (benchmarks/README.md)
        0.05,
        "Drop tokens less probable than X times the most probable token; 0 is off.",
        limit=Limit("from 0 (off) to 1", lambda share: 0 <= share <= 1),
        off=0.0,
        panel=_DRAW,
    )
    typical: float = option(
        1.0,
        "Locally typical sampling: keep the tokens whose surprisal is closest to the entropy, up to total probability "
        "X; 1 is off.",
        limit=_SHARE,
        off=1.0,
        panel=_DRAW,
        rare=True,
    )
    max_new_tokens: int = option(
        200, "The most tokens to generate.", "--max-new-tokens", "-n", format=COUNT, limit=at_least(1)
    )
    num_samples: int = option(
        1,
        "How many texts to generate, in a batch.",
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
        "The same seed gives the same result. Unset: a random seed, which is printed.",
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
