"""How fast a model reads and generates here: frozen records without torch, for whoever draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from attncli.model.count import NumberTypes

SECONDS = 20.0  # that measuring takes at most, about
Engine = Literal["native", "torch"]
Part = Literal["bandwidth", "prefill", "decode", "batches", "generation"]


@dataclass(frozen=True)
class Timing:
    """The median of some repetitions, after a warm-up that does not count."""

    seconds: float
    repetitions: int


@dataclass(frozen=True)
class Bandwidth:
    """How fast this machine's memory is: a large tensor summed (read), or copied (read and written)."""

    way: Literal["sum", "copy"]
    bytes: int  # read, and written where it was copied
    threads: int | None  # None where no CPU did it
    timing: Timing

    @property
    def bytes_per_second(self) -> float:
        """Read and written together."""
        return self.bytes / self.timing.seconds


@dataclass(frozen=True)
class Prefill:
    """Reading a prompt at once, up to the choice of the first token."""

    tokens: int
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """Of the prompt."""
        return self.tokens / self.timing.seconds


@dataclass(frozen=True)
class Step:
    """One more token of each of some texts, every one with `before` tokens before it."""

    texts: int
    before: int
    weight_bytes: int  # read for all texts together
    cache_bytes: int  # the same
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """Of all texts together."""
        return self.texts / self.timing.seconds

    @property
    def weight_bytes_per_token(self) -> float:
        """What every text's token has to read of the weights, which all texts share."""
        return self.weight_bytes / self.texts

    @property
    def cache_bytes_per_token(self) -> float:
        """What a token reads of its own text's keys and values."""
        return self.cache_bytes / self.texts

    @property
    def bytes_per_second(self) -> float:
        """Weights and cache: bytes for a token times tokens in a second."""
        return (self.weight_bytes + self.cache_bytes) / self.timing.seconds


@dataclass(frozen=True)
class Generation:
    """A text of so many tokens from a prompt of one, with the cache, and read anew for every token; in turn."""

    tokens: int
    cached: Timing
    uncached: Timing

    @property
    def times(self) -> float:
        """How many times as long it takes without the cache."""
        return self.uncached.seconds / self.cached.seconds


Measurement = Bandwidth | Prefill | Step | Generation


@dataclass(frozen=True)
class LeftOut:
    """Sizes of a part, from this one on, that would have taken longer than there was time."""

    part: Part
    size: int


@dataclass(frozen=True)
class Bench:
    """Everything that was measured in one run, in growing sizes."""

    device: str
    engine: Engine
    threads: int | None  # that read a few tokens at once; None where no CPU does it
    most_threads: int | None  # that read many
    types: NumberTypes
    parameters: int
    context: int
    seed: int  # of the random tokens
    given: float  # seconds
    bandwidth: Bandwidth
    prefill: tuple[Prefill, ...]
    decode: tuple[Step, ...]  # one text, at growing positions
    batches: tuple[Step, ...]  # more and more texts, at one position
    generation: tuple[Generation, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def repetitions(self) -> tuple[int, int]:
        """The fewest and the most that a figure is the median of."""
        counts = [timing.repetitions for timing in self._timings()]
        return min(counts), max(counts)

    def share(self, step: Step) -> float:
        """A step's bytes in a second as a share of this machine's bandwidth."""
        return step.bytes_per_second / self.bandwidth.bytes_per_second

    def _timings(self) -> Iterator[Timing]:
        yield self.bandwidth.timing
        yield from (one.timing for one in self.prefill)
        yield from (one.timing for one in (*self.decode, *self.batches))
        for pair in self.generation:
            yield from (pair.cached, pair.uncached)
