"""Tensors in a file, one at a time: the safetensors format, written and read with the memory of a single tensor.

Owns the file format and its checks. Knows nothing of models: not which tensors there should be, nor what they mean.

The library of that name maps files into memory, which kills the process when one shrinks while it is read, and a digest
would take a second reading. The tests hold what is written and what is read here to that library.
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

from attncli.errors import BadCheckpoint
from attncli.paths import open_regular, unreadable

# Every type that is read or written, in the order of its tensors in a file: so each starts at a multiple of its width.
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
_LARGEST_HEADER = 4 << 20  # bytes; a model of 1,000 layers takes a third of it
_MOST_DIMENSIONS = 8
_MOST_NUMBERS = 1 << 60  # of a shape, also where one dimension is 0
_SKIPPED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Entry:
    """What a file says of one tensor. `begin` and `end` are bytes of the file's data, which follow its header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Writes tensors of any device to a new file and flushes it to the disk; returns its sha256 in hex.

    Takes the memory of one tensor where they are not on the CPU, none where they are.
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
    """The bytes of a file: its header, then those of each tensor."""
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
    """The memory of a contiguous tensor on the CPU, to read or to fill."""
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data


class TensorFile:
    """A file of tensors that is open, its header checked: the entries, in the order of their bytes, and then these."""

    def __init__(self, path: Path, file: BufferedReader, digest: bool = True) -> None:
        """Without `digest`, none is computed, and what is not wanted is not read."""
        self.path = path
        self._file = file
        self._hashed = digest
        self._digest = hashlib.sha256()
        self.entries = self._read_header()

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """The tensors whose names are wanted, on the CPU, one at a time; the others take no memory.

        Raises BadCheckpoint when the file ends before its last one.
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
        """The digest, in hex, of what has been read so far: of the file, once every tensor has been."""
        assert self._hashed
        return self._digest.hexdigest()

    def _skip(self, entry: Entry) -> None:
        """Goes past a tensor, reading it only for the digest."""
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
        for entry in entries:  # no byte belongs to two, and none to nobody
            if entry.begin != end:
                raise self._refusal(f"{ascii(entry.name)[:80]} does not begin where the one before it ends")
            end = entry.end
        if size != 8 + length + end:
            raise self._refusal(f"it has {size:,} bytes, and its header says {8 + length + end:,}")
        return tuple(entries)

    def _entry(self, name: str, said: dict[str, Any], size: int) -> Entry:
        """One entry of the header of a file of `size` bytes."""
        code, shape, (begin, end) = said["dtype"], said["shape"], said["data_offsets"]
        if code not in TYPES:
            raise BadCheckpoint(
                f"{self.path}: {ascii(name)[:80]} has type {ascii(code)[:20]}.", f"Supported: {', '.join(TYPES)}."
            )
        sizes = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        largest = math.prod(max(n, 1) for n in shape) if sizes and len(shape) <= _MOST_DIMENSIONS else math.inf
        if largest > _MOST_NUMBERS or max(begin, end) > size:
            raise self._refusal(f"the shape or place of {ascii(name)[:80]} cannot be meant")
        if end - begin != math.prod(shape) * TYPES[code].itemsize:
            raise self._refusal(f"{ascii(name)[:80]} has {end - begin:,} bytes, which its shape does not take")
        return Entry(name, TYPES[code], tuple(shape), begin, end)

    def _refusal(self, reason: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path} is not a safetensors file: {reason}.", "Copy it again from its source.")


@contextmanager
def open_tensors(path: Path, digest: bool = True) -> Iterator[TensorFile]:
    """Opens a file and checks its header. Raises BadCheckpoint, also for what goes wrong while it is read."""
    try:
        with open_regular(path) as file:
            yield TensorFile(path, file, digest)
    except OSError as problem:
        raise unreadable(path, problem) from None
