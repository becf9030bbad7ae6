"""SampleConfig: how the next token is drawn. Every default and limit stands here once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from attncli.config.limits import is_positive, require
from attncli.errors import UsageProblem

_MOST_SAMPLES = 10_000
_LARGEST_ADDED = 1_000_000  # to a logit, either way; beyond, float32 would round away the logit itself
_ADDABLE = f"from {-_LARGEST_ADDED:,} to {_LARGEST_ADDED:,}"


SAMPLING_OFF: dict[str, Any] = {  # where a step of drawing does nothing
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "logit_bias": (),
    "stop": (),
}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is drawn from the model's distribution."""

    temperature: float = 1.0  # 0 takes the most probable token
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0  # 1 keeps all
    min_p: float = 0.05  # 0 keeps all; this much takes away what a small model spells wrong (benchmarks/README.md)
    typical: float = 1.0  # 1 keeps all
    repetition_penalty: float = 1.0  # 1 changes nothing
    presence_penalty: float = 0.0  # 0 changes nothing
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids, and what is added to the logit of each; -inf bans
    max_new_tokens: int = 200
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.temperature) and self.temperature >= 0
        require(finite, "--temperature", self.temperature, "a finite number, 0 or above")
        require(self.top_k >= 0, "--top-k", self.top_k, "0 (off) or above")
        require(0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1 (off)")
        require(0 <= self.min_p <= 1, "--min-p", self.min_p, "from 0 (off) to 1")
        require(0 < self.typical <= 1, "--typical", self.typical, "above 0 and at most 1 (off)")
        require(
            is_positive(self.repetition_penalty), "--repetition-penalty", self.repetition_penalty, "above 0 (1 is off)"
        )
        require(_addable(self.presence_penalty), "--presence-penalty", self.presence_penalty, _ADDABLE)
        for id_, bias in self.logit_bias:
            require(id_ >= 0, "--logit-bias", f"#{id_}", "of a token, #0 or above")
            require(bias == -math.inf or _addable(bias), "--logit-bias", bias, f"-inf (a ban) or {_ADDABLE}")
        ids = [id_ for id_, _ in self.logit_bias]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise UsageProblem(f"--logit-bias names the token #{id_} twice.", "Give one number for each token.")
        require(self.max_new_tokens >= 1, "--max-new-tokens", self.max_new_tokens, "at least 1")
        most = _MOST_SAMPLES
        require(1 <= self.num_samples <= most, "--num-samples", self.num_samples, f"from 1 to {most:,}")
        require(all(self.stop), "--stop", "", "at least one character")
        require(0 <= self.seed < 2**63, "--seed", self.seed, "from 0 to 2^63 - 1")

    @classmethod
    def chosen(cls, **options: Any) -> Self:
        """A config from options of which None means the default of this class."""
        known = {field.name for field in fields(cls)}
        assert set(options) <= known
        return cls(**{name: value for name, value in options.items() if value is not None})


def _addable(value: float) -> bool:
    return -_LARGEST_ADDED <= value <= _LARGEST_ADDED
