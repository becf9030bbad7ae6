"""The memory of generation: the keys and values of every position read so far.

The cache belongs to whoever generates; the model only appends to it. Knows nothing of attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_CAPACITY = 64  # positions


class KVCache:
    """Keys and values per layer, each (B, K, length, D), in buffers that double as they fill, up to `limit`.

    New positions follow those held; a cache with `places` (B,) has a place for the one new position of each row.
    """

    places: Tensor | None = None

    def __init__(self, layers: int, limit: int, first: int = FIRST_CAPACITY) -> None:
        """`first` is how many positions the buffers have room for before they double."""
        self.limit = limit
        self._first = first
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._lengths = [0] * layers

    @property
    def length(self) -> int:
        """Positions held by every layer."""
        return self._lengths[-1]

    @property
    def nbytes(self) -> int:
        """Memory taken by the buffers."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values) if buffer is not None)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds key and value (B, K, T, D) of new positions; returns all of the layer's, (B, K, length, D), as views.

        Raises ValueError when that passes the limit.
        """
        start = self._lengths[layer]
        end = start + key.shape[2]
        if end > self.limit:
            raise ValueError(f"{end} positions in a cache of {self.limit}")
        keys = self._keys[layer] = self._room(self._keys[layer], key, start, end)
        values = self._values[layer] = self._room(self._values[layer], value, start, end)
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        self._lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def shared(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values (1, K, length, D) that are the same for every row of a batch, where they stand only once."""
        return None

    def mask(self, window: int | None) -> Tensor | None:
        """(B, 1, T, S), True where a query may look; None for the causal mask that follows from the lengths."""
        return None

    def truncate(self, length: int) -> None:
        """Forgets every position from `length` on."""
        self._lengths = [min(held, length) for held in self._lengths]

    def _room(self, buffer: Tensor | None, like: Tensor, used: int, needed: int) -> Tensor:
        """A buffer for `needed` positions that holds the `used` ones of the old."""
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        capacity = self._first if buffer is None else buffer.shape[2]
        while capacity < needed:
            capacity *= 2
        batch, heads, _, width = like.shape
        grown = like.new_zeros(batch, heads, min(capacity, self.limit), width)  # what a mask hides counts 0 times
        if buffer is not None:
            grown[:, :, :used] = buffer[:, :, :used]
        return grown


class StepCache(KVCache):
    """One new position of every sequence, each at a place of its own, in buffers (B, K, S, D) of equal capacity.

    For one forward pass. Shapes depend on the buffers alone, not on the places, so that a step can be recorded and
    replayed.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], places: Tensor) -> None:
        """places (B,): the position of each sequence's new token."""
        super().__init__(len(keys), keys[0].shape[2])
        self.places: Tensor = places
        self._buffers = list(zip(keys, values, strict=True))
        self._masks: dict[int | None, Tensor] = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts key and value (B, K, 1, D) in their places; returns the whole buffers (B, K, S, D)."""
        at = self.places[:, None, None, None].expand(key.shape)
        keys, values = self._buffers[layer]
        return keys.scatter_(2, at, key), values.scatter_(2, at, value)

    def mask(self, window: int | None) -> Tensor:
        """(B, 1, 1, S), True at the positions that each sequence's new token may look at; made once for all layers."""
        if window not in self._masks:
            at_key = torch.arange(self.limit, device=self.places.device)
            at_query = self.places[:, None]
            allowed = at_key <= at_query
            self._masks[window] = (allowed if window is None else allowed & (at_key > at_query - window))[:, None, None]
        return self._masks[window]


class SharedPast(KVCache):
    """Keys and values (1, K, length, D) per layer, the same for every row of a batch; what is appended is not kept."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], limit: int) -> None:
        super().__init__(len(keys), limit)
        self._pairs = list(zip(keys, values, strict=True))

    @property
    def length(self) -> int:
        """Positions that are held."""
        return int(self._pairs[0][0].shape[2])

    def shared(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (1, K, length, D)."""
        return self._pairs[layer]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, T, D) of new positions -> (B, K, length + T, D)."""
        keys, values = (held.expand(len(key), -1, -1, -1) for held in self._pairs[layer])
        return torch.cat((keys, key), 2), torch.cat((values, value), 2)
