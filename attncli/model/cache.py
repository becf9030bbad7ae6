"""The KV cache: stores the keys and values of past positions, so that a step computes the new positions only.

The caller owns the cache, and the model appends to it. Buffers are preallocated and double as they fill. `StepCache`
is for one decoding step of a batch, `SharedPast` for rows with a common prefix. Computes no attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_CAPACITY = 64  # positions


class KVCache:
    """Keys and values per layer, each (B, K, length, D), in buffers that double when they are full, up to `limit`.

    New positions are appended. If `places` (B,) is set, each row has one new position, which is written at the index in
    `places`.
    """

    places: Tensor | None = None

    def __init__(self, layers: int, limit: int, first: int = FIRST_CAPACITY) -> None:
        """`first` is the initial capacity in positions."""
        self.limit = limit
        self._first = first
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._lengths = [0] * layers

    @property
    def length(self) -> int:
        """The number of positions that all layers contain."""
        return self._lengths[-1]

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values) if buffer is not None)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Appends key and value (B, K, T, D) of new positions; returns views (B, K, length, D) of all positions.

        Raises ValueError if the length exceeds the limit.
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
        """Returns the keys and values (1, K, length, D) that all rows of a batch share; None if nothing is shared."""
        return None

    def mask(self, window: int | None) -> Tensor | None:
        """Returns the mask (B, 1, T, S), True where a query may attend; None stands for the usual causal mask."""
        return None

    def truncate(self, length: int) -> None:
        """Truncates the cache to its first `length` positions."""
        self._lengths = [min(held, length) for held in self._lengths]

    def _room(self, buffer: Tensor | None, like: Tensor, used: int, needed: int) -> Tensor:
        """Returns a buffer for `needed` positions that contains the `used` positions of the old buffer."""
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        capacity = self._first if buffer is None else buffer.shape[2]
        while capacity < needed:
            capacity *= 2
        batch, heads, _, width = like.shape
        grown = like.new_zeros(batch, heads, min(capacity, self.limit), width)  # zeros: masked values must be finite
        if buffer is not None:
            grown[:, :, :used] = buffer[:, :, :used]
        return grown


class StepCache(KVCache):
    """The cache of one decoding step with one new position per sequence; the buffers are (B, K, S, D).

    All shapes depend on the buffers alone, so a step can be recorded as a CUDA graph and replayed at other positions.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], places: Tensor) -> None:
        """`places` (B,) are the positions of the sequences' new tokens."""
        super().__init__(len(keys), keys[0].shape[2])
        self.places: Tensor = places
        self._buffers = list(zip(keys, values, strict=True))
        self._masks: dict[int | None, Tensor] = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key and value (B, K, 1, D) to their positions; returns the whole buffers (B, K, S, D)."""
        at = self.places[:, None, None, None].expand(key.shape)
        keys, values = self._buffers[layer]
        return keys.scatter_(2, at, key), values.scatter_(2, at, value)

    def mask(self, window: int | None) -> Tensor:
        """Returns the mask (B, 1, 1, S), True where the new token may attend; it is computed once for all layers."""
        if window not in self._masks:
            at_key = torch.arange(self.limit, device=self.places.device)
            at_query = self.places[:, None]
            allowed = at_key <= at_query
            self._masks[window] = (allowed if window is None else allowed & (at_key > at_query - window))[:, None, None]
        return self._masks[window]


class SharedPast(KVCache):
    """Keys and values (1, K, length, D) per layer that all rows of a batch share; appended positions are not stored."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], limit: int) -> None:
        super().__init__(len(keys), limit)
        self._pairs = list(zip(keys, values, strict=True))

    @property
    def length(self) -> int:
        """The number of shared positions."""
        return int(self._pairs[0][0].shape[2])

    def shared(self, layer: int) -> tuple[Tensor, Tensor]:
        """Returns the shared keys and values (1, K, length, D) of a layer."""
        return self._pairs[layer]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenates the shared positions and the new positions (B, K, T, D) -> (B, K, length + T, D)."""
        keys, values = (held.expand(len(key), -1, -1, -1) for held in self._pairs[layer])
        return torch.cat((keys, key), 2), torch.cat((values, value), 2)
