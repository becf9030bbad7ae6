"""The numbers of the GGUF format: types of metadata, types of tensors and their blocks.

A quantized tensor stores each row in blocks of 32 or 256 numbers. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
describes the format. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSION = 3  # the version that is written
VERSIONS = (2, 3)  # the versions that are read; version 1 has other lengths
ALIGNMENT = 32  # bytes; the data of every tensor begins at a multiple of it
BLOCK, SUPERBLOCK = 32, 256  # numbers in a block of a quantized row

STRING, ARRAY, BOOL, UINT32, INT32, FLOAT32 = 8, 9, 7, 4, 5, 6  # the types of metadata that are written
# The types of metadata with a fixed size, as formats of the struct module.
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

ENDS = ("eos", "eot", "eom")  # the keys of the tokens that end a text
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
BF16 = TensorType("BF16", 30, 1, 2)
Q4_0 = TensorType("Q4_0", 2, BLOCK, 18)
Q4_1 = TensorType("Q4_1", 3, BLOCK, 20)
Q5_0 = TensorType("Q5_0", 6, BLOCK, 22)
Q5_1 = TensorType("Q5_1", 7, BLOCK, 24)
Q8_0 = TensorType("Q8_0", 8, BLOCK, 34)
Q2_K = TensorType("Q2_K", 10, SUPERBLOCK, 84)
Q3_K = TensorType("Q3_K", 11, SUPERBLOCK, 110)
Q4_K = TensorType("Q4_K", 12, SUPERBLOCK, 144)
Q5_K = TensorType("Q5_K", 13, SUPERBLOCK, 176)
Q6_K = TensorType("Q6_K", 14, SUPERBLOCK, 210)
IQ4_NL = TensorType("IQ4_NL", 20, BLOCK, 18)
IQ4_XS = TensorType("IQ4_XS", 23, SUPERBLOCK, 136)
TQ1_0 = TensorType("TQ1_0", 34, SUPERBLOCK, 54)
TQ2_0 = TensorType("TQ2_0", 35, SUPERBLOCK, 66)
MXFP4 = TensorType("MXFP4", 39, BLOCK, 17)
# The types that the package gguf dequantizes.
BY_PACKAGE = tuple(
    TensorType(name, code, SUPERBLOCK, size)
    for name, code, size in (
        *(("IQ2_XXS", 16, 66), ("IQ2_XS", 17, 74), ("IQ3_XXS", 18, 98), ("IQ1_S", 19, 50)),
        *(("IQ3_S", 21, 110), ("IQ2_S", 22, 82), ("IQ1_M", 29, 56)),
    )
)
_TYPES = (
    *(F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
    *(IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, *BY_PACKAGE),
)
TYPES = {kind.code: kind for kind in _TYPES}
# The names of unsupported types, for errors.
OTHER_TYPES = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 40: "NVFP4", 41: "Q1_0"}
