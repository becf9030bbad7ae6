"""How whoever generates reads tokens: some sequences at once, each from its own position, with a cache of its own.

Owns the one question asked of a network while text is generated, and PyTorch's answer to it on any device. The other
answer, for a CPU, is in `native`. Knows nothing of text, sampling or files.

Letters: K key/value heads, S positions, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from attncli.config import ModelConfig
from attncli.model.cache import FIRST_CAPACITY, KVCache, StepCache
from attncli.model.count import NumberTypes
from attncli.model.device import dtype_name
from attncli.model.transformer import Transformer

_PRODUCTS_PER_THREAD = 32_000_000  # of a step on a CPU; with fewer, threads cost more than they bring
_MOST_ROOM = 4096  # positions of all sequences together, before any is read: more is memory that may not be used


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence to be read, the first of them at position `start`; what was read after it is forgotten."""

    sequence: int
    start: int
    ids: Sequence[int]
    wanted: int = 1  # how many of its last tokens the logits are asked for

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.ids)


class SequenceCache(Protocol):
    """Keys and values of several sequences, owned by whoever generates."""

    @property
    def nbytes(self) -> int:
        """Memory taken by the buffers."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives a sequence the first `length` positions of another."""


class Backend(Protocol):
    """A network that reads tokens."""

    @property
    def config(self) -> ModelConfig:
        """The network's shape."""

    @property
    def device(self) -> torch.device:
        """Where its logits are."""

    @property
    def types(self) -> NumberTypes:
        """What it keeps numbers in."""

    @property
    def exact(self) -> bool:
        """Whether a row's numbers are the same to the last bit, whatever is read beside it and at once."""

    @property
    def description(self) -> str:
        """What computes, and in which type: '2 threads of a CPU, bfloat16'."""

    def new_cache(self, sequences: int, positions: int = 1) -> SequenceCache:
        """An empty cache for so many sequences; about so many positions of each will be asked for."""

    def read(self, cache: Any, pieces: Sequence[Piece]) -> Tensor:
        """Reads pieces of different sequences -> logits (wanted of all pieces, V), below one another.

        The cache is one of its own. The logits are good until the next call.
        """


class BatchCache(KVCache):
    """Keys and values of several sequences of any lengths; a KVCache for some of them at a time.

    The last place of the buffers is never in use: in a step of all sequences it takes what has no meaning.
    """

    def __init__(self, layers: int, context: int, sequences: int, first: int) -> None:
        """`first` is how many positions of each sequence there is room for before the buffers double."""
        super().__init__(layers, context + 1, first)
        self._sequences = sequences
        self._chosen: slice | list[int] = slice(0, sequences)

    def choose(self, sequences: Sequence[int], length: int) -> None:
        """From now on holds these sequences alone, `length` positions of each."""
        first, count = sequences[0], len(sequences)
        together = list(sequences) == list(range(first, first + count))
        self._chosen = slice(first, first + count) if together else list(sequences)
        self._lengths = [length] * len(self._lengths)

    @property
    def sequences(self) -> int:
        """How many there is room for."""
        return self._sequences

    @property
    def capacity(self) -> int:
        """Positions that the buffers have room for."""
        return 0 if self._keys[0] is None else self._keys[0].shape[2]

    def step(self, places: Tensor) -> StepCache:
        """The buffers as they are, for one new token of every sequence, each at its place (sequences,)."""
        return StepCache([k for k in self._keys if k is not None], [v for v in self._values if v is not None], places)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds key and value (chosen, K, T, D) of new positions; returns all of the chosen, (chosen, K, length, D)."""
        start = self._lengths[layer]
        end = self._lengths[layer] = start + key.shape[2]
        if end >= self.limit:
            raise ValueError(f"{end} positions in a cache of {self.limit - 1}")
        whole = key.new_empty(self._sequences, key.shape[1], 0, key.shape[3])
        held = self._keys[layer]
        filled = 0 if held is None else held.shape[2]  # of a buffer any position may be in use
        keys = self._keys[layer] = self._room(self._keys[layer], whole, filled, end + 1)
        values = self._values[layer] = self._room(self._values[layer], whole, filled, end + 1)
        keys[self._chosen, :, start:end] = key
        values[self._chosen, :, start:end] = value
        return keys[self._chosen, :, :end], values[self._chosen, :, :end]

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Gives a sequence the first `length` positions of another."""
        for buffer in (*self._keys, *self._values):
            if buffer is not None:
                buffer[target, :, :length] = buffer[source, :, :length]


class TorchBackend:
    """A Transformer that reads pieces of equal start and length together, and one token of every sequence at once.

    On CUDA such a step is recorded once for each size of the buffers, and then replayed as one call.
    """

    exact = False  # PyTorch's products go by their shapes

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.config = model.config
        self.device = model.embedding.weight.device
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        name = dtype_name(model.embedding.weight.dtype)
        self.types = NumberTypes(name, name, name)
        self._recorded: _Recording | None = None

    @property
    def description(self) -> str:
        """What computes, and in which type."""
        where = (
            self.device.type
            if self.device.type != "cpu"
            else f"PyTorch on up to {torch.get_num_threads()} threads (no network in C)"
        )
        return f"{where}, {self.types.matrices}"

    def new_cache(self, sequences: int, positions: int = 1) -> BatchCache:
        """An empty cache for so many sequences; what was recorded for another one goes.

        On CUDA, where a step is recorded again whenever the buffers double, there is room for the positions from the
        start, as long as that is little.
        """
        self._recorded, first = None, FIRST_CAPACITY
        if self.device.type == "cuda":
            first = max(first, min(positions + 1, _MOST_ROOM // sequences))
        return BatchCache(self.config.layers, self.config.context, sequences, first)

    @torch.inference_mode()
    def read(self, cache: BatchCache, pieces: Sequence[Piece]) -> Tensor:
        """Reads pieces of different sequences -> logits (wanted of all pieces, V), good until the next call."""
        if self.device.type == "cpu" and all(len(piece.ids) == 1 for piece in pieces):
            with _threads_for(self._parameters * len(pieces)):
                return self._read(cache, pieces)
        return self._read(cache, pieces)

    def _read(self, cache: BatchCache, pieces: Sequence[Piece]) -> Tensor:
        if self._is_step(cache, pieces):
            return self._step(cache, pieces)
        groups: dict[tuple[int, int], list[int]] = {}
        for number, piece in enumerate(pieces):
            groups.setdefault((piece.start, len(piece.ids)), []).append(number)
        hidden: dict[int, Tensor] = {}
        for (start, _), members in groups.items():
            cache.choose([pieces[number].sequence for number in members], start)
            ids = torch.tensor([list(pieces[number].ids) for number in members], device=self.device)
            found = self._model.hidden(ids, cache)
            hidden |= {number: found[row, -pieces[number].wanted :] for row, number in enumerate(members)}
        return self._model.unembed(torch.cat([hidden[number] for number in range(len(pieces))]))

    def _is_step(self, cache: BatchCache, pieces: Sequence[Piece]) -> bool:
        """Whether these are single tokens in room that is there; elsewhere than on CUDA only at different positions."""
        if any(len(piece.ids) > 1 or piece.end >= cache.capacity for piece in pieces):
            return False
        return self.device.type == "cuda" or len({piece.start for piece in pieces}) > 1

    def _step(self, cache: BatchCache, pieces: Sequence[Piece]) -> Tensor:
        """Reads one token of every sequence, the others any in the last place -> logits of the pieces (pieces, V)."""
        ids, places = [0] * cache.sequences, [cache.capacity - 1] * cache.sequences
        for piece in pieces:
            ids[piece.sequence], places[piece.sequence] = piece.ids[0], piece.start
        given = torch.tensor((ids, places))
        if self.device.type != "cuda":
            given = given.to(self.device)
            found = self._logits(cache.step(given[1]), given[0])
        else:
            if self._recorded is None or not self._recorded.fits(cache):
                self._recorded = None  # and with it the memory of the last one
                self._recorded = _Recording(self._model, self._logits, cache)
            found = self._recorded.replay(given)
        rows = [piece.sequence for piece in pieces]
        return found if rows == list(range(cache.sequences)) else found[rows]

    def _logits(self, step: StepCache, ids: Tensor) -> Tensor:
        """ids (sequences,) -> logits (sequences, V)."""
        return self._model.unembed(self._model.hidden(ids[:, None], step)[:, 0])


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """PyTorch has as many threads as a step of so many products gains from.

    Not as many as are the fastest now, since PyTorch adds up in another order with another number of threads.
    """
    most = torch.get_num_threads()
    torch.set_num_threads(max(min(most, products // _PRODUCTS_PER_THREAD), 1))
    try:
        yield
    finally:
        torch.set_num_threads(most)


class _Recording:
    """A step on CUDA as a graph: what it reads and writes lies where it lay when it was recorded."""

    def __init__(self, model: Transformer, logits: Callable[[StepCache, Tensor], Tensor], cache: BatchCache) -> None:
        self._cache, self._capacity = cache, cache.capacity
        device = model.embedding.weight.device
        if model.position is None:  # the graph reads this table, also after a longer one has taken its place
            self._rotary = model.rotation(min(cache.capacity, model.config.context))
        self._given = torch.zeros(2, cache.sequences, dtype=torch.long, device=device)
        self._given[1] = cache.capacity - 1
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            logits(cache.step(self._given[1]), self._given[0])  # so that every kernel has been chosen and loaded
        torch.cuda.current_stream(device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = logits(cache.step(self._given[1]), self._given[0])

    def fits(self, cache: BatchCache) -> bool:
        """Whether the buffers are those recorded."""
        return cache is self._cache and cache.capacity == self._capacity

    def replay(self, given: Tensor) -> Tensor:
        """Tokens and places (2, sequences), of the CPU -> logits (sequences, V), until the next replay."""
        self._given.copy_(given)
        self._graph.replay()
        return self._found
