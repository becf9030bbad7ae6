"""StringArray: many short texts in one array of UTF-8 bytes, which takes a fraction of the memory of Python strings."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 16  # texts; limits the memory of their positions as Python numbers


@dataclass(frozen=True, eq=False)
class StringArray:
    """Texts as UTF-8 bytes. Text i is `data[starts[i] : starts[i] + sizes[i]]`.

    A selection shares `data` with the array that it was taken from.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]  # bytes
    sizes: NDArray[np.int64]  # bytes

    def take(self, indices: NDArray[np.int64]) -> StringArray:
        """Returns the texts with these indices, in their order."""
        return StringArray(self.data, self.starts[indices], self.sizes[indices])

    @property
    def bytes(self) -> int:
        """The size of all texts in bytes."""
        return int(self.sizes.sum())

    @cached_property
    def characters(self) -> int:
        """The number of characters of all texts."""
        return sum(len(text) for text in self)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """A 64-bit BLAKE2 hash of each text, the same on every machine. Equal texts have equal hashes."""
        joined = b"".join(blake2b(text, digest_size=8).digest() for text in self._views())
        return np.frombuffer(joined, "<u8").astype(np.uint64)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> str:
        start = int(self.starts[index])
        return self.data[start : start + int(self.sizes[index])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (str(text, "utf-8") for text in self._views())

    def _views(self) -> Iterator[memoryview]:
        """Yields the bytes of each text without copying them."""
        whole = self.data.data
        for first in range(0, len(self), _AT_ONCE):
            starts, sizes = (part[first : first + _AT_ONCE].tolist() for part in (self.starts, self.sizes))
            for start, size in zip(starts, sizes, strict=True):
                yield whole[start : start + size]


class StringArrayBuilder:
    """Collects texts one at a time for a StringArray."""

    def __init__(self) -> None:
        self._data, self._sizes = bytearray(), array("q")

    def add(self, text: str) -> None:
        """Adds a text, which must not contain surrogates."""
        encoded = text.encode()
        self._data += encoded
        self._sizes.append(len(encoded))

    def build(self) -> StringArray:
        """Returns the texts. No text may be added afterwards."""
        sizes = np.array(self._sizes, np.int64)
        return StringArray(np.frombuffer(self._data, np.uint8), np.cumsum(sizes) - sizes, sizes)
