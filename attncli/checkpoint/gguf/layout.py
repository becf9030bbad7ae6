"""The numbers of the GGUF format: types of metadata, types of tensors and their blocks.

A quantized tensor stores each row in blocks of 32 numbers. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
describes the format. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSION = 3  # the version that is written
VERSIONS = (2, 3)  # the versions that are read; version 1 has other lengths
ALIGNMENT = 32  # bytes; the data of every tensor begins at a multiple of it
BLOCK = 32  # numbers in a block of a quantized row

STRING, ARRAY, BOOL, UINT32, INT32, FLOAT32 = 8, 9, 7, 4, 5, 6  # the types of metadata that are written
# The types of metadata with a fixed size, as formats of the struct module.
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # the types of tokens


@dataclass(frozen=True)
class TensorType:
    """A type of tensors: a block of `numbers` numbers takes `bytes` bytes."""

    name: str
    code: int
    numbers: int
    bytes: int

    def size(self, shape: tuple[int, ...]) -> int:
        """Returns the bytes of a tensor, whose rows are whole blocks."""
        return math.prod(shape) // self.numbers * self.bytes


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
Q4_0 = TensorType("Q4_0", 2, BLOCK, 18)
Q4_1 = TensorType("Q4_1", 3, BLOCK, 20)
Q8_0 = TensorType("Q8_0", 8, BLOCK, 34)
BF16 = TensorType("BF16", 30, 1, 2)
TYPES = {kind.code: kind for kind in (F32, F16, Q4_0, Q4_1, Q8_0, BF16)}
# The names of types that are not read, for errors.
OTHER_TYPES = dict(
    zip(
        (*range(6, 8), *range(9, 30), 34, 35, 39),
        (
            *("Q5_0", "Q5_1", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS"),
            *("IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M"),
            *("TQ1_0", "TQ2_0", "MXFP4"),
        ),
        strict=True,
    )
)
