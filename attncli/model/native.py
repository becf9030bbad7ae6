"""Runs the network on a CPU with native.c: packs the weights, allocates the cache, chooses the number of threads.

`NativeBackend` describes a Transformer to native.c in structures of pointers and sizes (the `_Described` classes). A
weight matrix (O, I) is packed as (O/L, I, L), so that a step reads memory in order: L outputs fill a register of the
processor. Weights may be quantized to int8, with a scale for each row. A decoding step uses the number of threads that
was fastest in recent measurements. The sources of an encoder-decoder are encoded once; each has a buffer of its own, so
sources of different lengths need no padding. This module handles neither text nor sampling nor files.

Letters: K key/value heads, D head width, C model width, V vocabulary, S source tokens, O outputs, I inputs, L lanes.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from operator import add, gt
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.config import Activation, ModelConfig
from attncli.errors import BadCheckpoint
from attncli.model.attention import Attention, Part, RMSNorm, Rotary, norm_gain, rotation_table
from attncli.model.backend import Segment
from attncli.model.count import NumberTypes
from attncli.model.device import dtype_name
from attncli.model.native_library import library, refuse
from attncli.model.positions import distance_buckets, sinusoid_table
from attncli.model.stack import FeedForward, Stack
from attncli.model.transformer import Transformer

_MOST_LANES = 16  # a multiple of every possible number of lanes
_FIRST_CAPACITY = 64  # positions
_ROWS_PER_CALL = 512  # a longer prompt is split into several calls, to limit the scratch memory; a source is not
_FEW_ROWS = 64  # calls with at most this many rows use the fastest number of threads; longer calls use all threads
_TIMED_STEPS = 5  # recent steps per number of threads; the medians of their times are compared
_RETIME_AFTER = 50  # steps
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
_ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "gelu_erf": 2, "relu": 3}
_LARGEST_INT8 = 127
_LARGEST_INT32 = 2**31 - 1 - 64  # native.c rounds sizes up, at most to a multiple of 64


class _Described(ctypes.Structure):
    """A structure of native.c that checks its integers: ctypes alone would truncate a larger integer to 32 bits."""

    _integers: ClassVar[list[tuple[int, str, int]]]  # the index, the name and the largest value of each integer

    def __init_subclass__(cls) -> None:
        largest: dict[object, int] = {ctypes.c_int32: _LARGEST_INT32, ctypes.c_int64: 2**63 - 1}
        cls._integers = [
            (at, name, largest[kind]) for at, (name, kind, *_) in enumerate(cls._fields_) if kind in largest
        ]

    def __init__(self, *values: Any) -> None:
        for at, name, largest in self._integers if values else ():
            if not 0 <= values[at] <= largest:
                raise BadCheckpoint(f"The network in C takes {name} from 0 to {largest}, not {values[at]}.")
        super().__init__(*values)


class _Matrix(_Described):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        *((name, ctypes.c_int32) for name in ("outputs", "inputs", "dtype")),
    ]


class _Norm(_Described):
    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class _Attention(_Described):
    _fields_ = [
        *((name, _Norm) for name in ("norm", "query_norm", "key_norm")),
        *((name, _Matrix) for name in ("query", "key", "value", "output")),
    ]


class _Layer(_Described):
    _fields_ = [
        ("self", _Attention),
        ("cross", _Attention),
        ("feed_forward_norm", _Norm),
        *((name, _Matrix) for name in ("gate", "up", "down")),
        ("window", ctypes.c_int64),
    ]


class _Stack(_Described):
    _fields_ = [
        ("position", _Matrix),
        ("embedding_norm", _Norm),
        ("final_norm", _Norm),
        ("distance_bias", ctypes.c_void_p),
        ("bias_positions", ctypes.c_int64),
        ("layers", ctypes.c_void_p),
        ("layer_count", ctypes.c_int64),
    ]


class _Model(_Described):
    _fields_ = [
        *((name, _Matrix) for name in ("embedding", "unembedding")),
        *((name, _Stack) for name in ("decoder", "encoder")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "sinusoids")),
        *((name, ctypes.c_float) for name in ("eps", "score_scale", "embedding_scale")),
        *((name, ctypes.c_int32) for name in ("width", "heads", "kv_heads", "head_width", "feed_forward")),
        *((name, ctypes.c_int32) for name in ("subtracts_mean", "activation", "post_norm")),
    ]


class _Batch(_Described):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "sequences", "source_lengths", "logit_rows")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "sources", "logits")),
        *((name, ctypes.c_int32) for name in ("row_count", "logit_row_count", "capacity", "encodes")),
    ]


@cache
def _functions() -> Any:
    """Returns the functions of the compiled library; None if there is no library."""
    compiled = library()
    if compiled is None:
        return None
    try:
        functions = ctypes.CDLL(compiled.name)
    except OSError as problem:
        refuse(problem)
        return None
    functions.engine_new.argtypes, functions.engine_new.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p
    functions.engine_run.argtypes, functions.engine_run.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int
    functions.engine_free.argtypes, functions.engine_free.restype = [ctypes.c_void_p], None
    return functions


def available() -> bool:
    """Whether this machine has the compiled library that runs the network in C."""
    return _functions() is not None


def supports(config: ModelConfig) -> bool:
    """Whether native.c implements a shape."""
    known = config.causal and config.activation in _ACTIVATIONS
    extended = config.segments or config.head_transform or (config.scaled_output and not config.pre_norm)
    normed = config.qk_norm and (config.norm == "layer" or config.encoder_layers > 0)
    return known and not extended and not normed


def lanes() -> int:
    """Returns the number of lanes L: how many outputs of a matrix, or how many keys, are adjacent in memory."""
    return int(_functions().lanes())


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes weight (O, I) -> int8 (O, I) and scales (O,). A row's scale is 1/127 of its largest magnitude."""
    wide = weight.float()
    scale = wide.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST_INT8
    return (wide / scale[:, None]).round_().to(torch.int8), scale


@torch.no_grad()
def round_to_int8(model: Transformer) -> None:
    """Rounds every matrix in place to values that int8 can represent.

    With the rounded model, any backend can measure the effect of int8.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            quantized, scale = to_int8(parameter)
            parameter.copy_(quantized * scale[:, None])


@dataclass(frozen=True)
class _Source:
    """An encoded source: the keys and values of every decoder layer's cross-attention."""

    buffer: Tensor  # (layers, 2, K, S padded to a multiple of L, D), float32; native.c defines the layout
    address: int  # of the buffer
    length: int  # S


class NativeCache:
    """The keys and values of several sequences in native.c's layout. Buffers double when they are full, up to `limit`.

    Keys are (sequences, K, capacity / L, D, L), values (sequences, K, capacity, D), float32. Copies of a sequence share
    its source.
    """

    def __init__(self, layers: int, kv_heads: int, head_width: int, sequences: int, limit: int) -> None:
        self.capacity = 0
        self.sequences = sequences
        self._limit = math.ceil(limit / _MOST_LANES) * _MOST_LANES
        self._shape = (kv_heads, head_width)
        self._keys: list[Tensor] = [torch.empty(0)] * layers
        self._values: list[Tensor] = [torch.empty(0)] * layers
        self.key_pointers = self.value_pointers = 0  # the addresses of arrays that contain one address per layer
        self.sources: list[_Source | None] = [None] * sequences

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers, including the sources."""
        sources = {id(source): source.buffer.nbytes for source in self.sources if source is not None}
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values)) + sum(sources.values())

    def fits(self, config: ModelConfig) -> bool:
        """Whether the cache has the shape of this network's keys and values."""
        return (len(self._keys), *self._shape) == (config.layers, config.kv_heads, config.head_width)

    def reserve(self, positions: int) -> None:
        """Grows the buffers to at least this number of positions per sequence. Raises ValueError above the limit."""
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
        # the same memory, which NumPy copies with less overhead than PyTorch
        self._arrays = [(keys.numpy(), values.numpy()) for keys, values in zip(self._keys, self._values, strict=True)]
        self._pointers = [_pointers(self._keys), _pointers(self._values)]
        self.key_pointers, self.value_pointers = map(ctypes.addressof, self._pointers)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one sequence to another, and its source if it has one."""
        self.sources[target] = self.sources[source]
        if length == 0:
            return
        blocks = math.ceil(length / lanes())
        for keys, values in self._arrays:
            keys[target, :, :blocks] = keys[source, :, :blocks]
            values[target, :, :length] = values[source, :, :length]


class _Rows(NamedTuple):
    """The rows of a call of native.c: lists with a number per row, and the rows whose logits are computed."""

    ids: list[int]
    positions: list[int]
    sequences: list[int]
    source_lengths: list[int]  # empty without an encoder
    sources: list[int]  # the addresses of the buffers; empty without an encoder
    logits: list[int]

    @classmethod
    def of(cls, segments: Sequence[Segment], sources: Sequence[_Source | None]) -> _Rows:
        """Returns the rows of segments, each with its source."""
        sequences, starts, texts, logit_counts = zip(*segments, strict=True)
        counts = [len(ids) for ids in texts]
        known = [(source, n) for source, n in zip(sources, counts, strict=True) if source is not None]
        return cls(
            list(chain.from_iterable(texts)),
            [position for start, n in zip(starts, counts, strict=True) for position in range(start, start + n)],
            [sequence for sequence, n in zip(sequences, counts, strict=True) for _ in range(n)],
            [source.length for source, n in known for _ in range(n)],
            [source.address for source, n in known for _ in range(n)],
            [row for end, n in zip(accumulate(counts), logit_counts, strict=True) for row in range(end - n, end)],
        )

    def part(self, start: int, end: int) -> _Rows:
        """Returns the rows from `start` up to but not including `end`."""
        if start == 0 and end >= len(self.ids):
            return self
        part = _Rows(*(column[start:end] for column in self))
        within = self.logits[bisect_left(self.logits, start) : bisect_left(self.logits, end)]
        part.logits[:] = [row - start for row in within]
        return part


def _pointers(tensors: Sequence[Tensor]) -> Any:
    """Returns a C array with the addresses of the tensors."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _free(functions: Any, engine: int, process: int) -> None:
    """Frees an engine; does nothing in a forked process, which does not have the engine's threads."""
    if os.getpid() == process:
        functions.engine_free(engine)


class NativeBackend:
    """Runs a Transformer on a CPU with native.c. A token's logits depend on its sequence only, not on the batch.

    Weights keep their dtype (products are summed in float32) or are quantized to int8. The weights are copied. With
    `releasing`, the Transformer's own weights are freed block by block, so memory contains the weights about once.
    Calls from several Python threads run one after another. A forked process must create its own backend.
    """

    device = torch.device("cpu")
    exact = True

    def __init__(
        self, model: Transformer, *, int8: bool = False, threads: int | None = None, releasing: bool = False
    ) -> None:
        functions = _functions()
        assert functions is not None, "call `available` first"
        self.config = model.config
        if model.config.context > _LARGEST_INT32:
            raise BadCheckpoint(f"The network in C reads up to {_LARGEST_INT32} positions, not {model.config.context}.")
        self._kept: list[object] = []  # keeps alive the tensors that the description points to
        self._packed: dict[int, _Matrix] = {}
        self.int8 = int8
        self._padded_vocab_size = math.ceil(model.config.vocab_size / lanes()) * lanes()
        self._distances: dict[Part, Tensor] = {}  # of each stack with relative positions: the bias (buckets, H)
        self._description = self._describe(model, releasing)
        self._rotary: Rotary | None = None
        self._sinusoids: Tensor | None = None
        self._biases: list[Tensor] = []
        self._extend_positions(1)
        stored = next(dtype for dtype, code in _TYPES.items() if code == self._description.unembedding.dtype)
        self.types = NumberTypes(dtype_name(stored), "float32", "float32")
        counts = _thread_counts() if threads is None else [threads]
        self._engines = {count: functions.engine_new(ctypes.byref(self._description), count) for count in counts}
        self._process, self._reading = os.getpid(), threading.Lock()
        for engine in filter(None, self._engines.values()):
            weakref.finalize(self, _free, functions, engine, self._process)
        if not all(self._engines.values()):
            raise MemoryError("no memory for the network's threads")
        self._seconds: dict[int, deque[float]] = {count: deque(maxlen=_TIMED_STEPS) for count in counts}
        self._steps = 0

    @property
    def threads(self) -> int:
        """The thread count with the lowest median time over recent steps.

        Until each thread count has been timed, this is the largest.
        """
        if not all(self._seconds.values()):
            return max(self._engines)
        return min(self._seconds, key=lambda count: statistics.median(self._seconds[count]))

    @property
    def description(self) -> str:
        """The number of threads and the dtype in words."""
        return f"in C on {self.threads} thread{'s' if self.threads > 1 else ''}, {self.types.matrices}"

    def new_cache(self, sequences: int, positions: int = 1) -> NativeCache:
        """Returns an empty cache for a number of sequences. It grows as tokens are read; `positions` is ignored."""
        config = self.config
        return NativeCache(config.layers, config.kv_heads, config.head_width, sequences, config.context)

    def read_sources(self, cache: NativeCache, sources: Mapping[int, Sequence[int]]) -> None:
        """Encodes source texts, given as ids by sequence; they replace the sequences' earlier sources.

        Raises ValueError if native.c would read or write outside its buffers.
        """
        with self._reading:
            self._refuse_sources(cache, sources)
            self._extend_positions(max(map(len, sources.values()), default=1))
            group: dict[int, Sequence[int]] = {}
            for sequence, ids in sources.items():
                if group and sum(map(len, group.values())) + len(ids) > _ROWS_PER_CALL:
                    self._encode(cache, group)
                    group = {}
                group[sequence] = ids
            if group:
                self._encode(cache, group)

    def _encode(self, cache: NativeCache, sources: Mapping[int, Sequence[int]]) -> None:
        """Encodes whole sources in one call of native.c: each layer needs the keys of all tokens of a source."""
        config, encoded = self.config, {}
        for sequence, ids in sources.items():
            padded = math.ceil(len(ids) / lanes()) * lanes()
            buffer = torch.empty(config.layers, 2, config.kv_heads, padded, config.head_width)
            encoded[sequence] = _Source(buffer, buffer.data_ptr(), len(ids))
        segments = [Segment(sequence, 0, ids, 0) for sequence, ids in sources.items()]
        self._run(cache, _Rows.of(segments, list(encoded.values())), torch.empty(0), encodes=True)
        for sequence, source in encoded.items():
            cache.sources[sequence] = source

    def read(self, cache: NativeCache, segments: Sequence[Segment]) -> Tensor:
        """Reads segments of different sequences -> logits (sum of logit_count, V), in the order of the segments.

        Raises ValueError if native.c would read or write outside its buffers.
        """
        with self._reading:
            return self._read(cache, segments)

    def _read(self, cache: NativeCache, segments: Sequence[Segment]) -> Tensor:
        end = self._refuse_unreadable(cache, segments)
        cache.reserve(end)
        self._extend_positions(end)
        rows = _Rows.of(segments, [cache.sources[segment.sequence] for segment in segments])
        logits = torch.empty(len(rows.logits), self._padded_vocab_size)
        for start in range(0, len(rows.ids), _ROWS_PER_CALL):
            part, first = rows.part(start, start + _ROWS_PER_CALL), bisect_left(rows.logits, start)
            self._run(cache, part, logits[first : first + len(part.logits)])
        return logits[:, : self.config.vocab_size]

    def _refuse_unreadable(self, cache: NativeCache, segments: Sequence[Segment]) -> int:
        """Raises ValueError if native.c would read or write outside its buffers.

        Returns the largest number of positions of a sequence after the call.
        """
        sequences, starts, texts, logit_counts = zip(*segments, strict=True)
        lengths = [len(ids) for ids in texts]
        end = int(max(map(add, starts, lengths)))
        if end > self.config.context:
            raise ValueError(f"{end} tokens in a context of {self.config.context}")
        if min(sequences) < 0 or max(sequences) >= cache.sequences:
            raise ValueError(f"a sequence outside of a cache of {cache.sequences}")
        if len(set(sequences)) < len(sequences):
            raise ValueError("two segments of one sequence in a call")
        if min(starts) < 0 or min(logit_counts) < 0 or any(map(gt, logit_counts, lengths)):
            raise ValueError("a segment that begins before 0, or with more logits than tokens")
        if not cache.fits(self.config):
            raise ValueError("a cache of another network")
        if self.config.encoder_layers and any(cache.sources[sequence] is None for sequence in sequences):
            raise ValueError("a sequence without a source")
        self._refuse_tokens(texts)
        return end

    def _refuse_sources(self, cache: NativeCache, sources: Mapping[int, Sequence[int]]) -> None:
        """Raises ValueError if native.c would read or write outside its buffers."""
        if not self.config.encoder_layers:
            raise ValueError("a source for a network without an encoder")
        if not all(0 <= sequence < cache.sequences for sequence in sources):
            raise ValueError(f"a sequence outside of a cache of {cache.sequences}")
        if not cache.fits(self.config):
            raise ValueError("a cache of another network")
        for ids in sources.values():
            if not 1 <= len(ids) <= self.config.context:
                raise ValueError(f"a source of {len(ids)} tokens in a context of {self.config.context}")
        self._refuse_tokens(sources.values())

    def _refuse_tokens(self, texts: Iterable[Sequence[int]]) -> None:
        ids = list(chain.from_iterable(texts))
        if ids and (min(ids) < 0 or max(ids) >= self.config.vocab_size):
            raise ValueError(f"a token outside of a vocabulary of {self.config.vocab_size}")

    def _run(self, cache: NativeCache, rows: _Rows, logits: Tensor, *, encodes: bool = False) -> None:
        """Calls native.c once, which writes to `logits` or, with `encodes`, to the buffers of the sources."""
        ids, positions, sequences, lengths, sources, _ = rows
        integers = np.array(ids + positions + sequences + lengths + rows.logits, np.int32)
        count, size, address = len(ids), integers.itemsize, integers.ctypes.data
        addresses = (ctypes.c_void_p * count)(*sources) if sources else None
        batch = _Batch(
            *(address + column * count * size for column in range(4)),
            address + (3 * count + len(lengths)) * size,
            cache.key_pointers,
            cache.value_pointers,
            None if addresses is None else ctypes.addressof(addresses),
            logits.data_ptr(),
            count,
            len(rows.logits),
            cache.capacity,
            encodes,
        )
        threads = self._next_threads() if count <= _FEW_ROWS else max(self._engines)
        if os.getpid() != self._process:
            raise RuntimeError("A network in C cannot be used in a forked process: create another one there.")
        begun = time.perf_counter()
        if _functions().engine_run(self._engines[threads], ctypes.byref(batch)):
            raise MemoryError(f"no memory to read {count} tokens")
        if count == 1 and not encodes:
            self._steps += 1
            self._seconds[threads].append(time.perf_counter() - begun)

    def _extend_positions(self, positions: int) -> None:
        """Extends the tables of rotary, sinusoidal or relative positions to this number of positions."""
        config, device, described = self.config, self.device, self._description
        if config.positions == "rotary" and (self._rotary is None or len(self._rotary.cos) < positions):
            self._rotary = rotation_table(config, positions, device)
            described.cos, described.sin = self._rotary.cos.data_ptr(), self._rotary.sin.data_ptr()
        if config.positions == "sinusoidal" and (self._sinusoids is None or len(self._sinusoids) < positions):
            self._sinusoids = sinusoid_table(config, positions, device)
            described.sinusoids = self._sinusoids.data_ptr()
        if self._distances and described.decoder.bias_positions < positions:
            self._extend_biases(1 << max(positions, _FIRST_CAPACITY).bit_length())

    def _extend_biases(self, positions: int) -> None:
        """Computes the bias of each distance from -P to P - 1 for P positions, in every stack: (H, 2 P)."""
        distances = torch.arange(-positions, positions)
        self._biases = []
        for part, weight in self._distances.items():
            causal = part == "decoder"
            self._biases.append(weight[distance_buckets(distances, self.config, causal=causal)].T.contiguous())
            stack = self._description.decoder if causal else self._description.encoder
            stack.distance_bias, stack.bias_positions = self._biases[-1].data_ptr(), positions

    def _next_threads(self) -> int:
        """Returns the thread count for the next step.

        It is the fastest in recent steps, or a count that is due to be timed. Each count is timed again every
        _RETIME_AFTER steps, because the load of the machine changes.
        """
        untimed = [count for count, seconds in self._seconds.items() if len(seconds) < _TIMED_STEPS]
        if untimed:
            return untimed[0]
        step = self._steps % _RETIME_AFTER
        return list(self._seconds)[step] if step < len(self._seconds) else self.threads

    def _describe(self, model: Transformer, releasing: bool) -> _Model:
        config = model.config
        described = _Model(
            self._matrix(model.embedding.weight),
            self._matrix(model.head_weight, model.head_bias),
            self._stack(model, releasing),
            _Stack() if model.encoder is None else self._stack(model.encoder, releasing),
            None,  # cosines, sines and sinusoids, set by `_extend_positions`
            None,
            None,
            config.norm_eps,
            1 / math.sqrt(config.head_width) if config.scaled_scores else 1,
            math.sqrt(config.width) if config.scaled_embedding else 1,
            config.width,
            config.heads,
            config.kv_heads,
            config.head_width,
            config.feed_forward_width,
            config.norm == "layer",
            _ACTIVATIONS[config.activation],
            not config.pre_norm,
        )
        if releasing:
            _release(model)
        return described

    def _stack(self, stack: Stack, releasing: bool) -> _Stack:
        layers = (_Layer * len(stack.blocks))()
        for i, block in enumerate(stack.blocks):
            layers[i] = self._layer(block, self.config.window_of(i))
            if releasing:
                _release(block)
        self._kept.append(layers)
        position, distance = stack.position, stack.distance
        if distance is not None:
            self._distances[stack.part] = self._rounded(distance.weight)
        scaled = stack.part == "decoder" and self.config.scaled_output
        return _Stack(
            _Matrix() if position is None else self._matrix(position.weight[self.config.position_offset :]),
            self._norm(stack.embedding_norm),
            self._norm(stack.norm, 1 / math.sqrt(self.config.width) if scaled else 1),
            None,  # the bias of distances, set by `_extend_positions`
            0,
            ctypes.addressof(layers),
            len(layers),
        )

    def _layer(self, block: Any, window: int | None) -> _Layer:
        fed = block.feed_forward
        assert isinstance(fed, FeedForward)
        return _Layer(
            self._attention(block.attention, block.attention_norm),
            _Attention() if block.cross_attention is None else self._attention(block.cross_attention, block.cross_norm),
            self._norm(block.feed_forward_norm),
            *(_Matrix() if one is None else self._matrix(one.weight, one.bias) for one in (fed.gate, fed.up, fed.down)),
            min(window or 0, self.config.context),  # a window of the whole context hides nothing
        )

    def _attention(self, attention: Attention, norm: nn.Module) -> _Attention:
        norms = (norm, attention.query_norm, attention.key_norm)
        matrices = (attention.query, attention.key, attention.value, attention.output)
        return _Attention(
            *(self._norm(norm) for norm in norms), *(self._matrix(one.weight, one.bias) for one in matrices)
        )

    def _norm(self, norm: nn.Module | None, scale: float = 1) -> _Norm:
        if not isinstance(norm, RMSNorm | nn.LayerNorm):
            return _Norm()
        bias = getattr(norm, "bias", None)
        gain = norm_gain(norm).float() * scale
        return _Norm(self._keep(gain), None if bias is None else self._keep(bias.float() * scale))

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> _Matrix:
        """Packs a matrix (O, I) and returns its description for native.c.

        A matrix that two parts of the network share, such as a tied head, is packed once.
        """
        packed = self._packed.get(weight.data_ptr())
        if packed is None:
            scale = None
            if self.int8:
                weight_, scale = to_int8(weight)
            elif weight.dtype not in _TYPES or (weight.dtype == torch.float16 and not _functions().supports_float16()):
                weight_ = weight.float()
            else:
                weight_ = weight.detach()
            packed = _Matrix(
                self._keep(_packed(weight_)),
                None if scale is None else self._keep(_padded(scale)),
                None,
                *weight.shape,
                _TYPES[weight_.dtype],
            )
            self._packed[weight.data_ptr()] = packed
        if bias is None:
            return packed
        return _Matrix(packed.weight, packed.scale, self._keep(_padded(bias.float())), *weight.shape, packed.dtype)

    def _rounded(self, weight: Tensor) -> Tensor:
        """Returns a copy of a matrix in float32, rounded if the weights are int8."""
        if not self.int8:
            return weight.detach().float().clone()
        quantized, scale = to_int8(weight.detach())
        return quantized * scale[:, None]

    def _keep(self, tensor: Tensor) -> int:
        """Stores a tensor until the backend is freed; returns its address."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _release(module: nn.Module) -> None:
    """Frees the memory of a module's weights.

    Moving the module to the device "meta" would do the same, but imports modules for 0.3 s.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _padded(tensor: Tensor) -> Tensor:
    """Pads a tensor (O, ...) with zeros so that O is a multiple of L."""
    missing = -len(tensor) % lanes()
    return F.pad(tensor.detach(), (0, 0) * (tensor.ndim - 1) + (0, missing)) if missing else tensor


def _packed(weight: Tensor) -> Tensor:
    """Packs a matrix: (O, I) -> (O / L, I, L)."""
    return _padded(weight).view(-1, lanes(), weight.shape[1]).transpose(1, 2).contiguous()


def _thread_counts() -> list[int]:
    """Returns the numbers of threads to time: PyTorch's number of threads, half of it, and 1."""
    most = torch.get_num_threads()
    return sorted({most, max(most // 2, 1), 1}, reverse=True)
