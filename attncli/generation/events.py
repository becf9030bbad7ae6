"""What happens while text is generated: frozen records without torch, for whoever draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal["length", "stop", "end"]


@dataclass(frozen=True)
class Text:
    """More text of a sample, certain to stay."""

    sample: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A sample is complete: the most tokens were reached, a stop string came, or the document ended."""

    sample: int
    reason: Reason
    ids: tuple[int, ...]  # everything generated, a stop string or the end token included


@dataclass(frozen=True)
class PromptsRead:
    """New prompts have been read, and the first token of each is drawn. Equal prompts are read once."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class Reread:
    """The context was full: the model goes on from the most recent `kept` tokens. Said each time."""

    kept: int


@dataclass(frozen=True)
class Throughput:
    """How fast a generation was."""

    prompt_tokens: int  # equal prompts counted once
    prompt_seconds: float  # to read them and draw the first token of each
    first_token_seconds: float  # from the start of the command
    new_tokens: int
    later_tokens: int  # of these, those after the first of each text
    later_seconds: float  # for these

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def rate(self) -> float | None:
        """New tokens per second, all texts together."""
        return self.later_tokens / self.later_seconds if self.later_tokens and self.later_seconds else None


@dataclass(frozen=True)
class Choice:
    """A token that could come next, with its log-probability in nats."""

    id: int
    text: str  # of this token alone; bytes that are no whole character are U+FFFD
    logprob: float

    @property
    def probability(self) -> float:
        """From 0 to 1."""
        return math.exp(self.logprob)


@dataclass(frozen=True)
class TraceStep:
    """What one step between the model and the draw did. The first step, `model`, is the model's own distribution."""

    name: str  # of the option, without dashes: 'top-p'
    setting: float | None  # its value; None for `model`, and for the biases of single tokens
    removed: int  # tokens
    removed_probability: float  # that these had after the step before
    left: int  # tokens
    best: tuple[Choice, ...]  # the most probable ones left, among those left


@dataclass(frozen=True)
class Trace:
    """From the model's distribution to the draw of one token."""

    steps: tuple[TraceStep, ...]
    probability: float  # of the token drawn, among those left in the end


@dataclass(frozen=True)
class Token:
    """A token as it is drawn, before its text is certain; only for who asked to see tokens."""

    sample: int
    id: int
    text: str  # of this token alone; bytes that are no whole character are U+FFFD
    logprob: float  # under the model's own distribution: temperature 1, nothing removed
    top: tuple[Choice, ...] = ()  # the most probable tokens of that distribution, as many as asked for
    trace: Trace | None = None
    characters: int = 0  # of the text, that are complete with this token: 0 while a character is not

    @property
    def bits(self) -> float:
        """The surprise: how many bits the model needs to tell this token, 0 when it was certain."""
        return abs(self.logprob) / math.log(2)


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, and how probable it is at each temperature."""

    id: int
    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Candidates:
    """What may come next, most probable first; the rest of each temperature's probability is that of other tokens."""

    temperatures: tuple[float, ...]
    tokens: tuple[Candidate, ...]

    @property
    def rest(self) -> tuple[float, ...]:
        """What the other tokens have together, at each temperature."""
        columns = zip(*(token.probabilities for token in self.tokens), strict=True)
        return tuple(max(1 - sum(column), 0.0) for column in columns)


@dataclass(frozen=True)
class Made:
    """What became of a sample."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Difference:
    """Where a sample that was made again is first another."""

    sample: int
    token: int  # its place among those generated
    expected: int | None  # the token's id; None where the text had ended
    found: int | None


CheckName = Literal["alone", "batch", "uncached", "guesses", "decoded", "threads", "pytorch"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """All samples made again in another way."""

    name: CheckName
    required: bool  # to be the same
    samples: int
    tokens: int  # of all samples
    differing: int  # samples
    difference: Difference | None  # of the first sample that differs
    batch: int | None = None  # texts made together
    threads: tuple[int, ...] | None = None
    guesses: int | None = None  # tokens that were read in advance
    logit_difference: float | None = None  # the largest over all tokens, each after the same ones
    logit_tolerance: float | None = None  # the largest that rounding explains

    @property
    def logits_differ(self) -> bool:
        """Whether logits differ by more than rounding explains."""
        if self.logit_difference is None or self.logit_tolerance is None:
            return False
        return not (math.isfinite(self.logit_difference) and self.logit_difference <= self.logit_tolerance)

    @property
    def fails(self) -> bool:
        """Whether something differs that must not."""
        return (self.required and self.differing > 0) or self.logits_differ


Event = Text | Finished | PromptsRead | Reread | Token
