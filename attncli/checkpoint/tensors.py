"""Reads and writes safetensors files one tensor at a time, so that memory contains a single tensor.

A file is a JSON header with the name, dtype, shape and offsets of every tensor, followed by the tensors' bytes. The
sha256 is computed during reading and writing. The safetensors library is not used, for two reasons: it maps files into
memory, so the process is killed if a file shrinks during reading; and computing the sha256 would need a second pass
over the file. Tests compare reading and writing with the library. This module does not know which tensors a model has.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attncli.errors import COPY_AGAIN, BadCheckpoint
from attncli.paths import open_regular, unreadable

# The dtypes that can be read and written. A file stores larger dtypes first, so each tensor is aligned to its dtype.
TYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in TYPES.items()}
_PLACES = {dtype: place for place, dtype in enumerate(TYPES.values())}
_METADATA = "__metadata__"
_LARGEST_HEADER = 4 << 20  # bytes; the header of a model of 1,000 layers is a third as large
_MOST_DIMENSIONS = 8
_MOST_NUMBERS = 1 << 60  # the largest product of a shape's dimensions; a dimension of 0 counts as 1
_SKIPPED_AT_ONCE = 1 << 20  # bytes read at once from a skipped tensor


@dataclass(frozen=True)
class Entry:
    """A tensor in the header. `begin` and `end` are byte offsets in the data that follows the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Writes tensors of any device to a new file and flushes it to the disk; returns the file's sha256 in hex.

    Tensors on another device are copied to the CPU one at a time; tensors on the CPU are not copied.
    """
    order = sorted(tensors, key=lambda name: (_PLACES[tensors[name].dtype], name))
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for data in _pieces(order, tensors, metadata):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(
    order: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> Iterator[bytes | memoryview]:
    """Yields the bytes of a file: the header, then each tensor."""
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield _bytes_of(tensors[name].detach().cpu().contiguous())


def _bytes_of(tensor: Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor on the CPU as a view that can be read and written."""
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data


class TensorFile:
    """An open safetensors file with a checked header. `entries` are in the order of their bytes."""

    def __init__(self, path: Path, file: BufferedReader, digest: bool = True) -> None:
        """Reads the header.

        If `digest` is False, computes no sha256 and skips unwanted tensors without reading them.
        """
        self.path = path
        self._file = file
        self._hashed = digest
        self._digest = hashlib.sha256()
        self.entries = self._read_header()

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, tensor) for each wanted name, on the CPU. Unwanted tensors use no memory.

        Raises BadCheckpoint if the file ends before its last tensor.
        """
        for entry in self.entries:
            if not wanted(entry.name):
                self._skip(entry)
                continue
            tensor = torch.empty(entry.shape, dtype=entry.dtype)
            data = _bytes_of(tensor)
            if self._file.readinto(data) != len(data):
                raise self._ends_within(entry)
            if self._hashed:
                self._digest.update(data)
            yield entry.name, tensor

    def sha256(self) -> str:
        """Returns the sha256 in hex of the bytes read so far. After `tensors` ends, these are all bytes of the file."""
        assert self._hashed
        return self._digest.hexdigest()

    def _skip(self, entry: Entry) -> None:
        """Skips a tensor. Reads its bytes only if the digest needs them."""
        left = entry.end - entry.begin
        if not self._hashed:
            self._file.seek(left, os.SEEK_CUR)
            return
        while left:
            data = self._file.read(min(left, _SKIPPED_AT_ONCE))
            if not data:
                raise self._ends_within(entry)
            self._digest.update(data)
            left -= len(data)

    def _ends_within(self, entry: Entry) -> BadCheckpoint:
        return self._refusal(f"it ends within {ascii(entry.name)[:80]}")

    def _read_header(self) -> tuple[Entry, ...]:
        size = os.fstat(self._file.fileno()).st_size
        prefix = self._file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise self._refusal("it has no header")
        text = self._file.read(length)
        self._digest.update(prefix + text)
        try:
            header = json.loads(text.decode("utf-8"))
            header.pop(_METADATA, None)
            found = (self._entry(name, said, size) for name, said in header.items())
            entries = sorted(found, key=lambda entry: (entry.begin, entry.end))
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
            raise self._refusal("its header cannot be read") from None
        end = 0
        for entry in entries:  # the tensors cover every byte exactly once
            if entry.begin != end:
                raise self._refusal(f"{ascii(entry.name)[:80]} does not begin where the previous tensor ends")
            end = entry.end
        if size != 8 + length + end:
            raise self._refusal(f"it has {size:,} bytes, and its header says {8 + length + end:,}")
        return tuple(entries)

    def _entry(self, name: str, said: dict[str, Any], size: int) -> Entry:
        """Checks the header's description of a tensor, and returns it as an Entry. The file has `size` bytes."""
        code, shape, (begin, end) = said["dtype"], said["shape"], said["data_offsets"]
        if code not in TYPES:
            raise BadCheckpoint(
                f"{self.path}: {ascii(name)[:80]} has type {ascii(code)[:20]}.", f"Supported: {', '.join(TYPES)}."
            )
        sizes = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        largest = math.prod(max(n, 1) for n in shape) if sizes and len(shape) <= _MOST_DIMENSIONS else math.inf
        if largest > _MOST_NUMBERS or max(begin, end) > size:
            raise self._refusal(f"the shape or the offsets of {ascii(name)[:80]} are impossible")
        if end - begin != math.prod(shape) * TYPES[code].itemsize:
            raise self._refusal(f"{ascii(name)[:80]} has {end - begin:,} bytes, and its shape needs another number")
        return Entry(name, TYPES[code], tuple(shape), begin, end)

    def _refusal(self, reason: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path} is not a safetensors file: {reason}.", COPY_AGAIN)


@contextmanager
def open_tensors(path: Path, digest: bool = True) -> Iterator[TensorFile]:
    """Opens a safetensors file, checks its header and yields it.

    Raises BadCheckpoint if the header is invalid, or if the file cannot be read, even later in the `with` block.
    """
    try:
        with open_regular(path) as file:
            yield TensorFile(path, file, digest)
    except OSError as problem:
        raise unreadable(path, problem) from None
