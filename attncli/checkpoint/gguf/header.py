"""Reads the header of a GGUF file, which is untrusted: the metadata, and the type, shape and place of every tensor.

Every count and length is compared with the bytes that are left in the file before memory is allocated, and every tensor
lies within the file. The file is read and not mapped into memory, so that a file that shrinks is an error and not a
signal. No torch.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from attncli.checkpoint.gguf.layout import (
    ALIGNMENT,
    ARRAY,
    FIXED,
    MAGIC,
    OTHER_TYPES,
    STRING,
    TYPES,
    VERSIONS,
    TensorType,
)
from attncli.errors import COPY_AGAIN, BadCheckpoint
from attncli.paths import open_regular, unreadable

_LARGEST_HEADER = 64 << 20  # bytes; a vocabulary of 256,000 tokens takes a tenth of it
_LARGEST_ARRAY = 1 << 22  # elements; the largest vocabulary is as large
_MOST_PAIRS = _MOST_TENSORS = 1 << 16
_LARGEST_KEY = 1 << 16  # bytes, as the format says
_LARGEST_ALIGNMENT = 1 << 20
_MOST_DIMENSIONS = 4
_MOST_NUMBERS = 1 << 60
_SHOWN = 80  # characters of a name in an error


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the header: its shape with the outer dimension first, and the offset of its bytes in the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class Header:
    """The metadata and the tensors of a GGUF file. `identity` changes if the file is replaced or written to."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    identity: tuple[int, ...]


def read_header(path: Path) -> Header:
    """Reads and checks the header of a GGUF file. Raises BadCheckpoint."""
    try:
        with open_regular(path) as file:
            return _HeaderReader(path, file).read()
    except OSError as problem:
        raise unreadable(path, problem) from None


def identity(file: BufferedReader) -> tuple[int, ...]:
    """Returns the identity of an open file, as in `Header`."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


class _HeaderReader:
    """Reads values one after another, and counts the bytes that are left."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0

    def read(self) -> Header:
        if self._size < len(MAGIC) or self._bytes(len(MAGIC)) != MAGIC:
            raise self._refusal("it does not begin with GGUF")
        version = self._number("I")
        if version not in VERSIONS:
            other = "it is big-endian" if version >> 16 else f"its version is {version}"
            raise BadCheckpoint(f"{self._path}: {other}, which is not supported.", "Supported: versions 2 and 3.")
        tensors, pairs = self._number("Q"), self._number("Q")
        self._refuse_above(tensors, _MOST_TENSORS, 24, "tensors")
        self._refuse_above(pairs, _MOST_PAIRS, 13, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text(_LARGEST_KEY)
            if key in metadata:
                raise self._refusal(f"the key {self._shown(key)} occurs twice")
            metadata[key] = self._value(self._number("I"), key)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        whole = type(alignment) is int and 0 < alignment <= _LARGEST_ALIGNMENT
        if not whole or alignment & (alignment - 1):
            raise self._refusal(f"general.alignment is {str(alignment)[:_SHOWN]}, which is not a power of two")
        found = [self._tensor(alignment) for _ in range(tensors)]
        return Header(metadata, self._placed(found, alignment), identity(self._file))

    def _tensor(self, alignment: int) -> GgufTensor:
        """Reads the description of a tensor. `begin` is still the offset within the data."""
        name = self._text(_LARGEST_KEY)
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._refusal(f"{self._shown(name)} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        code, begin = self._number("I"), self._number("Q")
        if code not in TYPES:
            raise BadCheckpoint(
                f"{self._path}: {self._shown(name)} has type {OTHER_TYPES.get(code, code)}, which is not supported.",
                "Convert the file to Q8_0 with llama-quantize.",
            )
        if not all(shape) or math.prod(shape) > _MOST_NUMBERS or begin % alignment:
            raise self._refusal(f"the shape or the offset of {self._shown(name)} is impossible")
        if shape[-1] % TYPES[code].numbers:
            raise self._refusal(f"{self._shown(name)} has rows of {shape[-1]} numbers, which are not whole blocks")
        return GgufTensor(name, TYPES[code], shape, begin)

    def _placed(self, tensors: list[GgufTensor], alignment: int) -> tuple[GgufTensor, ...]:
        """Checks that tensors have different names, lie in the file and do not overlap; returns them in their order."""
        data = -(-self._at // alignment) * alignment
        placed = [GgufTensor(each.name, each.type, each.shape, data + each.begin) for each in tensors]
        if len({each.name for each in placed}) < len(placed):
            raise self._refusal("two tensors have the same name")
        end = data
        for each in sorted(placed, key=lambda tensor: tensor.begin):
            if each.begin < end:
                raise self._refusal(f"{self._shown(each.name)} overlaps another tensor")
            end = each.begin + each.type.size(each.shape)
            if end > self._size:
                raise self._refusal(f"it ends within {self._shown(each.name)}")
        return tuple(placed)

    def _value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self._text(_LARGEST_HEADER)
        if kind in FIXED:
            return self._number(FIXED[kind])
        if kind != ARRAY:
            raise self._refusal(f"{self._shown(key)} has the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner != STRING and inner not in FIXED:
            raise self._refusal(f"{self._shown(key)} is an array of the type {inner}")
        size = 8 if inner == STRING else struct.calcsize(f"<{FIXED[inner]}")
        self._refuse_above(count, _LARGEST_ARRAY, size, f"elements in {self._shown(key)}")
        if inner == STRING:
            return [self._text(_LARGEST_HEADER) for _ in range(count)]
        return list(struct.unpack(f"<{count}{FIXED[inner]}", self._bytes(count * size)))

    def _refuse_above(self, count: int, most: int, size: int, what: str) -> None:
        """Raises BadCheckpoint for more than `most` elements, or for elements of `size` bytes that the file lacks."""
        if count > most or count * size > self._size - self._at:
            raise self._refusal(f"it says that it has {count:,} {what}")

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise self._refusal(f"it says that a text has {length:,} bytes")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._refusal("a text is not UTF-8") from None

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def _bytes(self, count: int) -> bytes:
        if count > min(self._size, _LARGEST_HEADER) - self._at:
            raise self._refusal(
                "its header is longer than the file" if count > self._size - self._at else "its header is too long"
            )
        data = self._file.read(count)
        if len(data) < count:
            raise self._refusal("it ends within its header")
        self._at += count
        return data

    def _shown(self, name: str) -> str:
        return ascii(name)[:_SHOWN]

    def _refusal(self, reason: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self._path} is not a readable GGUF file: {reason}.", COPY_AGAIN)
