"""Sequences of token ids: in an array, or in a file that is read in slices.

The file is not memory-mapped: another process may clean up the cache, and a process that reads a mapped file is killed
if the file shrinks.
"""

from __future__ import annotations

import os
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import DTypeLike, NDArray

from attncli.errors import BadInput
from attncli.paths import open_regular


class TokenIds(Protocol):
    """The interface that an array and a file of token ids share. `ids[:]` reads all ids into memory."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type of an id."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...

    def __array__(self) -> NDArray[Any]: ...


class StoredIds:
    """Token ids in a file, which is open until this object is garbage-collected."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        """Opens the file. Raises OSError, or ValueError if the file ends within an id."""
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._path, self._file = path, open_regular(path)
        finalize(self, _close, self._file)
        self._length, rest = divmod(os.fstat(self._file.fileno()).st_size, self.dtype.itemsize)
        if rest:
            raise ValueError(path)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Returns the ids of a slice. Raises BadInput if the file has become too short."""
        start, stop, step = part.indices(self._length)
        size = max(stop - start, 0) * self.dtype.itemsize
        try:
            self._file.seek(start * self.dtype.itemsize)
            data = self._file.read(size)
        except OSError:
            data = b""
        if len(data) != size:
            raise BadInput(
                f"{self._path} was cut short while it was in use.", "Run the command again: it rewrites the file."
            )
        return np.frombuffer(data, self.dtype)[::step]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype)


def _close(file: BufferedReader) -> None:
    with suppress(OSError):
        file.close()
