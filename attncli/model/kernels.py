"""The operations of training.c, on tensors: each writes to or adds to tensors of the caller, and allocates none.

`Kernels` owns a team of threads. All tensors are in float32 on the CPU, ids in int64. A matrix has adjacent rows unless
a docstring says otherwise; any view of rows or columns may be given to `product`. This module knows neither models nor
steps: `training.native_step` orders the operations.

Letters: B batch, T queries, S keys, N = B x T rows, H heads, K key/value heads, D head width, C width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attncli.config import Activation
from attncli.model.fused import Drawn
from attncli.model.native_library import library, refuse

ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "gelu_erf": 2, "relu": 3}
_P, _I, _L, _F, _D = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_double
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "team_new": (_P, [_I]),
    "team_free": (None, [_P]),
    "multiply_matrices": (_I, [_P, _P, _L, _P, _L, _P, _L, _L, _P, _L, _L, _I, _I, _I]),
    "add_row_sum": (_I, [_P, _P, _P, _L, _I, _I]),
    "normalize_rows": (None, [_P, _P, _P, _P, _P, _I, _I, _F, _I]),
    "normalize_rows_backward": (_I, [_P, _P, _P, _P, _P, _P, _P, _I, _I, _F, _I]),
    "rotate_heads": (None, [_P, _P, _L, _P, _L, _P, _P, _P, _P, _I, _I, _I, _I, _I, _F]),
    "rotate_heads_backward": (_I, [_P, _P, _L, _P, _P, _L, _P, _P, _P, _P, _I, _I, _I, _I, _I, _F]),
    "attend": (_I, [_P, _P]),
    "attend_backward": (_I, [_P, _P]),
    "activate_rows": (None, [_P, _P, _P, _I, _I, _I, _I]),
    "activate_rows_backward": (None, [_P, _P, _P, _P, _I, _I, _I, _I]),
    "add_dropped": (None, [_P, _P, _P, _P, _P, _L, _I, _F]),
    "embed": (None, [_P, _P, _P, _P, _P, _I, _I, _I, _F]),
    "embed_backward": (None, [_P, _P, _P, _P, _I, _I, _F]),
    "cross_entropy": (_D, [_P, _P, _P, _P, _I, _I, _F, _F]),
    "sum_of_squares": (_D, [_P, _P, _L]),
    "update_adam": (None, [_P, _P]),
    "update_muon": (_I, [_P, _P]),
}


@cache
def _functions() -> Any:
    """Returns the functions of the compiled library; None if there is no library."""
    compiled = library("training")
    if compiled is None:
        return None
    try:
        functions = ctypes.CDLL(compiled.name)
    except OSError as problem:
        refuse(problem, "training")
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    return functions


def available() -> bool:
    """Whether this machine has the compiled library of the operations."""
    return _functions() is not None


class _Heads(ctypes.Structure):
    _fields_ = [("at", _P), ("stride", _L)]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, _Heads) for name in ("query", "key", "value", "output")),
        *((name, _Heads) for name in ("to_query", "to_key", "to_value", "output_gradient")),
        *((name, _P) for name in ("logs", "lengths")),
        *((name, _I) for name in ("batch", "queries", "keys", "heads", "kv_heads", "width", "causal", "window")),
        ("scale", _F),
    ]


class _AdamParameter(ctypes.Structure):
    _fields_ = [*((name, _P) for name in ("weight", "mean", "square", "gradient")), ("count", _L), ("kept", _F)]


class _Adam(ctypes.Structure):
    _fields_ = [
        ("parameters", _P),
        ("parameter_count", _I),
        *((name, _F) for name in ("clip", "mean_rate", "square_rate", "square_scale", "epsilon", "step")),
    ]


class _MuonMatrix(ctypes.Structure):
    _fields_ = [*((name, _P) for name in ("weight", "momentum", "gradient")), ("rows", _I), ("columns", _I)]


class _Muon(ctypes.Structure):
    _fields_ = [
        *((name, _P) for name in ("matrices", "coefficients")),
        *((name, _I) for name in ("matrix_count", "steps")),
        *((name, _F) for name in ("clip", "momentum", "margin", "kept", "lr")),
    ]


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of an attention. `lengths` (B,) are the keys of each sequence that are no padding, in int32."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    width: int
    causal: bool
    window: int | None
    scale: float
    lengths: Tensor | None = None


class Sides(NamedTuple):
    """Queries (N, H x D), keys and values (B x S, K x D), which may be views of some columns."""

    query: Tensor
    key: Tensor
    value: Tensor


class AdamParameter(NamedTuple):
    """A parameter with its running means; `decayed` by weight decay or not."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    decayed: bool


class MuonMatrix(NamedTuple):
    """A matrix with its running mean."""

    weight: Tensor
    gradient: Tensor
    momentum: Tensor


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _heads(tensor: Tensor | None) -> _Heads:
    return _Heads() if tensor is None else _Heads(tensor.data_ptr(), tensor.stride(0))


def _check(result: int) -> None:
    if result:
        raise MemoryError("no memory for the operations of a training step")


class Kernels:
    """The operations, and the team of threads that runs them. One operation runs at a time."""

    def __init__(self, threads: int) -> None:
        self._c = _functions()
        self._team = self._c.team_new(threads)
        if not self._team:
            raise MemoryError("no memory for the threads of a training step")
        weakref.finalize(self, self._c.team_free, self._team)

    def product(self, out: Tensor, a: Tensor, b: Tensor, start: Tensor | None = None) -> None:
        """Computes out = start + a b for a (M, K), b (K, N); a start (N,) is added to every row, and may be `out`.

        In a and b, rows or columns must be adjacent in memory; in `out`, the numbers of a row.
        """
        (rows, columns), depth = out.shape, a.shape[1]
        start_row = 0 if start is None or start.ndim == 1 else start.stride(0)
        start = out if start is out else start
        at = (_at(out), out.stride(0), _at(start), start_row, _at(a), *a.stride(), _at(b), *b.stride())
        _check(self._c.multiply_matrices(self._team, *at, rows, columns, depth))

    def add_row_sum(self, out: Tensor, x: Tensor) -> None:
        """Adds the sum of the rows of x (N, C) to `out` (C,)."""
        _check(self._c.add_row_sum(self._team, _at(out), _at(x), x.stride(0), *x.shape))

    def norm(
        self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, subtracts_mean: bool
    ) -> None:
        """Normalizes the rows of x (N, C): RMSNorm, or LayerNorm if it `subtracts_mean`."""
        at = _at(out), _at(x), _at(weight), _at(bias)
        self._c.normalize_rows(self._team, *at, *x.shape, eps, subtracts_mean)

    def norm_backward(
        self,
        to_x: Tensor,
        to_weight: Tensor,
        to_bias: Tensor | None,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        eps: float,
        *,
        subtracts_mean: bool,
    ) -> None:
        """Adds the gradients of a norm to to_x (N, C), to_weight (C,) and to_bias (C,)."""
        at = _at(to_x), _at(to_weight), _at(to_bias), _at(gradient), _at(x), _at(weight)
        _check(self._c.normalize_rows_backward(self._team, *at, *x.shape, eps, subtracts_mean))

    def rotate(
        self,
        out: Tensor,
        x: Tensor,
        gains: tuple[Tensor, Tensor] | None,
        rotation: tuple[Tensor, Tensor] | None,
        shape: AttentionShape,
        eps: float,
    ) -> None:
        """Normalizes and rotates the queries and keys in the first columns of x (N, C).

        Args:
            out: queries and keys (N, (H + K) x D).
            x: queries, keys, and other columns, which are not read.
            gains: the gains (D,) of the RMSNorms of queries and keys; None without norms.
            rotation: the cosines and sines (T, D) of the positions; None without rotation.
            shape: the sizes.
            eps: the constant of the norms.
        """
        at = _at(out), out.stride(0), _at(x), x.stride(0)
        self._c.rotate_heads(self._team, *at, *_pair(gains), *_pair(rotation), len(x), *_sizes(shape), eps)

    def rotate_backward(
        self,
        gradient: Tensor,
        to_gains: Tensor | None,
        x: Tensor,
        gains: tuple[Tensor, Tensor] | None,
        rotation: tuple[Tensor, Tensor] | None,
        shape: AttentionShape,
        eps: float,
    ) -> None:
        """Replaces the gradient of rotated queries and keys by that of x, and adds to to_gains (2, D)."""
        at = _at(gradient), gradient.stride(0), _at(to_gains), _at(x), x.stride(0)
        sizes = len(x), *_sizes(shape)
        _check(self._c.rotate_heads_backward(self._team, *at, *_pair(gains), *_pair(rotation), *sizes, eps))

    def attend(self, output: Tensor, logs: Tensor, sides: Sides, shape: AttentionShape) -> None:
        """Computes softmax(scale Q K^T) V -> output (N, H x D), and for the backward pass logs (N, H).

        A query attends to the keys of its sequence that are no padding, and if causal to none after its own position.
        """
        call = _attention(output, logs, sides, shape)
        _check(self._c.attend(self._team, ctypes.byref(call)))

    def attend_backward(
        self, to: Sides, gradient: Tensor, output: Tensor, logs: Tensor, sides: Sides, shape: AttentionShape
    ) -> None:
        """Writes the gradients of the sides, given the gradient (N, H x D) of the output."""
        call = _attention(output, logs, sides, shape)
        call.to_query, call.to_key, call.to_value = map(_heads, to)
        call.output_gradient = _heads(gradient)
        _check(self._c.attend_backward(self._team, ctypes.byref(call)))

    def activate(self, out: Tensor, x: Tensor, activation: Activation, *, gated: bool) -> None:
        """Computes activation(gate) * up of x (N, 2 x width), the gate and up; without a gate, activation(x)."""
        self._c.activate_rows(self._team, _at(out), _at(x), *out.shape, gated, ACTIVATIONS[activation])

    def activate_backward(
        self, to_x: Tensor, gradient: Tensor, x: Tensor, activation: Activation, *, gated: bool
    ) -> None:
        """Writes the gradient of x, given the gradient (N, width) of the output."""
        at = _at(to_x), _at(gradient), _at(x)
        self._c.activate_rows_backward(self._team, *at, *gradient.shape, gated, ACTIVATIONS[activation])

    def add(self, out: Tensor, start: Tensor | None, x: Tensor, drawn: Drawn | None = None) -> None:
        """Computes out = start + x, without `start` out = x; `drawn` applies dropout to x."""
        drawn_at, dropped, factor = (None, 0, 1.0) if drawn is None else (_at(drawn.bytes), *drawn[1:])
        self._c.add_dropped(self._team, _at(out), _at(start), _at(x), drawn_at, x.numel(), dropped, factor)

    def embed(self, out: Tensor, table: Tensor, ids: Tensor, positions: Tensor | None, scale: float) -> None:
        """Writes scale x the table's rows of ids (B, T), plus positions (T, C), to `out` (N, C)."""
        at = _at(out), _at(table), _at(ids), _at(positions)
        self._c.embed(self._team, *at, *out.shape, ids.shape[-1], scale)

    def embed_backward(self, to_table: Tensor, gradient: Tensor, ids: Tensor, scale: float) -> None:
        """Adds scale x gradient (N, C) to the rows of ids (N) of a table's gradient."""
        self._c.embed_backward(self._team, _at(to_table), _at(gradient), _at(ids), *gradient.shape, scale)

    def cross_entropy(self, logits: Tensor, targets: Tensor, share: float, smoothing: float, nats: Tensor) -> float:
        """Returns the sum of the cross-entropies of targets (N), and replaces the logits (N, V) by their gradients.

        A negative target has no loss. The gradients are those of share x the sum, with label smoothing, which the
        returned sum does not contain. `nats` (N,), in float64, receives the cross-entropies.
        """
        at = _at(logits), _at(nats), _at(targets)
        return float(self._c.cross_entropy(self._team, *at, *logits.shape, share, smoothing))

    def sum_of_squares(self, x: Tensor) -> float:
        """Returns the sum of the squares of a contiguous tensor."""
        return float(self._c.sum_of_squares(self._team, _at(x), x.numel()))

    def update_adam(
        self,
        parameters: Sequence[AdamParameter],
        clip: float,
        kept: float,
        betas: tuple[float, float],
        square_scale: float,
        epsilon: float,
        step: float,
    ) -> None:
        """Updates parameters: weight = kept x weight - step x mean / (sqrt(square) x square_scale + epsilon).

        `clip` multiplies the gradients. `kept` applies to the decayed parameters.
        """
        described = (_AdamParameter * len(parameters))(
            *(
                _AdamParameter(*map(_at, (p.weight, p.mean, p.square, p.gradient)), p.weight.numel(), by)
                for p in parameters
                for by in (kept if p.decayed else 1.0,)
            )
        )
        call = _Adam(ctypes.addressof(described), len(parameters), clip, *betas, square_scale, epsilon, step)
        self._c.update_adam(self._team, ctypes.byref(call))

    def update_muon(
        self,
        matrices: Sequence[MuonMatrix],
        clip: float,
        momentum: float,
        coefficients: Sequence[Sequence[float]],
        margin: float,
        kept: float,
        lr: float,
    ) -> None:
        """Updates matrices by Muon. `clip` multiplies the gradients, `kept` the weights before the update."""
        matrices = sorted(matrices, key=lambda one: -one.weight.numel() * min(one.weight.shape))
        described = (_MuonMatrix * len(matrices))(
            *(_MuonMatrix(*map(_at, (one.weight, one.momentum, one.gradient)), *one.weight.shape) for one in matrices)
        )
        numbers = [number for row in coefficients for number in row]
        table = (_F * len(numbers))(*numbers)
        addresses = ctypes.addressof(described), ctypes.addressof(table)
        call = _Muon(*addresses, len(matrices), len(coefficients), clip, momentum, margin, kept, lr)
        _check(self._c.update_muon(self._team, ctypes.byref(call)))


def _pair(tensors: tuple[Tensor, Tensor] | None) -> tuple[int | None, int | None]:
    return (None, None) if tensors is None else (tensors[0].data_ptr(), tensors[1].data_ptr())


def _sizes(shape: AttentionShape) -> tuple[int, int, int, int]:
    return shape.queries, shape.heads, shape.kv_heads, shape.width


def _attention(output: Tensor, logs: Tensor, sides: Sides, shape: AttentionShape) -> _Attention:
    assert logs.dtype == torch.float32
    return _Attention(
        *map(_heads, (*sides, output)),
        *(_Heads() for _ in range(4)),
        _at(logs),
        _at(shape.lengths),
        *(shape.batch, shape.queries, shape.keys, shape.heads, shape.kv_heads, shape.width),
        shape.causal,
        shape.window or 0,
        shape.scale,
    )
