"""The events of a generation, and the records made from it: frozen dataclasses without torch.

`engine.generate` yields an `Event`: Text, Finished, PromptsRead, Reread, or Token where details were asked for. The
other records are what `token_details`, `candidates`, `stopwatch` and `verify` return.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal["length", "stop", "end"]


@dataclass(frozen=True)
class Text:
    """New text of a sample. It is final: later tokens only add to it."""

    sample: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A sample is complete: it reached the token limit, a stop string, or the end of the document."""

    sample: int
    reason: Reason
    ids: tuple[int, ...]  # all generated tokens, with those of the stop string or the end token


@dataclass(frozen=True)
class PromptsRead:
    """New prompts have been read and the first token of each is drawn. Equal prompts are read, and counted, once."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class Reread:
    """The context was full: the model reads the most recent `kept` tokens again and continues from them."""

    kept: int


@dataclass(frozen=True)
class Throughput:
    """How fast a generation was."""

    prompt_tokens: int  # equal prompts counted once
    prompt_seconds: float  # to read the prompts and draw the first token of each
    first_token_seconds: float  # from the start of the command to the first token
    new_tokens: int
    later_tokens: int  # new tokens without the first of each text
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
class Choice:
    """A possible next token, with its log-probability in nats."""

    id: int
    text: str  # of this token alone; an incomplete character is U+FFFD
    logprob: float

    @property
    def probability(self) -> float:
        """The probability, from 0 to 1."""
        return math.exp(self.logprob)


@dataclass(frozen=True)
class TraceStep:
    """The effect of one step between the model and the draw. The first, `model`, is the model's own distribution."""

    name: str  # of the option, without dashes: 'top-p'
    setting: float | None  # the option's value; None for `model` and `logit-bias`, which are no single number
    removed: int  # how many tokens the step removed
    removed_probability: float  # of these tokens before the step
    left: int  # how many tokens the step left
    best: tuple[Choice, ...]  # the most probable tokens left, with probabilities among those left


@dataclass(frozen=True)
class Trace:
    """How one token was drawn: every step from the model's distribution to the draw."""

    steps: tuple[TraceStep, ...]
    probability: float  # of the drawn token, among the tokens left after the last step


@dataclass(frozen=True)
class Token:
    """A token at the moment it is drawn, before its text is final; only where details were asked for."""

    sample: int
    id: int
    text: str  # of this token alone; an incomplete character is U+FFFD
    logprob: float  # in nats, under the model's own distribution: temperature 1, nothing removed
    top: tuple[Choice, ...] = ()  # the most probable tokens of that distribution, as many as asked for
    trace: Trace | None = None
    characters: int = 0  # how many characters this token completes: 0 if its last bytes begin a character

    @property
    def bits(self) -> float:
        """The surprise in bits: -log2 of the probability, 0 when the token was certain."""
        return abs(self.logprob) / math.log(2)


@dataclass(frozen=True)
class Candidate:
    """A possible next token, and its probability at each temperature."""

    id: int
    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Candidates:
    """The most probable next tokens, in order; `rest` is the probability of all others."""

    temperatures: tuple[float, ...]
    tokens: tuple[Candidate, ...]

    @property
    def rest(self) -> tuple[float, ...]:
        """The probability of all other tokens together, at each temperature."""
        columns = zip(*(token.probabilities for token in self.tokens), strict=True)
        return tuple(max(1 - sum(column), 0.0) for column in columns)


@dataclass(frozen=True)
class Sample:
    """A finished sample: its generated ids and text."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Difference:
    """The first token at which a sample that was generated again differs from the original."""

    sample: int
    token: int  # its index among the generated tokens
    expected: int | None  # the token's id in the original; None where the original has ended
    found: int | None  # the token's id in the repeat; None where the repeat has ended


CheckName = Literal["alone", "batch", "uncached", "guesses", "decoded", "threads", "pytorch"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of generating all samples again in one way."""

    name: CheckName
    required: bool  # whether the samples have to be equal
    samples: int
    tokens: int  # of all samples
    differing: int  # how many samples differ
    difference: Difference | None  # of the first sample that differs
    batch: int | None = None  # texts in the batch
    threads: tuple[int, ...] | None = None  # the numbers of threads tried
    guesses: int | None = None  # guessed tokens that were read
    logit_difference: float | None = None  # the largest over all tokens, each after the same tokens
    logit_tolerance: float | None = None  # the largest difference that rounding explains

    @property
    def logits_differ(self) -> bool:
        """Whether the logits differ by more than rounding explains."""
        if self.logit_difference is None or self.logit_tolerance is None:
            return False
        return not (math.isfinite(self.logit_difference) and self.logit_difference <= self.logit_tolerance)

    @property
    def fails(self) -> bool:
        """Whether samples that have to be equal differ, or logits by more than rounding explains."""
        return (self.required and self.differing > 0) or self.logits_differ


Event = Text | Finished | PromptsRead | Reread | Token
