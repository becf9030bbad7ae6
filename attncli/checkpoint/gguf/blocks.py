"""Dequantizes the blocks of quantized tensors, a few blocks at a time, so that memory contains one copy of the numbers.

A block holds small integers q and the scale d, of 16 bits, that multiplies them: x = d q, or, with a minimum m,
x = d q + m. In the types whose names end in K, a block of 256 numbers has groups of 16 or 32, whose scales are small
integers too. In IQ4_NL, IQ4_XS and MXFP4, q is an index of a table. The operations have the same order as in
ggml, so that the results are bit-identical. https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c defines the
blocks.

The types IQ1, IQ2 and IQ3 have tables of thousands of numbers. The package gguf contains the tables and decodes these
types.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from attncli.checkpoint.gguf.layout import (
    BY_PACKAGE,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    TQ1_0,
    TQ2_0,
    TensorType,
)
from attncli.errors import BadCheckpoint

_AT_ONCE = 1 << 20  # numbers
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # IQ4_NL, IQ4_XS
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the numbers of 4 bits, e2m1
_PACKAGE = "gguf"


def require_decoder(kind: TensorType, where: str) -> None:
    """Raises BadCheckpoint if a type needs the package gguf, and the package is not installed."""
    if kind in BY_PACKAGE and find_spec(_PACKAGE) is None:
        raise BadCheckpoint(
            f"{where}: tensors of type {kind.name} need the tables of the package {_PACKAGE}.",
            f"Install it: pip install {_PACKAGE}. Or convert the file to Q8_0 with llama-quantize.",
        )


def dequantize(data: Tensor, kind: TensorType, shape: tuple[int, ...]) -> Tensor:
    """Returns the float32 tensor of a shape that is stored in the bytes `data`."""
    blocks, numbers = data.reshape(-1, kind.bytes), torch.empty(math.prod(shape) // kind.numbers, kind.numbers)
    decode = _by_package(kind) if kind in BY_PACKAGE else _DECODERS[kind]
    several = max(_AT_ONCE // kind.numbers, 1)
    for part, into in zip(torch.split(blocks, several), torch.split(numbers, several), strict=True):
        into.copy_(decode(part))
    return numbers.reshape(shape)


def _by_package(kind: TensorType) -> Callable[[Tensor], Tensor]:
    """Returns the decoder of a type of the package gguf."""
    from gguf import GGMLQuantizationType, quants

    code = GGMLQuantizationType(kind.code)

    def decode(blocks: Tensor) -> Tensor:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused later
            return torch.from_numpy(quants.dequantize(blocks.numpy(), code))

    return decode


def _half(blocks: Tensor, at: int) -> Tensor:
    """Returns the number of 16 bits that begins at a byte of each block: (N, bytes) -> (N, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _signed(packed: Tensor) -> Tensor:
    return packed.contiguous().view(torch.int8).float()


def _unpacked(packed: Tensor, run: int, bits: int) -> Tensor:
    """Returns the small integers in bytes: (N, bytes) -> (N, bytes x 8 / bits).

    Runs of `run` bytes contain the integers in this order: first the lowest bits of each byte, then the next bits.
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    several = packed.reshape(len(packed), -1, 1, run) >> shifts
    return (several & ((1 << bits) - 1)).reshape(len(packed), -1)


def _scaled(scales: Tensor, numbers: Tensor) -> Tensor:
    """Multiplies the numbers of every group by its scale: (N, groups), (N, numbers) -> (N, groups, numbers)."""
    return scales[:, :, None] * numbers.reshape(*scales.shape, -1)


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_unpacked(blocks[:, 2:], 16, 4).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _unpacked(blocks[:, 4:], 16, 4).float() + _half(blocks, 2)


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    """Returns integers of 5 bits: (N, 4) fifth bits and (N, 16) bytes -> (N, 32)."""
    return (_unpacked(low, 16, 4) | (_unpacked(high, 1, 1) << 4)).float()


def _q5_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _five_bits(blocks[:, 4:8], blocks[:, 8:]) + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _signed(blocks[:, 2:])


def _q2_k(blocks: Tensor) -> Tensor:
    scales, numbers = blocks[:, :16], _unpacked(blocks[:, 16:80], 32, 2).float()
    lowest = _half(blocks, 82) * (scales >> 4).float()
    return (_scaled(_half(blocks, 80) * (scales & 15).float(), numbers) - lowest[:, :, None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    low, high = _unpacked(blocks[:, 32:96], 32, 2), _unpacked(blocks[:, :32], 32, 1)
    numbers = low.float() - 4 * (1 - high.float())  # a bit that is 0 subtracts 4
    scales = _unpacked(blocks[:, 96:104], 8, 4) | (_unpacked(blocks[:, 104:108], 4, 2) << 4)
    return _scaled(_half(blocks, 108) * (scales.float() - 32), numbers).flatten(1)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the 8 scales and the 8 minima of a block, integers of 6 bits: (N, 12) -> (N, 8), (N, 8)."""
    scales, minima, rest = torch.split(packed, 4, 1)
    more_scales, more_minima = (rest & 15) | ((scales >> 2) & 48), (rest >> 4) | ((minima >> 2) & 48)
    return torch.cat([scales & 63, more_scales], 1).float(), torch.cat([minima & 63, more_minima], 1).float()


def _with_minima(blocks: Tensor, numbers: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    return (_scaled(_half(blocks, 0) * scales, numbers) - (_half(blocks, 2) * minima)[:, :, None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _with_minima(blocks, _unpacked(blocks[:, 16:], 32, 4).float())


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = _unpacked(blocks[:, 16:48], 32, 1)
    return _with_minima(blocks, (_unpacked(blocks[:, 48:], 32, 4) | (fifth << 4)).float())


def _q6_k(blocks: Tensor) -> Tensor:
    numbers = _unpacked(blocks[:, :128], 64, 4) | (_unpacked(blocks[:, 128:192], 32, 2) << 4)
    return _scaled(_half(blocks, 208) * _signed(blocks[:, 192:208]), numbers.float() - 32).flatten(1)


def _looked_up(table: tuple[int, ...], packed: Tensor) -> Tensor:
    return torch.tensor(table, dtype=torch.float32)[_unpacked(packed, 16, 4).int()]


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _looked_up(_NONLINEAR, blocks[:, 2:])


def _iq4_xs(blocks: Tensor) -> Tensor:
    scales = _unpacked(blocks[:, 4:8], 1, 4) | (_unpacked(blocks[:, 2:4], 1, 2) << 4)
    return _scaled(_half(blocks, 0) * (scales.float() - 32), _looked_up(_NONLINEAR, blocks[:, 8:])).flatten(1)


def _mxfp4(blocks: Tensor) -> Tensor:
    exponents = blocks[:, :1].int()
    bits = torch.where(exponents < 2, 0x00200000 << exponents, (exponents - 1) << 23)  # 2 ** (exponent - 128)
    return bits.view(torch.float32) * _looked_up(_FP4, blocks[:, 1:])


def _thirds(packed: Tensor, run: int, digits: int) -> Tensor:
    """Returns the digits of numbers of base 3, which bytes contain as fractions of 256: 0, 1 or 2."""
    powers = torch.tensor([3**digit for digit in range(digits)], dtype=torch.uint8)[:, None]
    return ((packed.reshape(len(packed), -1, 1, run) * powers).int() * 3 >> 8).reshape(len(packed), -1)


def _tq1_0(blocks: Tensor) -> Tensor:
    parts = _thirds(blocks[:, :32], 32, 5), _thirds(blocks[:, 32:48], 16, 5), _thirds(blocks[:, 48:52], 4, 4)
    return _half(blocks, 52) * (torch.cat(parts, 1).float() - 1)


def _tq2_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 64) * (_unpacked(blocks[:, :64], 32, 2).float() - 1)


_DECODERS = {
    Q4_0: _q4_0,
    Q4_1: _q4_1,
    Q5_0: _q5_0,
    Q5_1: _q5_1,
    Q8_0: _q8_0,
    Q2_K: _q2_k,
    Q3_K: _q3_k,
    Q4_K: _q4_k,
    Q5_K: _q5_k,
    Q6_K: _q6_k,
    IQ4_NL: _iq4_nl,
    IQ4_XS: _iq4_xs,
    MXFP4: _mxfp4,
    TQ1_0: _tq1_0,
    TQ2_0: _tq2_0,
}
