"""The results of a benchmark of one model: frozen dataclasses without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from attncli.model.count import NumberTypes

SECONDS = 20.0  # the default duration of a benchmark, approximately
Engine = Literal["native", "torch"]
Part = Literal["bandwidth", "prefill", "decode", "batches", "generation"]


@dataclass(frozen=True)
class Timing:
    """The median of some repetitions, after a warm-up that is not counted."""

    seconds: float
    repetitions: int


@dataclass(frozen=True)
class Bandwidth:
    """The bandwidth of this machine's memory: a large tensor is summed (read), or copied (read and written)."""

    way: Literal["sum", "copy"]
    bytes: int  # read, plus written for a copy
    threads: int | None  # None on a GPU
    timing: Timing

    @property
    def bytes_per_second(self) -> float:
        """Bytes read and written per second."""
        return self.bytes / self.timing.seconds


@dataclass(frozen=True)
class Prefill:
    """Prefill: reading a prompt in one forward pass, and choosing the first token."""

    tokens: int
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.tokens / self.timing.seconds


@dataclass(frozen=True)
class Step:
    """A decoding step: one more token of each text in a batch, after `before` tokens each."""

    texts: int
    before: int
    weight_bytes: int  # of weights, read once for all texts
    cache_bytes: int  # of keys and values, read for all texts together
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second, all texts together."""
        return self.texts / self.timing.seconds

    @property
    def weight_bytes_per_token(self) -> float:
        """Bytes of weights read per token: all texts share one read."""
        return self.weight_bytes / self.texts

    @property
    def cache_bytes_per_token(self) -> float:
        """Bytes of keys and values read per token."""
        return self.cache_bytes / self.texts

    @property
    def bytes_per_second(self) -> float:
        """Bytes of weights and cache read per second."""
        return (self.weight_bytes + self.cache_bytes) / self.timing.seconds


@dataclass(frozen=True)
class Generation:
    """A text of `tokens` tokens after a prompt of one: with the cache, and without it; measured alternately."""

    tokens: int
    cached: Timing
    uncached: Timing

    @property
    def times(self) -> float:
        """How many times longer it takes without the cache."""
        return self.uncached.seconds / self.cached.seconds


Measurement = Bandwidth | Prefill | Step | Generation


@dataclass(frozen=True)
class LeftOut:
    """A part was measured up to the size before this one: this size would have taken too long."""

    part: Part
    size: int


@dataclass(frozen=True)
class Bench:
    """All measurements of one run, each part in increasing sizes."""

    device: str
    engine: Engine
    threads: int | None  # of a decoding step; None on a GPU
    most_threads: int | None  # of prefill
    types: NumberTypes
    parameters: int
    context: int
    seed: int  # of the random tokens
    given: float  # seconds that the benchmark was given
    bandwidth: Bandwidth
    prefill: tuple[Prefill, ...]
    decode: tuple[Step, ...]  # one text, at increasing positions
    batches: tuple[Step, ...]  # increasing batch sizes, at one position
    generation: tuple[Generation, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def repetitions(self) -> tuple[int, int]:
        """The smallest and the largest number of repetitions behind a figure."""
        counts = [timing.repetitions for timing in self._timings()]
        return min(counts), max(counts)

    def share(self, step: Step) -> float:
        """A step's bytes per second as a share of this machine's bandwidth."""
        return step.bytes_per_second / self.bandwidth.bytes_per_second

    def _timings(self) -> Iterator[Timing]:
        yield self.bandwidth.timing
        yield from (one.timing for one in self.prefill)
        yield from (one.timing for one in (*self.decode, *self.batches))
        for pair in self.generation:
            yield from (pair.cached, pair.uncached)
