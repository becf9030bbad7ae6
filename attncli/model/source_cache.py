"""The encoded sources of the sequences of a cache: for each decoder layer, the keys and values of cross-attention.

A source is encoded once and stays the same while the target is generated. Sources of different lengths share buffers;
a mask hides the positions after the end of a shorter source. A sequence may be a copy of another one, such as a second
sample of the same text.

Letters: B batch, K key/value heads, S source tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncli.model.stack import Source


def selection(sequences: Sequence[int]) -> slice | list[int]:
    """Returns an index for rows of a buffer: a slice, which needs no copy, if the rows are consecutive; else a list."""
    first, count = sequences[0], len(sequences)
    return slice(first, first + count) if list(sequences) == list(range(first, first + count)) else list(sequences)


class SourceCache:
    """The keys and values of the sources of several sequences, in buffers (sequences, K, capacity, D) per layer."""

    def __init__(self, sequences: int) -> None:
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._lengths = [0] * sequences
        self._texts: list[object] = [None] * sequences  # the same object for sequences with the same source
        self._last: tuple[tuple[int, ...], Source] | None = None  # the last arguments and result of `of`

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers."""
        return sum(buffer.nbytes for pair in self._buffers for buffer in pair)

    def store(self, sequences: Sequence[int], source: Source, lengths: Sequence[int]) -> None:
        """Stores the sources of some sequences, with their numbers of tokens, and replaces their earlier sources."""
        self._last = None
        rows, longest = selection(sequences), max(lengths)
        self._reserve(source, longest)
        for buffers, pair in zip(self._buffers, source.layers, strict=True):
            for buffer, new in zip(buffers, pair, strict=True):
                buffer[rows, :, :longest] = new[:, :, :longest]
        for sequence, length in zip(sequences, lengths, strict=True):
            self._lengths[sequence], self._texts[sequence] = length, object()

    def copy(self, source: int, target: int) -> None:
        """Copies the source of one sequence to another. Copies nothing if both have the same source."""
        if self._texts[source] is self._texts[target]:
            return
        self._last = None
        length = self._lengths[target] = self._lengths[source]
        self._texts[target] = self._texts[source]
        for pair in self._buffers:
            for buffer in pair:
                buffer[target, :, :length] = buffer[source, :, :length]

    def of(self, sequences: Sequence[int]) -> Source:
        """Returns the sources of some sequences as a batch, without a mask if all have the same length.

        A sequence without a source gets one position of zeros, so that its attention is finite.
        """
        key = tuple(sequences)
        if self._last is None or self._last[0] != key:
            lengths = [max(self._lengths[sequence], 1) for sequence in sequences]
            rows, longest = selection(sequences), max(lengths)
            layers = tuple((keys[rows, :, :longest], values[rows, :, :longest]) for keys, values in self._buffers)
            self._last = key, Source(layers, self._mask(lengths))
        return self._last[1]

    def _mask(self, lengths: Sequence[int]) -> Tensor | None:
        """Returns the mask (B, 1, 1, S), True within each length; None if all lengths are equal."""
        if len(set(lengths)) == 1:
            return None
        device = self._buffers[0][0].device
        ends = torch.tensor(lengths, device=device)
        return (torch.arange(max(lengths), device=device) < ends[:, None])[:, None, None]

    def _reserve(self, source: Source, positions: int) -> None:
        """Grows the buffers to at least this number of positions; the new positions are zeros."""
        capacity = self._buffers[0][0].shape[2] if self._buffers else 0
        if positions <= capacity:
            return
        old = self._buffers or [(keys[:0], values[:0]) for keys, values in source.layers]
        self._buffers = [
            (self._grown(pair[0], like[0], positions), self._grown(pair[1], like[1], positions))
            for pair, like in zip(old, source.layers, strict=True)
        ]

    def _grown(self, old: Tensor, like: Tensor, positions: int) -> Tensor:
        grown = like.new_zeros(len(self._lengths), like.shape[1], positions, like.shape[3])
        grown[: len(old), :, : old.shape[2]] = old[:, :, :positions]
        return grown
