"""The network on a CPU in C: what generating text needs, and nothing else.

Owns describing a Transformer to native.c, the layout of weights and of the cache that it reads, weights of eight bits,
and the number of threads. Knows nothing of text, sampling or files.

A weight matrix (O, I) lies as (O/L, I, L), L outputs side by side, as many as a register of the processor holds: so a
step reads memory in its order.

Letters: K key/value heads, D head width, V vocabulary, O outputs, I inputs, L lanes.
"""

from __future__ import annotations

import ctypes
import math
import os
import statistics
import threading
import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint
from attncli.model.attention import RMSNorm, Rotary, rotation_table
from attncli.model.backend import Piece
from attncli.model.count import NumberTypes
from attncli.model.device import dtype_name
from attncli.model.native_library import library, refuse
from attncli.model.transformer import GELU, SwiGLU, Transformer

_MOST_LANES = 16  # all numbers of them divide it
_FIRST_CAPACITY = 64  # positions
_ROWS_AT_ONCE = 512  # more of a long prompt are read in several calls, for the memory they take
_FEW_ROWS = 64  # of a step; more, those of a prompt, are for all threads
_TRIES = 5  # steps with each number of threads, the last ones, whose median counts
_TRY_AGAIN = 50  # steps
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
_LARGEST_INT8 = 127
_LARGEST_INT32 = 2**31 - 1 - 64  # native.c rounds numbers up to a multiple of 64 at most


class _Described(ctypes.Structure):
    """A structure of native.c whose integers are checked: ctypes by itself cuts a larger one to its lowest 32 bits."""

    def __init__(self, *values: object) -> None:
        for (name, kind, *_), value in zip(self._fields_, values, strict=False):
            largest = _LARGEST_INT32 if kind is ctypes.c_int32 else 2**63 - 1
            if kind in (ctypes.c_int32, ctypes.c_int64) and not 0 <= value <= largest:  # type: ignore[operator]
                raise BadCheckpoint(f"The network in C takes {name} from 0 to {largest}, not {value}.")
        super().__init__(*values)


class _Matrix(_Described):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        *((name, ctypes.c_int32) for name in ("outputs", "inputs", "dtype")),
    ]


class _Norm(_Described):
    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class _Layer(_Described):
    _fields_ = [
        *((name, _Norm) for name in ("attention_norm", "feed_forward_norm", "query_norm", "key_norm")),
        *((name, _Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        ("window", ctypes.c_int64),
    ]


class _Model(_Described):
    _fields_ = [
        *((name, _Matrix) for name in ("embedding", "position", "unembedding")),
        ("final_norm", _Norm),
        *((name, ctypes.c_void_p) for name in ("layers", "cos", "sin")),
        *((name, ctypes.c_float) for name in ("eps", "score_scale")),
        *(
            (name, ctypes.c_int32)
            for name in ("layer_count", "width", "heads", "kv_heads", "head_width", "feed_forward", "subtracts_mean")
        ),
    ]


class _Batch(_Described):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("ids", "positions", "sequences", "logit_rows", "keys", "values", "logits")
        ),
        *((name, ctypes.c_int32) for name in ("row_count", "logit_row_count", "capacity")),
    ]


@cache
def _functions() -> Any:
    """The functions of the library; None where there is none."""
    made = library()
    if made is None:
        return None
    try:
        found = ctypes.CDLL(made.name)
    except OSError as problem:
        refuse(problem)
        return None
    found.engine_new.argtypes, found.engine_new.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p
    found.engine_run.argtypes, found.engine_run.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int
    found.engine_free.argtypes, found.engine_free.restype = [ctypes.c_void_p], None
    return found


def available() -> bool:
    """Whether this machine can run it: a C compiler has made the library."""
    return _functions() is not None


def lanes() -> int:
    """How many outputs of a matrix, or keys, lie side by side."""
    return int(_functions().lanes())


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (O, I) -> int8 (O, I) and scales (O): each row in steps of a 127th of its largest number."""
    wide = weight.float()
    scale = wide.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST_INT8
    return (wide / scale[:, None]).round_().to(torch.int8), scale


@torch.no_grad()
def round_to_int8(model: Transformer) -> None:
    """Gives every matrix the values that it has as int8, in place: what int8 costs can then be measured anywhere."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            whole, scale = to_int8(parameter)
            parameter.copy_(whole * scale[:, None])


class NativeCache:
    """Keys and values of several sequences, as native.c reads them, in buffers that double as they fill, up to `limit`.

    Keys are (sequences, K, capacity / L, D, L), values (sequences, K, capacity, D), float32.
    """

    def __init__(self, layers: int, kv_heads: int, head_width: int, sequences: int, limit: int) -> None:
        self.capacity = 0
        self.sequences = sequences
        self._limit = math.ceil(limit / _MOST_LANES) * _MOST_LANES
        self._shape = (kv_heads, head_width)
        self._keys: list[Tensor] = [torch.empty(0)] * layers
        self._values: list[Tensor] = [torch.empty(0)] * layers
        self.key_pointers = self.value_pointers = 0  # addresses of lists of addresses, one for each layer

    @property
    def nbytes(self) -> int:
        """Memory taken by the buffers."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    def fits(self, config: ModelConfig) -> bool:
        """Whether it has the shape that a network's keys and values have."""
        return (len(self._keys), *self._shape) == (config.layers, config.kv_heads, config.head_width)

    def reserve(self, positions: int) -> None:
        """Makes room for so many positions of every sequence. Raises ValueError beyond the limit."""
        if positions > self._limit:
            raise ValueError(f"{positions} positions in a cache of {self._limit}")
        if positions <= self.capacity:
            return
        old, new = self.capacity, max(self.capacity, _FIRST_CAPACITY)
        while new < positions:
            new *= 2
        new = min(new, self._limit)
        kv_heads, width = self._shape
        for layer in range(len(self._keys)):
            keys = torch.zeros(self.sequences, kv_heads, new // lanes(), width, lanes())
            values = torch.zeros(self.sequences, kv_heads, new, width)
            if old:
                keys[:, :, : old // lanes()] = self._keys[layer]
                values[:, :, :old] = self._values[layer]
            self._keys[layer], self._values[layer] = keys, values
        self.capacity = new
        self._pointers = [_pointers(self._keys), _pointers(self._values)]
        self.key_pointers, self.value_pointers = map(ctypes.addressof, self._pointers)

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives a sequence the first `length` positions of another."""
        blocks = math.ceil(length / lanes())
        for keys, values in zip(self._keys, self._values, strict=True):
            keys[target, :, :blocks] = keys[source, :, :blocks]
            values[target, :, :length] = values[source, :, :length]


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _free(functions: Any, engine: int, process: int) -> None:
    """Ends an engine, in the process that has its threads."""
    if os.getpid() == process:
        functions.engine_free(engine)


class NativeBackend:
    """A Transformer on a CPU, read by native.c. What it gives for a row depends on nothing but the row's own past.

    Weights keep the type they have (products are added up in float32), or become int8. They are copied; with
    `releasing` the Transformer loses its own, block by block, so that memory holds them about once. Threads of Python
    take turns; a process that is forked off has to make one of its own.
    """

    device = torch.device("cpu")
    exact = True

    def __init__(
        self, model: Transformer, *, int8: bool = False, threads: int | None = None, releasing: bool = False
    ) -> None:
        functions = _functions()
        assert functions is not None, "ask `available` first"
        self.config = model.config
        if model.config.context > _LARGEST_INT32:
            raise BadCheckpoint(f"The network in C reads up to {_LARGEST_INT32} positions, not {model.config.context}.")
        self._kept: list[object] = []  # what the description points into
        self._packed: dict[int, _Matrix] = {}
        self.int8 = int8
        self._padded_vocab_size = math.ceil(model.config.vocab_size / lanes()) * lanes()
        self._description = self._describe(model, releasing)
        self._rotary: Rotary | None = None
        self._rotate(1)
        kept = next(type_ for type_, code in _TYPES.items() if code == self._description.unembedding.dtype)
        self.types = NumberTypes(dtype_name(kept), "float32", "float32")
        counts = _thread_counts() if threads is None else [threads]
        self._engines = {count: functions.engine_new(ctypes.byref(self._description), count) for count in counts}
        self._process, self._reading = os.getpid(), threading.Lock()
        for engine in filter(None, self._engines.values()):
            weakref.finalize(self, _free, functions, engine, self._process)
        if not all(self._engines.values()):
            raise MemoryError("no memory for the network's threads")
        self._seconds: dict[int, deque[float]] = {count: deque(maxlen=_TRIES) for count in counts}
        self._steps = 0

    @property
    def threads(self) -> int:
        """The number of threads that was the fastest for a step of late; the most, before any was taken."""
        if not all(self._seconds.values()):
            return max(self._engines)
        return min(self._seconds, key=lambda count: statistics.median(self._seconds[count]))

    @property
    def description(self) -> str:
        """What computes, and in which type."""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, {self.types.matrices}"

    def new_cache(self, sequences: int, positions: int = 1) -> NativeCache:
        """An empty cache for so many sequences, that grows with what is read, whatever will be."""
        config = self.config
        return NativeCache(config.layers, config.kv_heads, config.head_width, sequences, config.context)

    def read(self, cache: NativeCache, pieces: Sequence[Piece]) -> Tensor:
        """Reads pieces of different sequences -> logits (wanted of all pieces, V), below one another.

        Raises ValueError for what native.c would read or write beside its buffers.
        """
        with self._reading:
            return self._read(cache, pieces)

    def _read(self, cache: NativeCache, pieces: Sequence[Piece]) -> Tensor:
        end = max(piece.end for piece in pieces)
        if end > self.config.context:
            raise ValueError(f"{end} tokens in a context of {self.config.context}")
        if not all(0 <= piece.sequence < cache.sequences for piece in pieces):
            raise ValueError(f"a sequence outside of a cache of {cache.sequences}")
        if len({piece.sequence for piece in pieces}) < len(pieces):
            raise ValueError("two pieces of one sequence in a call")
        if any(piece.start < 0 or not 0 <= piece.wanted <= len(piece.ids) for piece in pieces):
            raise ValueError("a piece that begins before 0, or of which more is wanted than it has")
        if not cache.fits(self.config):
            raise ValueError("a cache of another network")
        cache.reserve(end)
        self._rotate(end)
        ids: list[int] = []
        at: list[int] = []
        sequence: list[int] = []
        wanted: list[int] = []
        for piece in pieces:
            ids += piece.ids
            at += range(piece.start, piece.end)
            sequence += [piece.sequence] * len(piece.ids)
            wanted += range(len(ids) - piece.wanted, len(ids))
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            raise ValueError(f"a token outside of a vocabulary of {self.config.vocab_size}")
        logits = torch.empty(len(wanted), self._padded_vocab_size)
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, len(ids)))
            begun, done = bisect_left(wanted, rows.start), bisect_left(wanted, rows.stop)
            here = [row - start for row in wanted[begun:done]]
            self._run(cache, (ids[rows], at[rows], sequence[rows], here), logits[begun:done])
        return logits[:, : self.config.vocab_size]

    def _run(self, cache: NativeCache, numbers: Sequence[list[int]], out: Tensor) -> None:
        """One call: tokens, positions and sequences of its rows, and the rows whose logits are wanted."""
        rows = len(numbers[0])
        whole = np.array([number for part in numbers for number in part], np.int32)
        address = whole.ctypes.data
        batch = _Batch(
            *(address + which * rows * whole.itemsize for which in range(4)),
            cache.key_pointers,
            cache.value_pointers,
            out.data_ptr(),
            rows,
            len(numbers[3]),
            cache.capacity,
        )
        threads = self._next_threads() if rows <= _FEW_ROWS else max(self._engines)
        if os.getpid() != self._process:
            raise RuntimeError("a network in C is of the process that made it: make another after a fork")
        begun = time.perf_counter()
        if _functions().engine_run(self._engines[threads], ctypes.byref(batch)):
            raise MemoryError(f"no memory to read {rows} tokens")
        if rows == 1:
            self._steps += 1
            self._seconds[threads].append(time.perf_counter() - begun)

    def _rotate(self, positions: int) -> None:
        """Sees to it that the rotations of so many positions are there: they grow with what is read."""
        if self.config.positions == "rotary" and (self._rotary is None or len(self._rotary.cos) < positions):
            self._rotary = rotation_table(self.config, positions, self.device)
            self._description.cos, self._description.sin = self._rotary.cos.data_ptr(), self._rotary.sin.data_ptr()

    def _next_threads(self) -> int:
        """The number of threads that was the fastest of late; now and then another one, for what else runs changes."""
        untried = [count for count, taken in self._seconds.items() if len(taken) < _TRIES]
        if untried:
            return untried[0]
        again = self._steps % _TRY_AGAIN  # after so many steps each is tried once
        return list(self._seconds)[again] if again < len(self._seconds) else self.threads

    def _describe(self, model: Transformer, releasing: bool) -> _Model:
        config = model.config
        layers = (_Layer * config.layers)()
        for i, block in enumerate(model.blocks):
            layers[i] = self._layer(block, config.window_of(i))
            if releasing:
                _release(block)
        self._kept.append(layers)
        described = _Model(
            self._matrix(model.embedding.weight),
            _Matrix() if model.position is None else self._matrix(model.position.weight),
            self._matrix(model.head_weight),
            self._norm(model.norm),
            ctypes.addressof(layers),
            None,  # cosines and sines: `_rotate` fills them in
            None,
            config.norm_eps,
            1 / math.sqrt(config.head_width),
            config.layers,
            config.width,
            config.heads,
            config.kv_heads,
            config.head_width,
            config.feed_forward_width,
            config.norm == "layer",
        )
        if releasing:
            _release(model)
        return described

    def _layer(self, block: Any, window: int | None) -> _Layer:
        attention, fed = block.attention, block.feed_forward
        assert isinstance(fed, SwiGLU | GELU)
        norms = (block.attention_norm, block.feed_forward_norm, attention.query_norm, attention.key_norm)
        gate = (fed.gate,) if isinstance(fed, SwiGLU) else (None,)
        matrices = (attention.query, attention.key, attention.value, attention.output, *gate, fed.up, fed.down)
        return _Layer(
            *(self._norm(norm) for norm in norms),
            *(_Matrix() if one is None else self._matrix(one.weight, one.bias) for one in matrices),
            min(window or 0, self.config.context),  # a window of the whole context sees all
        )

    def _norm(self, norm: nn.Module) -> _Norm:
        if not isinstance(norm, RMSNorm | nn.LayerNorm):
            return _Norm()
        bias = getattr(norm, "bias", None)
        return _Norm(self._keep(norm.weight.float()), None if bias is None else self._keep(bias.float()))

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> _Matrix:
        """A matrix (O, I) packed, once even where two parts of the network share it."""
        known = self._packed.get(weight.data_ptr())
        if known is None:
            scale = None
            if self.int8:
                weight_, scale = to_int8(weight)
            elif weight.dtype not in _TYPES or (weight.dtype == torch.float16 and not _functions().supports_float16()):
                weight_ = weight.float()
            else:
                weight_ = weight.detach()
            known = _Matrix(
                self._keep(_packed(weight_)),
                None if scale is None else self._keep(_padded(scale)),
                None,
                *weight.shape,
                _TYPES[weight_.dtype],
            )
            self._packed[weight.data_ptr()] = known
        if bias is None:
            return known
        return _Matrix(known.weight, known.scale, self._keep(_padded(bias.float())), *weight.shape, known.dtype)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _release(module: nn.Module) -> None:
    """Frees the memory of weights. (Moving them to "meta", as is usual, takes 0.3 s of imports.)"""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _padded(tensor: Tensor) -> Tensor:
    """(O, ...) with zeros after it, up to a multiple of L."""
    missing = -len(tensor) % lanes()
    return F.pad(tensor.detach(), (0, 0) * (tensor.ndim - 1) + (0, missing)) if missing else tensor


def _packed(weight: Tensor) -> Tensor:
    """(O, I) -> (O / L, I, L)."""
    return _padded(weight).view(-1, lanes(), weight.shape[1]).transpose(1, 2).contiguous()


def _thread_counts() -> list[int]:
    """The numbers of threads worth trying: all that PyTorch would use, half of them, one."""
    most = torch.get_num_threads()
    return sorted({most, max(most // 2, 1), 1}, reverse=True)
