"""How whoever generates reads tokens: some sequences at once, each from its own position, with a cache of its own.

Owns the one question asked of a network while text is generated, and PyTorch's answer to it on any device. The other
answer, for a CPU, is in `native`. Knows nothing of text, sampling or files.

Letters: K key/value heads, S positions, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from attncli.config import ModelConfig
from attncli.model.cache import KVCache
from attncli.model.count import NumberTypes
from attncli.model.device import dtype_name
from attncli.model.transformer import Transformer


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

    def new_cache(self, sequences: int) -> SequenceCache:
        """An empty cache for so many sequences."""

    def read(self, cache: Any, pieces: Sequence[Piece]) -> Tensor:
        """Reads pieces of different sequences -> logits (wanted of all pieces, V), below one another.

        The cache is one of its own.
        """


class BatchCache(KVCache):
    """Keys and values of several sequences of any lengths; a KVCache for some of them at a time."""

    def __init__(self, layers: int, limit: int, sequences: int) -> None:
        super().__init__(layers, limit)
        self._sequences = sequences
        self._chosen: slice | list[int] = slice(0, sequences)

    def choose(self, sequences: Sequence[int], length: int) -> None:
        """From now on holds these sequences alone, `length` positions of each."""
        first, count = sequences[0], len(sequences)
        together = list(sequences) == list(range(first, first + count))
        self._chosen = slice(first, first + count) if together else list(sequences)
        self._lengths = [length] * len(self._lengths)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds key and value (chosen, K, T, D) of new positions; returns all of the chosen, (chosen, K, length, D)."""
        start = self._lengths[layer]
        end = self._lengths[layer] = start + key.shape[2]
        if end > self.limit:
            raise ValueError(f"{end} positions in a cache of {self.limit}")
        whole = key.new_empty(self._sequences, key.shape[1], 0, key.shape[3])
        held = self._keys[layer]
        filled = 0 if held is None else held.shape[2]  # of a buffer any position may be in use
        keys = self._keys[layer] = self._room(self._keys[layer], whole, filled, end)
        values = self._values[layer] = self._room(self._values[layer], whole, filled, end)
        keys[self._chosen, :, start:end] = key
        values[self._chosen, :, start:end] = value
        return keys[self._chosen, :, :end], values[self._chosen, :, :end]

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives a sequence the first `length` positions of another."""
        for buffer in (*self._keys, *self._values):
            if buffer is not None:
                buffer[target, :, :length] = buffer[source, :, :length]


class TorchBackend:
    """A Transformer that reads pieces of equal start and length together."""

    exact = False  # PyTorch's products go by their shapes

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.config = model.config
        self.device = model.embedding.weight.device
        name = dtype_name(model.embedding.weight.dtype)
        self.types = NumberTypes(name, name, name)

    def new_cache(self, sequences: int) -> BatchCache:
        """An empty cache for so many sequences."""
        return BatchCache(self.config.layers, self.config.context, sequences)

    @torch.inference_mode()
    def read(self, cache: BatchCache, pieces: Sequence[Piece]) -> Tensor:
        """Reads pieces of different sequences -> logits (wanted of all pieces, V), below one another."""
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
