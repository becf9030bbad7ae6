"""Reads and writes the numbers of the tensors of GGUF files: floating-point numbers, and quantized numbers.

`GgufTensors` yields tensors as our network has them, and dequantizes them by `blocks`. Q8_0 is the quantized type that
is written: a block of 32 numbers of a row is a scale d of 16 bits and small integers q, x = d q. This module does not
know which tensors a model has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader

import torch
from torch import Tensor

from attncli.checkpoint.gguf.architectures import Metadata
from attncli.checkpoint.gguf.blocks import dequantize, require_decoder
from attncli.checkpoint.gguf.folder import GgufFolder
from attncli.checkpoint.gguf.header import GgufTensor, identity
from attncli.checkpoint.gguf.layout import BF16, BLOCK, F16, F32, Q8_0, TensorType
from attncli.checkpoint.tensors import Entry
from attncli.errors import BadCheckpoint
from attncli.paths import open_regular, unreadable

_PLAIN = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
_PERMUTED = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias")


class GgufTensors:
    """The tensors of an open GGUF file, in the layout of our network.

    If `dtype` is None, tensors have the common dtype of the matrices of the file, or float32 if a matrix is quantized
    or if the matrices have several dtypes. Otherwise the caller rounds them to `dtype`: tensors are yielded as they are
    stored, and in float32 if they are quantized. Memory contains the bytes and the numbers of one tensor.
    """

    def __init__(self, folder: GgufFolder, file: BufferedReader, dtype: torch.dtype | None) -> None:
        self.path = folder.path
        self._folder = folder
        self._file = file
        for tensor in folder.header.tensors:
            require_decoder(tensor.type, str(self.path))
        kinds = {tensor.type for tensor in folder.header.tensors if len(tensor.shape) > 1}
        self._rounded = dtype is not None
        self._dtype = dtype or (_PLAIN.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32)
        self._tensors = sorted(folder.header.tensors, key=lambda tensor: tensor.begin)
        self.entries = tuple(
            Entry(each.name, self._dtype, each.shape, each.begin, each.begin + each.type.size(each.shape))
            for each in self._tensors
        )

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, tensor) for each wanted name, on the CPU. Raises BadCheckpoint if the file changes."""
        for each in self._tensors:
            if wanted(each.name):
                yield each.name, self._tensor(each)

    def sha256(self) -> str:
        """Raises AssertionError: a GGUF file has no manifest to compare a digest with."""
        raise AssertionError(self.path)

    def _tensor(self, each: GgufTensor) -> Tensor:
        data = bytearray(each.type.size(each.shape))
        self._file.seek(each.begin)
        if self._file.readinto(data) != len(data) or identity(self._file) != self._folder.header.identity:
            raise BadCheckpoint(f"{self.path} changed while it was read, or it ends early.", "Read it again.")
        tensor = self._arranged(each, decode(torch.frombuffer(data, dtype=torch.uint8), each.type, each.shape))
        return tensor if self._rounded else tensor.to(self._dtype)

    def _arranged(self, each: GgufTensor, tensor: Tensor) -> Tensor:
        """Returns a tensor in the layout of our network."""
        architecture = self._folder.architecture
        if architecture.permuted and each.name.endswith(_PERMUTED):
            return unpermuted(tensor, self._heads(each.name))
        if architecture.unit_offset and each.name.endswith("norm.weight"):
            return tensor.float() - 1
        return tensor

    def _heads(self, name: str) -> int:
        metadata = Metadata(self._folder.header.metadata, str(self.path))
        heads: int = metadata.required("attention.head_count", int)
        return heads if "attn_q" in name else metadata.own("attention.head_count_kv", int, heads)


@contextmanager
def open_gguf_tensors(folder: GgufFolder, dtype: torch.dtype | None) -> Iterator[GgufTensors]:
    """Opens the tensors of a GGUF file. Raises BadCheckpoint if it cannot be read, even later in the `with` block."""
    try:
        with open_regular(folder.path) as file:
            yield GgufTensors(folder, file, dtype)
    except OSError as problem:
        raise unreadable(folder.path, problem) from None


def permuted(tensor: Tensor, heads: int) -> Tensor:
    """Returns the rows of queries or keys in the order of llama.cpp, in which the two numbers of a pair are adjacent.

    In our order, the numbers of a pair are half a head apart: rows 0, 1, 2, 3 of a head -> rows 0, 2, 1, 3.
    """
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Returns the rows of queries or keys in our order. Undoes `permuted`."""
    if tensor.shape[0] % (2 * heads):
        return tensor  # its shape is refused later
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def decode(data: Tensor, kind: TensorType, shape: tuple[int, ...]) -> Tensor:
    """Returns the tensor that bytes contain: float32 for a quantized type, else its own dtype."""
    if kind in _PLAIN:
        return data.view(_PLAIN[kind]).reshape(shape)
    return dequantize(data, kind, shape)


def encode(tensor: Tensor, kind: TensorType) -> Tensor:
    """Returns the bytes of a tensor in a type that is written. A tensor for Q8_0 has rows of whole blocks."""
    if kind in _PLAIN:
        return tensor.to(_PLAIN[kind]).contiguous().reshape(-1).view(torch.uint8)
    assert kind is Q8_0, kind
    blocks = tensor.float().reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    inverse = torch.where(scale == 0, 0, 1 / scale)
    scaled = blocks * inverse
    numbers = torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled)).to(torch.int8)  # halves go away from 0
    parts = scale.to(torch.float16).view(torch.uint8), numbers.view(torch.uint8)
    return torch.cat(parts, dim=1).reshape(-1)


def rounding_error(tensor: Tensor, kind: TensorType) -> Tensor:
    """Returns, for each number of a tensor, the largest error that a type makes.

    A floating-point number has half a unit in the last place. Q8_0 has half a step of the block's scale, plus the
    rounding of the scale to 16 bits, which at most 127 steps multiply.
    """
    whole = tensor.float()
    if kind is F32:
        return torch.zeros_like(whole)
    if kind is BF16:
        return whole.abs() * 2.0**-8 + 2.0**-133
    if kind is F16:
        return whole.abs() * 2.0**-11 + 2.0**-25
    scale = whole.reshape(-1, BLOCK).abs().amax(1, keepdim=True) / 127
    bound = scale * (0.5 + 127 * 2.0**-11) * 1.0001 + 127 * 2.0**-25
    return bound.expand(-1, BLOCK).reshape(whole.shape)
