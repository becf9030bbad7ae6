"""The interface through which generation runs a network, and its PyTorch implementation for any device.

A backend reads segments into a cache that the caller owns. A segment is a run of consecutive tokens of one sequence.
For an encoder-decoder, each sequence of the cache also has a source, to which its tokens attend. `TorchBackend` batches
segments of equal start and length, and records a decoding step as a CUDA graph. The implementation in C for a CPU is in
`native`. A backend handles neither text nor sampling nor files.

Letters: K key/value heads, S positions, D head width, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from attncli.config import ModelConfig
from attncli.model.cache import FIRST_CAPACITY, KVCache, StepCache
from attncli.model.count import NumberTypes
from attncli.model.device import dtype_name
from attncli.model.source_cache import SourceCache, selection
from attncli.model.stack import Source
from attncli.model.transformer import Transformer

_PRODUCTS_PER_THREAD = 32_000_000  # multiplications; a CPU thread with fewer costs more time than it saves
_MOST_PREALLOCATED = 4096  # positions, total of all sequences; a larger reservation might never be used
# PyTorch's number of threads is a global setting: a new thread copies it when it first uses PyTorch.
_threads_lock = threading.Lock()


class Segment(NamedTuple):
    """Consecutive tokens of one sequence that a backend reads. They replace the cached positions from `start` on."""

    sequence: int
    start: int
    ids: Sequence[int]
    logit_count: int = 1  # the number of tokens at the end whose logits are returned

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.ids)


class SequenceCache(Protocol):
    """The keys and values of several sequences; the caller owns it."""

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one sequence to another, and its source if it has one."""


class Backend(Protocol):
    """A network that reads tokens and returns logits."""

    @property
    def config(self) -> ModelConfig:
        """The network's shape."""

    @property
    def device(self) -> torch.device:
        """The device of the logits."""

    @property
    def types(self) -> NumberTypes:
        """The dtypes of weights, activations and cache."""

    @property
    def exact(self) -> bool:
        """Whether logits are bit-identical for every batch and for every split of a sequence into calls."""

    @property
    def description(self) -> str:
        """The processor and the dtype in words: 'in C on 2 threads, bfloat16'."""

    def new_cache(self, sequences: int, positions: int = 1) -> SequenceCache:
        """Returns an empty cache for a number of sequences; `positions` is the expected length of each sequence."""

    def read_sources(self, cache: Any, sources: Mapping[int, Sequence[int]]) -> None:
        """Encodes source texts, given as ids by sequence, for an encoder-decoder.

        The cache stores the keys and values of every cross-attention layer for these sequences, and drops earlier
        sources. `read` attends to the sources, so a sequence needs a source before its first segment.
        """

    def read(self, cache: Any, segments: Sequence[Segment]) -> Tensor:
        """Reads segments of different sequences -> logits (sum of logit_count, V), in the order of the segments.

        The cache must come from `new_cache` of this backend. The logits are valid until the next call.
        """


class BatchCache(KVCache):
    """The keys and values of several sequences of different lengths. `append` extends the chosen sequences.

    The last position of the buffers is unused: a step of all sequences writes dummy keys there for sequences without a
    new token.
    """

    def __init__(self, layers: int, context: int, sequences: int, first: int) -> None:
        """`first` is the initial capacity in positions; the buffers double when it is exceeded."""
        super().__init__(layers, context + 1, first)
        self._sequences = sequences
        self._chosen: slice | list[int] = slice(0, sequences)
        self.sources = SourceCache(sequences)  # remains empty for a model without an encoder

    def choose(self, sequences: Sequence[int], length: int) -> None:
        """Chooses the sequences that `append` extends; `length` is their present number of positions."""
        self._chosen = selection(sequences)
        self._lengths = [length] * len(self._lengths)

    @property
    def sequences(self) -> int:
        """The number of sequences in the buffers."""
        return self._sequences

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers, including the sources."""
        return super().nbytes + self.sources.nbytes

    @property
    def capacity(self) -> int:
        """The number of positions that the buffers have for each sequence."""
        return 0 if self._keys[0] is None else self._keys[0].shape[2]

    def step(self, places: Tensor) -> StepCache:
        """Returns the buffers as a cache for one decoding step.

        `places` (sequences,) are the positions of the sequences' new tokens.
        """
        return StepCache([k for k in self._keys if k is not None], [v for v in self._values if v is not None], places)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Appends key and value (chosen, K, T, D) of new positions.

        Returns keys and values of all positions, each (chosen, K, length, D).
        """
        start = self._lengths[layer]
        end = self._lengths[layer] = start + key.shape[2]
        if end >= self.limit:
            raise ValueError(f"{end} positions in a cache of {self.limit - 1}")
        whole = key.new_empty(self._sequences, key.shape[1], 0, key.shape[3])
        held = self._keys[layer]
        filled = 0 if held is None else held.shape[2]  # keep all positions: other sequences may be longer
        keys = self._keys[layer] = self._room(self._keys[layer], whole, filled, end + 1)
        values = self._values[layer] = self._room(self._values[layer], whole, filled, end + 1)
        keys[self._chosen, :, start:end] = key
        values[self._chosen, :, start:end] = value
        return keys[self._chosen, :, :end], values[self._chosen, :, :end]

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one sequence to another, and its source if it has one."""
        self.sources.copy(source, target)
        for buffer in (*self._keys, *self._values):
            if buffer is not None:
                buffer[target, :, :length] = buffer[source, :, :length]


class TorchBackend:
    """Runs a Transformer with PyTorch.

    Segments of equal start and length are read as one batch. If every segment is a single token, all segments are read
    as one batch, even with different starts. On CUDA, such a step is recorded as a CUDA graph and then replayed; there
    is one recording per capacity of the cache. The steps of an encoder-decoder are not recorded.
    """

    exact = False  # PyTorch's summation order depends on the shapes of a product

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.config = model.config
        self.device = model.embedding.weight.device
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        name = dtype_name(model.embedding.weight.dtype)
        self.types = NumberTypes(name, name, name)
        self._recorded: _Recording | None = None
        self._crosses = model.config.encoder_layers > 0

    @property
    def _records(self) -> bool:
        """Whether a decoding step is recorded as a CUDA graph."""
        return self.device.type == "cuda" and not self._crosses

    @property
    def description(self) -> str:
        """The processor and the dtype in words."""
        where = (
            self.device.type
            if self.device.type != "cpu"
            else f"PyTorch on up to {torch.get_num_threads()} threads (no network in C)"
        )
        return f"{where}, {self.types.matrices}"

    def new_cache(self, sequences: int, positions: int = 1) -> BatchCache:
        """Returns an empty cache for a number of sequences; discards the CUDA graph of an earlier cache.

        On CUDA, the initial capacity is `positions`, up to a memory limit, because a step must be recorded again
        whenever the buffers double.
        """
        self._recorded, first = None, FIRST_CAPACITY
        if self._records:
            first = max(first, min(positions + 1, _MOST_PREALLOCATED // sequences))
        return BatchCache(self.config.layers, self.config.context, sequences, first)

    @torch.inference_mode()
    def read_sources(self, cache: BatchCache, sources: Mapping[int, Sequence[int]]) -> None:
        """Encodes source texts, given as ids by sequence, as one batch, and stores them in the cache.

        Shorter sources are padded and masked. If all have the same length, there is no mask.
        """
        with nullcontext() if self.device.type != "cpu" else _threads_lock:
            lengths = [len(ids) for ids in sources.values()]
            padded = [[*ids, *[0] * (max(lengths) - len(ids))] for ids in sources.values()]
            mask = None
            if len(set(lengths)) > 1:
                mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
                mask = mask.to(self.device)
            encoded = self._model.read_source(torch.tensor(padded, device=self.device), mask)
            cache.sources.store(list(sources), encoded, lengths)

    @torch.inference_mode()
    def read(self, cache: BatchCache, segments: Sequence[Segment]) -> Tensor:
        """Reads segments of different sequences -> logits (sum of logit_count, V), valid until the next call.

        On a CPU, calls from several threads take turns, because a call may change PyTorch's number of threads.
        """
        if self.device.type != "cpu":
            return self._read(cache, segments)
        step = all(len(segment.ids) == 1 for segment in segments)
        with _threads_lock, threads_for(self._parameters * len(segments)) if step else nullcontext():
            return self._read(cache, segments)

    def _read(self, cache: BatchCache, segments: Sequence[Segment]) -> Tensor:
        if self._is_step(cache, segments):
            return self._step(cache, segments)
        groups: dict[tuple[int, int], list[int]] = {}
        for number, segment in enumerate(segments):
            groups.setdefault((segment.start, len(segment.ids)), []).append(number)
        hidden: dict[int, Tensor] = {}
        for (start, _), members in groups.items():
            sequences = [segments[number].sequence for number in members]
            cache.choose(sequences, start)
            source = cache.sources.of(sequences) if self._crosses else None
            ids = torch.tensor([list(segments[number].ids) for number in members], device=self.device)
            batch = self._model.hidden(ids, cache, source=source)
            hidden |= {number: batch[row, -segments[number].logit_count :] for row, number in enumerate(members)}
        return self._model.unembed(torch.cat([hidden[number] for number in range(len(segments))]))

    def _is_step(self, cache: BatchCache, segments: Sequence[Segment]) -> bool:
        """Whether `_step` can read the segments: each must be a single token that fits the buffers.

        Unless the step is recorded, the positions must also differ, because tokens at equal positions already form a
        batch.
        """
        if any(len(segment.ids) > 1 or segment.end >= cache.capacity for segment in segments):
            return False
        return self._records or len({segment.start for segment in segments}) > 1

    def _step(self, cache: BatchCache, segments: Sequence[Segment]) -> Tensor:
        """Reads one token of every sequence -> logits (segments, V). Sequences without a segment read a dummy token."""
        ids, places = [0] * cache.sequences, [cache.capacity - 1] * cache.sequences
        for segment in segments:
            ids[segment.sequence], places[segment.sequence] = segment.ids[0], segment.start
        given = torch.tensor((ids, places))
        if not self._records:
            given = given.to(self.device)
            source = cache.sources.of(range(cache.sequences)) if self._crosses else None
            logits = self._logits(cache.step(given[1]), given[0], source)
        else:
            if self._recorded is None or not self._recorded.fits(cache):
                self._recorded = None  # first frees the memory of the old recording
                self._recorded = _Recording(self._model, self._logits, cache)
            logits = self._recorded.replay(given)
        rows = [segment.sequence for segment in segments]
        return logits if rows == list(range(cache.sequences)) else logits[rows]

    def _logits(self, step: StepCache, ids: Tensor, source: Source | None = None) -> Tensor:
        """Reads one new token of each sequence: ids (sequences,) -> logits (sequences, V)."""
        return self._model.unembed(self._model.hidden(ids[:, None], step, source=source)[:, 0])


@contextmanager
def threads_for(products: int) -> Iterator[None]:
    """Limits PyTorch's threads to the number that is worthwhile for a step with `products` multiplications.

    The number does not depend on timings, because PyTorch's summation order depends on the number of threads: timings
    would change the results.
    """
    most = torch.get_num_threads()
    torch.set_num_threads(max(min(most, products // _PRODUCTS_PER_THREAD), 1))
    try:
        yield
    finally:
        torch.set_num_threads(most)


class _Recording:
    """A decoding step recorded as a CUDA graph. Its inputs and outputs keep their addresses."""

    def __init__(self, model: Transformer, logits: Callable[[StepCache, Tensor], Tensor], cache: BatchCache) -> None:
        self._cache, self._capacity = cache, cache.capacity
        device = model.embedding.weight.device
        if model.config.positions == "rotary":  # the graph reads this table, even after a longer table replaced it
            self._rotary = model.rotation(min(cache.capacity, model.config.context))
        self._given = torch.zeros(2, cache.sequences, dtype=torch.long, device=device)
        self._given[1] = cache.capacity - 1
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            logits(cache.step(self._given[1]), self._given[0])  # a warm-up that selects and loads every kernel
        torch.cuda.current_stream(device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = logits(cache.step(self._given[1]), self._given[0])

    def fits(self, cache: BatchCache) -> bool:
        """Whether the graph was recorded with the present buffers of this cache."""
        return cache is self._cache and cache.capacity == self._capacity

    def replay(self, given: Tensor) -> Tensor:
        """Replays the graph: tokens and positions (2, sequences) on the CPU -> logits (sequences, V).

        The logits are valid until the next replay.
        """
        self._given.copy_(given)
        self._graph.replay()
        return self._found
