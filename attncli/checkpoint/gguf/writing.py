"""Writes a GGUF file: the header, then each tensor, so that memory contains a single tensor. No torch.

The Python type of a value of the metadata determines its GGUF type: an int is an unsigned integer of 32 bits, a float
has 32 bits, a list contains strings, floats or signed integers of 32 bits. An empty list is a list of strings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from attncli.checkpoint.gguf.layout import (
    ALIGNMENT,
    ARRAY,
    BOOL,
    FIXED,
    FLOAT32,
    INT32,
    MAGIC,
    STRING,
    UINT32,
    VERSION,
    TensorType,
)

Shaped = tuple[str, TensorType, tuple[int, ...]]  # the name, the type and the shape of a tensor


def write_gguf(
    file: BinaryIO, metadata: Mapping[str, Any], tensors: Sequence[Shaped], data: Callable[[str], bytes | memoryview]
) -> None:
    """Writes the metadata and the tensors. `data` returns the bytes of a tensor by its name."""
    begin, described = 0, []
    for name, kind, shape in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        described.append(_text(name) + dimensions + struct.pack("<IQ", kind.code, begin))
        begin += -(-kind.size(shape) // ALIGNMENT) * ALIGNMENT
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    pairs = [_text(key) + _value(value) for key, value in metadata.items()]
    at = file.write(b"".join([head, *pairs, *described]))
    file.write(bytes(-at % ALIGNMENT))
    for name, kind, shape in tensors:
        written = file.write(data(name))
        assert written == kind.size(shape), (name, written)
        file.write(bytes(-written % ALIGNMENT))


def _value(value: Any) -> bytes:
    if not isinstance(value, list):
        kind = _type_of(value, UINT32)
        return struct.pack("<I", kind) + _plain(value, kind)
    kind = _type_of(value[0], INT32) if value else STRING
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_plain(each, kind) for each in value)


def _type_of(value: Any, integer: int) -> int:
    """Returns the type of a value. `integer` is the type of an integer."""
    kinds = {bool: BOOL, int: integer, float: FLOAT32, str: STRING}
    return kinds[type(value)]


def _plain(value: Any, kind: int) -> bytes:
    return _text(value) if kind == STRING else struct.pack(f"<{FIXED[kind]}", value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
