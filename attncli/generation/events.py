"""The events and records of a generation: frozen dataclasses without torch.

`engine.generate` yields events: Text, Finished, PromptsRead, Reread, and Token if details are requested. The modules
`token_details`, `candidates`, `stopwatch` and `verify` return the other records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal["length", "stop", "end"]


@dataclass(frozen=True)
class Text:
    """New text of a sample. The text is final: later tokens do not change it."""

    sample: int
    text: str


@dataclass(frozen=True)
class Finished:
    """The end of a sample: `reason` is the token limit, a stop string or an end token."""

    sample: int
    reason: Reason
    ids: tuple[int, ...]  # all generated tokens, including the stop string's tokens or the end token


@dataclass(frozen=True)
class PromptsRead:
    """The prefill of new prompts, including the draw of each first token. Equal prompts are read and counted once."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class Reread:
    """The restart of a sample whose context was full: the model continues from its `kept` most recent tokens."""

    kept: int


@dataclass(frozen=True)
class Throughput:
    """The speed of a generation."""

    prompt_tokens: int  # equal prompts counted once
    prompt_seconds: float  # for the prompts and the first token of each text
    first_token_seconds: float  # from the start of the command until the first token
    new_tokens: int
    later_tokens: int  # new tokens except the first of each text
    later_seconds: float  # for the later tokens

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first token of each text, total of all texts; None if there are none."""
        return self.later_tokens / self.later_seconds if self.later_tokens and self.later_seconds else None


@dataclass(frozen=True)
class TokenLogprob:
    """A possible next token with its log-probability in nats."""

    id: int
    text: str  # the text of this token alone; an incomplete character is U+FFFD
    logprob: float

    @property
    def probability(self) -> float:
        """The probability, from 0 to 1."""
        return math.exp(self.logprob)


@dataclass(frozen=True)
class TraceStep:
    """The effect of one sampling step on the distribution. The first step, `model`, is the model's own distribution."""

    name: str  # the option's name, without leading dashes: 'top-p'
    setting: float | None  # the option's value; None for `model` and `logit-bias`, which have no number
    removed: int  # the number of tokens that the step removed
    removed_probability: float  # the total probability of the removed tokens before the step
    left: int  # the number of tokens that remain after the step
    best: tuple[TokenLogprob, ...]  # the most probable remaining tokens; their probabilities are renormalized


@dataclass(frozen=True)
class Trace:
    """The effect of each sampling step on the draw of one token."""

    steps: tuple[TraceStep, ...]
    probability: float  # of the drawn token, after the last step


@dataclass(frozen=True)
class Token:
    """A newly drawn token with its details. Its text is not final, because a stop string may remove it."""

    sample: int
    id: int
    text: str  # the text of this token alone; an incomplete character is U+FFFD
    logprob: float  # in nats, under the model's own distribution: temperature 1, no token removed
    top: tuple[TokenLogprob, ...] = ()  # the most probable tokens of the model's own distribution, as many as requested
    trace: Trace | None = None
    characters: int = 0  # the number of characters that this token completes

    @property
    def bits(self) -> float:
        """The surprise in bits: -log2 of the probability; 0 for a token with probability 1."""
        return abs(self.logprob) / math.log(2)


@dataclass(frozen=True)
class Candidate:
    """A possible next token with its probability at each temperature."""

    id: int
    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Candidates:
    """The most probable next tokens, or the most probable tokens for a mask; most probable first."""

    temperatures: tuple[float, ...]
    tokens: tuple[Candidate, ...]
    mask: int | None = None  # the index of the mask among the tokens of the text; None for next tokens

    @property
    def rest(self) -> tuple[float, ...]:
        """The total probability of all other tokens, at each temperature."""
        columns = zip(*(token.probabilities for token in self.tokens), strict=True)
        return tuple(max(1 - sum(column), 0.0) for column in columns)


@dataclass(frozen=True)
class Sample:
    """The generated ids and the text of a finished sample."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Difference:
    """The first token that differs between a sample and its repetition."""

    sample: int
    token: int  # the index of the token among the generated tokens
    expected: int | None  # the id in the original; None if the original is shorter
    found: int | None  # the id in the repetition; None if the repetition is shorter


CheckName = Literal["alone", "batch", "uncached", "guesses", "decoded", "threads", "pytorch"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of generating all samples again in another way and comparing them with the original samples."""

    name: CheckName
    required: bool  # whether the samples must be equal
    samples: int
    tokens: int  # the total of all samples
    differing: int  # the number of samples that differ
    difference: Difference | None  # the difference of the first sample that differs
    batch: int | None = None  # texts in the batch
    threads: tuple[int, ...] | None = None  # the thread counts that were compared
    guesses: int | None = None  # the number of guessed tokens that were read
    logit_difference: float | None = None  # the largest difference at any token; both backends read the original tokens
    logit_tolerance: float | None = None  # the largest difference that rounding can explain

    @property
    def logits_differ(self) -> bool:
        """Whether the logits differ by more than the tolerance."""
        if self.logit_difference is None or self.logit_tolerance is None:
            return False
        return not (math.isfinite(self.logit_difference) and self.logit_difference <= self.logit_tolerance)

    @property
    def fails(self) -> bool:
        """Whether the check failed: samples that must be equal differ, or logits exceed the tolerance."""
        return (self.required and self.differing > 0) or self.logits_differ


Event = Text | Finished | PromptsRead | Reread | Token
