"""Benchmarks a model on this machine within a given time: memory bandwidth, prefill, decoding, batches, generation.

This module decides what to measure, how often, and what to skip to stay within the time limit. A figure is the median
of several runs after a warm-up run. Each part is measured at increasing sizes. A size is skipped if it is expected to
exceed the part's share of the time. Prompts are random tokens. Prints nothing and reads no files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from attncli.config import EngineConfig, SampleConfig
from attncli.generation.engine import generate
from attncli.generation.measurements import (
    SECONDS,
    Bandwidth,
    Bench,
    Generation,
    LeftOut,
    Measurement,
    Part,
    Prefill,
    Step,
    Timing,
)
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.model.count import cache_bytes_per_step, count_parameters, weight_bytes_per_step
from attncli.model.native import NativeBackend
from attncli.text.tokenizer import Tokenizer

_SEED = 0
_LEAST = 3  # the smallest number of runs, even if they exceed their share of the time
_MOST = 25
_MOST_TEXTS = 9  # runs that generate a whole text; few suffice, because a run averages over many steps
_WARM_UP = 16  # steps; afterwards, a backend has chosen its number of threads
_WARM_UP_SECONDS = 1.0  # the warm-up takes no further step after this time
_SUMMED_BYTES = 256_000_000
_FIRST_PROMPT, _FIRST_POSITION, _FIRST_TEXT = 32, 128, 16  # the smallest sizes, in tokens
_GROWTH_FROM_ZERO = 4  # the assumed ratio of the time at the second position to the time at position 0
_BATCHES = 1, 2, 4, 8, 16
# The share of the remaining time that each part gets when it begins.
_SHARES: dict[Part, float] = {"bandwidth": 0.05, "prefill": 0.2, "decode": 0.2, "batches": 0.25, "generation": 1.0}

M = TypeVar("M", bound=Measurement)
Progress = Callable[[Part, int, float], None]


def measure(
    backend: Backend, tokenizer: Tokenizer, seconds: float = SECONDS, progress: Progress | None = None
) -> Bench:
    """Benchmarks a model for about `seconds` seconds, and returns all measurements.

    The smallest size of each part is always measured, except in the part `generation`. `progress` is called before each
    size with the part, the size and the elapsed share of the time.
    """
    return _Measuring(backend, tokenizer, seconds, progress or (lambda part, size, share: None)).run()


def growing(first: int, last: int, factor: int = 4) -> list[int]:
    """Returns sizes up to `last`, each at least twice the previous size: (32, 1024) -> [32, 128, 512, 1024]."""
    sizes = []
    while first <= last // 2:
        sizes.append(first)
        first *= factor
    return [*sizes, last]


def doubling(first: int, last: int) -> list[int]:
    """Returns sizes from `first` to `last`, each twice the previous size; [last] if `last` < `first`.

    (16, 100) -> [16, 32, 64]
    """
    sizes = [first << times for times in range((last // first).bit_length())]
    return sizes or [last]


class _Measuring:
    """Measures every part of the benchmark once, within the given time."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, seconds: float, progress: Progress) -> None:
        self._backend, self._tokenizer, self._seconds, self._progress = backend, tokenizer, seconds, progress
        self._config = backend.config
        known = min(tokenizer.vocab_size, self._config.vocab_size)
        self._ids = np.random.default_rng(_SEED).integers(known, size=self._config.context).tolist()
        self._begun = time.perf_counter()
        self._ends = self._begun + seconds
        self._left_out: list[LeftOut] = []

    @torch.inference_mode()
    def run(self) -> Bench:
        """Measures the parts one after another and returns all results."""
        config, device = self._config, self._backend.device
        self._warm_up()
        threads = _threads(self._backend)
        self._progress("bandwidth", _SUMMED_BYTES, self._gone())
        bandwidth = self._bandwidth(threads)
        prefill = self._grow("prefill", growing(_FIRST_PROMPT, config.context), self._prefill())
        positions = [0, *growing(_FIRST_POSITION, config.context - 1)] if config.context > 1 else [0]
        decode = self._grow("decode", positions, self._step())
        batches = self._grow("batches", _BATCHES, self._batch(min(_FIRST_POSITION, config.context - 1)))
        lengths = doubling(_FIRST_TEXT, config.context)
        expected = lengths[0] * (prefill[0].timing.seconds + decode[0].timing.seconds) * _LEAST
        generation = self._grow("generation", lengths, self._generation(), 2, expected)
        return Bench(
            device=str(device),
            engine="native" if isinstance(self._backend, NativeBackend) else "torch",
            threads=threads,
            most_threads=None if threads is None else torch.get_num_threads(),
            types=self._backend.types,
            parameters=sum(count_parameters(config).values()),
            context=config.context,
            seed=_SEED,
            given=self._seconds,
            bandwidth=bandwidth,
            prefill=tuple(prefill),
            decode=tuple(decode),
            batches=tuple(batches),
            generation=tuple(generation),
            left_out=tuple(self._left_out),
        )

    def _gone(self) -> float:
        return min((time.perf_counter() - self._begun) / self._seconds, 1.0)

    def _until(self, part: Part) -> float:
        """Returns the time at which a part that begins now should end."""
        now = time.perf_counter()
        return now + max(self._ends - now, 0) * _SHARES[part]

    def _warm_up(self) -> None:
        cache = self._backend.new_cache(1)
        for _ in range(_WARM_UP):
            self._read(cache, [Segment(0, 0, self._ids[:1])])
            if time.perf_counter() > self._begun + _WARM_UP_SECONDS:
                break

    def _read(self, cache: SequenceCache, segments: Sequence[Segment]) -> list[int]:
        """Reads the segments and returns the most probable next tokens.

        The tokens are copied to the CPU, so this call waits until the device has finished.
        """
        chosen: list[int] = self._backend.read(cache, segments).argmax(-1).tolist()
        return chosen

    def _grow(
        self,
        part: Part,
        sizes: Sequence[int],
        one: Callable[[int, float], tuple[M, float]],
        power: int = 1,
        expected: float = 0.0,
    ) -> list[M]:
        """Measures increasing sizes until the next size is expected to take too long. Returns the measurements.

        `one` repeats the measurement of a size until a given time. It returns the result, and the minimum time that
        this size takes. The minimum time is expected to grow as size ** power. `expected` is the minimum time of the
        first size; with 0, the first size is always measured.
        """
        found: list[M] = []
        ends = self._until(part)
        for at, size in enumerate(sizes):
            now = time.perf_counter()
            if expected > 0 and now + expected > ends:
                self._left_out.append(LeftOut(part, size))
                break
            self._progress(part, size, self._gone())
            shares = [max(other, 1) ** (power - 1) for other in sizes[at:]]
            measured, least = one(size, now + (ends - now) * shares[0] / sum(shares))
            found.append(measured)
            following = sizes[min(at + 1, len(sizes) - 1)]
            expected = least * (following / size if size else _GROWTH_FROM_ZERO) ** power
        return found

    def _bandwidth(self, threads: int | None) -> Bandwidth:
        """Measures the bandwidth of a GPU's memory with a copy, or of main memory with a sum on `threads` threads."""
        numbers = torch.ones(_SUMMED_BYTES // 4, device=self._backend.device)
        until = self._until("bandwidth")
        if threads is None:
            other = torch.empty_like(numbers)
            timing = self._repeat(lambda: other.copy_(numbers)[-1].item(), until)
            return Bandwidth("copy", 2 * numbers.nbytes, None, timing)
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            timing = self._repeat(lambda: numbers.sum().item(), until)
        finally:
            torch.set_num_threads(usual)
        return Bandwidth("sum", numbers.nbytes, threads, timing)

    def _prefill(self) -> Callable[[int, float], tuple[Prefill, float]]:
        cache = self._backend.new_cache(1)

        def one(tokens: int, until: float) -> tuple[Prefill, float]:
            timing = self._repeat(lambda: self._read(cache, [Segment(0, 0, self._ids[:tokens])]), until)
            return Prefill(tokens, timing), timing.seconds * (1 + _LEAST)

        return one

    def _step(self) -> Callable[[int, float], tuple[Step, float]]:
        cache, filled = self._backend.new_cache(1), 0

        def one(before: int, until: float) -> tuple[Step, float]:
            nonlocal filled
            begun = time.perf_counter()
            if before > filled:
                self._read(cache, [Segment(0, filled, self._ids[filled:before])])
                filled = before
            reading = time.perf_counter() - begun
            step = self._step_of(cache, 1, before, until)
            return step, reading + step.timing.seconds * (1 + _LEAST)

        return one

    def _batch(self, before: int) -> Callable[[int, float], tuple[Step, float]]:
        cache = self._backend.new_cache(max(_BATCHES))
        if before:
            self._read(cache, [Segment(0, 0, self._ids[:before])])
            for text in range(1, max(_BATCHES)):
                cache.copy(0, text, before)

        def one(texts: int, until: float) -> tuple[Step, float]:
            step = self._step_of(cache, texts, before, until)
            return step, step.timing.seconds * (1 + _LEAST)

        return one

    def _step_of(self, cache: SequenceCache, texts: int, before: int, until: float) -> Step:
        """Measures a decoding step of `texts` texts after `before` tokens of each.

        Each run overwrites the same position of the cache.
        """
        segments = [Segment(text, before, [self._ids[text % len(self._ids)]]) for text in range(texts)]
        types = self._backend.types
        return Step(
            texts,
            before,
            weight_bytes_per_step(self._config, types, texts),
            texts * cache_bytes_per_step(self._config, types, before),
            self._repeat(lambda: self._read(cache, segments), until),
        )

    def _generation(self) -> Callable[[int, float], tuple[Generation, float]]:
        def text(tokens: int, cached: bool) -> Callable[[], object]:
            settings = SampleConfig(temperature=0, max_new_tokens=tokens)
            how = EngineConfig(cached=cached, lookup=False)
            prompt = [self._ids[:1]]
            return lambda: list(generate(self._backend, self._tokenizer, prompt, settings, frozenset(), how=how))

        def one(tokens: int, until: float) -> tuple[Generation, float]:
            both = [text(tokens, True), text(tokens, False)]
            cached, uncached = _in_turn(both, until, self._ends, _MOST_TEXTS)
            return Generation(tokens, cached, uncached), (cached.seconds + uncached.seconds) * _LEAST

        for cached in (True, False):
            text(2, cached)()
        return one

    def _repeat(self, work: Callable[[], object], until: float) -> Timing:
        """Calls `work` once as a warm-up, then measures and returns its median time."""
        work()
        return _in_turn([work], until, self._ends, _MOST)[0]


def _in_turn(work: Sequence[Callable[[], object]], until: float, at_last: float, most: int) -> list[Timing]:
    """Returns the median time of each function over several rounds. A round calls each function once.

    Rounds are repeated until the time `until`, at least _LEAST and at most `most` times. After the time `at_last`, no
    round starts except the first, even if there are fewer than _LEAST.
    """
    taken: list[list[float]] = []
    while len(taken) < most:
        now = time.perf_counter()
        if taken and now > (until if len(taken) >= _LEAST else at_last):
            break
        times = [now]
        for each in work:
            each()
            times.append(time.perf_counter())
        taken.append([after - before for before, after in pairwise(times)])
    return [Timing(statistics.median(column), len(taken)) for column in zip(*taken, strict=True)]


def _threads(backend: Backend) -> int | None:
    """Returns the number of CPU threads of a decoding step; None on a GPU."""
    if isinstance(backend, NativeBackend):
        return backend.threads
    return torch.get_num_threads() if backend.device.type == "cpu" else None
