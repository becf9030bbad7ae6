"""The events and records of a generation: frozen dataclasses without torch.

`engine.generate` yields an `Event`: Text, Finished, PromptsRead, Reread, or Token if details are requested. The other
records are returned by `token_details`, `candidates`, `stopwatch` and `verify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal["length", "stop", "end"]


@dataclass(frozen=True)
class Text:
    """New text of a sample. The text is final: later tokens only append to it."""

    sample: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A sample is complete: it reached the token limit, a stop string, or the end of the document."""

    sample: int
    reason: Reason
    ids: tuple[int, ...]  # all generated tokens, including the stop string's tokens or the end token


@dataclass(frozen=True)
class PromptsRead:
    """New prompts are read and the first token of each is drawn. Equal prompts are read once and counted once."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class Reread:
    """The context was full: the model reads the most recent `kept` tokens again and continues from them."""

    kept: int


@dataclass(frozen=True)
class Throughput:
    """The speed of a generation."""

    prompt_tokens: int  # equal prompts counted once
    prompt_seconds: float  # to read the prompts and draw the first token of each
    first_token_seconds: float  # from the start of the command to the first token
    new_tokens: int
    later_tokens: int  # new tokens except the first of each text
    later_seconds: float  # to generate the later tokens

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def rate(self) -> float | None:
        """Later tokens per second, all texts together."""
        return self.later_tokens / self.later_seconds if self.later_tokens and self.later_seconds else None


@dataclass(frozen=True)
class TokenLogprob:
    """A possible next token, with its log-probability in nats."""

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
    setting: float | None  # the option's value; None for `model` and `logit-bias`, which have no single number
    removed: int  # how many tokens the step removed
    removed_probability: float  # the total probability of the removed tokens before the step
    left: int  # how many tokens the step kept
    best: tuple[
        TokenLogprob, ...
    ]  # the most probable kept tokens; their probabilities are renormalized over the kept tokens


@dataclass(frozen=True)
class Trace:
    """The sampling steps by which one token was drawn, from the model's distribution to the draw."""

    steps: tuple[TraceStep, ...]
    probability: float  # of the drawn token in the distribution after the last step


@dataclass(frozen=True)
class Token:
    """A token that has just been drawn; its text is not final yet. Yielded only if details are requested."""

    sample: int
    id: int
    text: str  # the text of this token alone; an incomplete character is U+FFFD
    logprob: float  # in nats, under the model's own distribution: temperature 1, nothing removed
    top: tuple[TokenLogprob, ...] = ()  # the most probable tokens of the model's own distribution, as many as requested
    trace: Trace | None = None
    characters: int = 0  # how many characters this token completes; 0 if it only adds bytes of an incomplete character

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
    """The most probable next tokens, most probable first; `rest` is the total probability of all other tokens."""

    temperatures: tuple[float, ...]
    tokens: tuple[Candidate, ...]

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
    """The first token that differs between a sample and its repeat, which was generated again."""

    sample: int
    token: int  # its index among the generated tokens
    expected: int | None  # the token's id in the original; None if the original is shorter
    found: int | None  # the token's id in the repeat; None if the repeat is shorter


CheckName = Literal["alone", "batch", "uncached", "guesses", "decoded", "threads", "pytorch"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check: all samples are generated again in one way and compared with the originals."""

    name: CheckName
    required: bool  # whether the samples must be equal
    samples: int
    tokens: int  # the total of all samples
    differing: int  # how many samples differ
    difference: Difference | None  # the difference of the first sample that differs
    batch: int | None = None  # texts in the batch
    threads: tuple[int, ...] | None = None  # the thread counts that were compared
    guesses: int | None = None  # how many guessed tokens were read
    logit_difference: float | None = None  # the largest difference at any token; both backends read identical tokens
    logit_tolerance: float | None = None  # the largest difference that rounding can explain

    @property
    def logits_differ(self) -> bool:
        """Whether the logits differ by more than rounding can explain."""
        if self.logit_difference is None or self.logit_tolerance is None:
            return False
        return not (math.isfinite(self.logit_difference) and self.logit_difference <= self.logit_tolerance)

    @property
    def fails(self) -> bool:
        """Whether the check failed: samples that must be equal differ, or logits differ by more than rounding."""
        return (self.required and self.differing > 0) or self.logits_differ


Event = Text | Finished | PromptsRead | Reread | Token
