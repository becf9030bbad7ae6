"""SampleConfig: how the next token is sampled, or how beam search chooses the text.

The sampling steps are implemented in generation/sampling.py, beam search in generation/beams.py.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, fields

from attncli.config.limits import FINITE_ABOVE_0, FINITE_FROM_0, SEED, Limit, at_least, is_whole
from attncli.config.option import check, option, options_of
from attncli.config.values import BIAS, COUNT
from attncli.errors import UsageProblem

_MOST_SAMPLES = 10_000
_LARGEST_ADDED = 1_000_000  # to a logit; with a larger number, float32 would round the logit away
_MOST_BEAMS = 64
_LARGEST_PENALTY = 40  # an exponent: the power of the longest context, (2^24)^40, is a finite number
_DRAW = "Sampling, applied in this order"  # the order of generation/sampling.py
_SEARCH = "Beam search, instead of sampling"
SAMPLES = ("temperature", "top_k", "top_p", "min_p", "typical", "num_samples", "seed")  # fields that ask for sampling
_NOT_WITH_BEAMS = ("repetition_penalty", "presence_penalty", "top_k", "top_p", "min_p", "typical")

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
        "Values above 1 make a text more varied, values below 1 more predictable. 0, the default for a translation, "
        "takes the most probable token and skips the filters.",
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
        "Sample from the fewest tokens whose probabilities sum to at least X; 1 is off.",
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
    beams: int = option(
        1,
        "Beam search with N beams; 1 is off.",
        limit=Limit(
            f"a whole number from 1 (off) to {_MOST_BEAMS}", lambda count: is_whole(count) and 1 <= count <= _MOST_BEAMS
        ),
        off=1,
        panel=_SEARCH,
        metavar="N",
    )
    length_penalty: float = option(
        1.0,
        "The score of a text is its log-probability divided by its number of tokens to this power: values above 1 "
        "favor longer texts, values below 1 shorter ones.",
        limit=Limit(f"from {-_LARGEST_PENALTY} to {_LARGEST_PENALTY}", lambda value: abs(value) <= _LARGEST_PENALTY),
        panel=_SEARCH,
        rare=True,
    )
    seed: int = option(
        0,
        "The random seed: the same seed gives the same result. Unset: a new seed, which is printed.",
        "--seed",
        "-s",
        limit=SEED,
        unset=draw_seed,
    )
    forced_end: int | None = None  # the id of the last token that the limits allow, in a model that forces its end

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random, so that the seed matters."""
        return self.temperature > 0 and self.beams == 1

    def __post_init__(self) -> None:
        check(self)
        if self.beams > 1:
            self._refuse_sampling()
        elif self.length_penalty != 1:
            raise UsageProblem.naming(
                lambda named: (
                    f"{named('length_penalty')} {self.length_penalty:g} applies only to beam search.",
                    f"Give {named('beams')} 2 or more, or leave {named('length_penalty')} out.",
                )
            )
        tokens = [token for token, _ in self.logit_bias]
        for token, bias in self.logit_bias:
            _TOKEN.check("logit_bias", token)
            _BIAS.check("logit_bias", bias)
            if tokens.count(token) > 1:
                raise _named_twice(token)

    def _refuse_sampling(self) -> None:
        """Raises UsageProblem for a setting that beam search does not have."""
        defaults, options = {one.name: one.default for one in fields(self)}, options_of(SampleConfig)
        changed = [name for name in _NOT_WITH_BEAMS if getattr(self, name) not in (defaults[name], options[name].off)]
        if self.temperature not in (0, defaults["temperature"]):
            changed.append("temperature")
        if changed:
            raise UsageProblem.naming(
                lambda named: (
                    f"{named('beams')} {self.beams} searches for the most probable text and samples no tokens.",
                    f"Leave out {' and '.join(map(named, changed))}, or {named('beams')}.",
                )
            )
        if self.num_samples > self.beams:
            raise UsageProblem.naming(
                lambda named: (
                    f"{named('beams')} {self.beams} finds at most {self.beams} texts, "
                    f"and {named('num_samples')} is {self.num_samples}.",
                    f"Give at least {named('beams')} {self.num_samples}, or a smaller {named('num_samples')}.",
                )
            )


def _named_twice(token: int | str) -> UsageProblem:
    shown = f"#{token}" if isinstance(token, int) else repr(token)
    return UsageProblem.naming(
        lambda name: (f"{name('logit_bias')} names the token {shown} twice.", "Give one number for each token.")
    )
