"""The results of benchmarking one model: frozen dataclasses without torch."""

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
    """The median time of several runs after a warm-up run."""

    seconds: float
    repetitions: int


@dataclass(frozen=True)
class Bandwidth:
    """The memory bandwidth of this machine. A sum of a large tensor reads memory; a copy reads and writes it."""

    way: Literal["sum", "copy"]
    bytes: int  # bytes read, and for a copy also bytes written
    threads: int | None  # None on a GPU
    timing: Timing

    @property
    def bytes_per_second(self) -> float:
        """Bytes read and written per second."""
        return self.bytes / self.timing.seconds


@dataclass(frozen=True)
class Prefill:
    """The time to read a prompt in one forward pass and to choose the first token."""

    tokens: int
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.tokens / self.timing.seconds


@dataclass(frozen=True)
class Step:
    """The time of a decoding step, which generates one token of each text. Each text already has `before` tokens."""

    texts: int
    before: int
    weight_bytes: int  # bytes of weights that the step reads, once for the whole batch
    cache_bytes: int  # bytes of the KV cache read, total of all texts
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second, total of all texts."""
        return self.texts / self.timing.seconds

    @property
    def weight_bytes_per_token(self) -> float:
        """Bytes of weights read per generated token; a batch reads the weights once."""
        return self.weight_bytes / self.texts

    @property
    def cache_bytes_per_token(self) -> float:
        """Bytes of the KV cache read per generated token."""
        return self.cache_bytes / self.texts

    @property
    def bytes_per_second(self) -> float:
        """Bytes of weights and KV cache read per second."""
        return (self.weight_bytes + self.cache_bytes) / self.timing.seconds


@dataclass(frozen=True)
class Generation:
    """The times to generate a text from a one-token prompt with the KV cache and without, measured alternately."""

    tokens: int
    cached: Timing
    uncached: Timing

    @property
    def times(self) -> float:
        """How many times longer generation takes without the KV cache."""
        return self.uncached.seconds / self.cached.seconds


Measurement = Bandwidth | Prefill | Step | Generation


@dataclass(frozen=True)
class LeftOut:
    """The smallest size at which a part of the benchmark was skipped because it would have taken too long."""

    part: Part
    size: int


@dataclass(frozen=True)
class Bench:
    """All measurements of one run of the benchmark; each part is in order of increasing size."""

    device: str
    engine: Engine
    threads: int | None  # CPU threads of a decoding step; None on a GPU
    most_threads: int | None  # CPU threads of a prefill; None on a GPU
    types: NumberTypes
    parameters: int
    context: int
    seed: int  # of the random tokens
    given: float  # the time limit in seconds
    bandwidth: Bandwidth
    prefill: tuple[Prefill, ...]
    decode: tuple[Step, ...]  # one text, at increasing positions
    batches: tuple[Step, ...]  # increasing batch sizes, at one position
    generation: tuple[Generation, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def repetitions(self) -> tuple[int, int]:
        """The smallest and the largest number of runs behind a median."""
        counts = [timing.repetitions for timing in self._timings()]
        return min(counts), max(counts)

    def share(self, step: Step) -> float:
        """Returns a step's bytes per second as a share of this machine's memory bandwidth."""
        return step.bytes_per_second / self.bandwidth.bytes_per_second

    def _timings(self) -> Iterator[Timing]:
        yield self.bandwidth.timing
        yield from (one.timing for one in self.prefill)
        yield from (one.timing for one in (*self.decode, *self.batches))
        for pair in self.generation:
            yield from (pair.cached, pair.uncached)
