"""Training operations for a CPU, most with a backward pass written by hand.

On a CPU, the backward pass that PyTorch derives for an operation takes two to five times as long as the one here
(benchmarks/README.md). Each operation equals PyTorch's up to rounding. PyTorch's own operation is used on a GPU, and
wherever no gradient is needed: `worth_it` decides.

Letters: B batch, T queries, S keys, H heads, K key/value heads, D head width, C model width, V vocabulary, N = B x T.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.config import Activation
from attncli.model.activation import activate, activation_gradient
from attncli.model.mask import causal_mask

_LOGITS_AT_ONCE = {"cpu": 1 << 19}  # two megabytes of float32, which fit in a core's cache
_LOGITS_AT_ONCE_ELSEWHERE = 1 << 27
_MOST_ROUNDED = 0.1  # the largest rounding error of dropout's p, as a share of the smaller of p and 1 - p
_LONGEST_WRITTEN_OUT = 1024  # keys; beyond, storing T x S weights costs more time than it saves


def logits_at_once(device: str) -> int:
    """Returns how many logits are computed at once for a loss on this kind of device, to limit the memory."""
    return _LOGITS_AT_ONCE.get(device, _LOGITS_AT_ONCE_ELSEWHERE)


def worth_it(x: Tensor) -> bool:
    """Whether the operations of this module are faster than PyTorch's for x: on a CPU, if a gradient is needed."""
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()


def _apply(function: Any, *arguments: object) -> Any:
    """Calls `apply` of an autograd function, for which PyTorch declares no types."""
    return function.apply(*arguments)


class _RMSNorm(torch.autograd.Function):
    """Computes y = n * weight, where n = x * r and r = 1 / sqrt(mean(x^2) + eps).

    The gradient is dx = r * (g - n * mean(g * n)), where g = dy * weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        rate = squares.div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * rate
        ctx.save_for_backward(normed, rate, weight)
        scaled: Tensor = normed * weight
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        normed, rate, weight = ctx.saved_tensors
        product = gradient * normed
        mean = (product @ weight).unsqueeze(-1).div_(-normed.shape[-1])
        to_x = torch.addcmul(gradient * weight, normed, mean).mul_(rate)
        return to_x, product.flatten(0, -2).sum(0), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Returns x / sqrt(mean(x^2) + eps) * weight over the last dimension: x (..., C), weight (C,) -> (..., C)."""
    normed: Tensor = _apply(_RMSNorm, x, weight, eps)
    return normed


def joined(x: Tensor, *layers: nn.Linear) -> Tensor:
    """Applies several bias-free layers to x (..., C) as one matrix product; returns their concatenated outputs.

    Frozen layers, which may have adapters, are applied one by one, since the backward pass would keep a copy of their
    weights.
    """
    if not layers[0].weight.requires_grad:
        return torch.cat([layer(x) for layer in layers], -1)
    return F.linear(x, torch.cat([layer.weight for layer in layers]))


def _swapped(x: Tensor) -> Tensor:
    """Returns x with the halves of its last dimension swapped."""
    first, second = x.chunk(2, -1)
    return torch.cat((second, first), -1)


class _Heads(torch.autograd.Function):
    """Normalizes queries and keys to y as `_RMSNorm` does, and rotates them: out = y * cos + swapped(y) * sin.

    The first half of sin is negated, so swapped(sin) = -sin. The gradient is dy = dout * cos - swapped(dout) * sin.
    """

    @staticmethod
    def forward(
        ctx: Any, sides: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = *sides.shape[:2], weight.shape[-1]
        parts = sides.view(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        pairs, value = parts[:2], parts[2].contiguous()
        wide = torch.promote_types(sides.dtype, torch.float32)
        squares = torch.linalg.vector_norm(pairs, dim=-1, keepdim=True, dtype=wide).square_()
        rate = squares.div_(width).add_(eps).rsqrt_().to(sides.dtype)
        normed = torch.mul(pairs, rate, out=sides.new_empty(pairs.shape))
        weight = weight.view(2, 1, 1, 1, width)
        turned = (normed * (weight * cos)).addcmul_(_swapped(normed), _swapped(weight) * sin)
        ctx.save_for_backward(normed, rate, weight, cos, sin)
        return turned[0], turned[1], value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_query, to_key, to_value = gradients
        normed, rate, weight, cos, sin = ctx.saved_tensors
        _, batch, heads, length, width = normed.shape
        gradient = torch.stack((to_query, to_key))
        gradient = (gradient * cos).addcmul_(_swapped(gradient), sin, value=-1)
        product = (gradient * normed).view(2, -1, width)
        mean = (product @ weight.view(2, width, 1)).div_(-width).view(rate.shape)
        to_sides = normed.new_empty(batch, length, 3, heads, width)
        parts = to_sides.permute(2, 0, 3, 1, 4)
        torch.mul((gradient * weight).addcmul_(normed, mean), rate, out=parts[:2])
        parts[2].copy_(to_value)
        return to_sides.view(batch, length, -1), product.sum(1), None, None, None, None


def rotated_heads(
    sides: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits concatenated projections into queries, keys and values; normalizes and rotates queries and keys.

    The projections are sides (B, T, 3 x H x D). The gains of the two norms are weight (2, D). The rotations are cos (T,
    D) and sin (T, D). Returns queries, keys and values, each (B, H, T, D).
    """
    rotated: tuple[Tensor, Tensor, Tensor] = _apply(_Heads, sides, weight, cos, sin, heads, eps)
    return rotated


class _GatedProduct(torch.autograd.Function):
    """Computes activation(gate) * up. Gate and up are one concatenated tensor, and so are their gradients."""

    @staticmethod
    def forward(ctx: Any, sides: Tensor, activation: Activation) -> Tensor:
        gate, up = sides.chunk(2, -1)
        activated = activate(activation, gate)
        ctx.activation = activation
        ctx.save_for_backward(sides, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        sides, activated = ctx.saved_tensors
        gate, up = sides.chunk(2, -1)
        to_sides = torch.empty_like(sides)
        to_gate, to_up = to_sides.chunk(2, -1)
        torch.mul(gradient, activated, out=to_up)
        activation_gradient(ctx.activation, gradient * up, gate, to_gate)
        return to_sides, None


def gated_product(sides: Tensor, activation: Activation) -> Tensor:
    """Returns activation(gate) * up of the concatenated gate and up: (..., 2 x width) -> (..., width)."""
    product: Tensor = _apply(_GatedProduct, sides, activation)
    return product


@lru_cache(maxsize=16)
def _causal_bias(queries: int, keys: int, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
    forbidden = ~causal_mask(queries, keys, window, torch.device("cpu"))
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(forbidden, -math.inf).repeat(groups, 1)


def causal_bias(window: int | None, query: Tensor, key: Tensor) -> Tensor:
    """Returns the bias (groups x T, S) for `attend`: 0 where a query may attend and -inf elsewhere.

    Query (B, H, T, D), key (B, K, S, D). The bias is repeated for each head of a group.
    """
    return _causal_bias(query.shape[2], key.shape[2], window, query.shape[1] // key.shape[1], query.dtype)


def padding_bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Returns the bias (B x K, 1, S) for `attend`: 0 where mask (B, 1, 1, S) is True, and -inf elsewhere.

    Returns None if there is no mask.
    """
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -math.inf)
    return bias.expand(-1, key.shape[1], -1, -1).flatten(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaled: bool = True) -> Tensor:
    """Returns softmax(QK^T / sqrt(D) + bias) V; without the division by sqrt(D) if not `scaled`.

    Query (B, H, T, D), key and value (B, K, S, D) -> (B, H, T, D). The bias has the shape (B x K, groups x T, S), where
    any dimension may be 1 or absent.
    """
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    groups = heads // kv_heads  # query heads that share a key/value head become rows of one product
    rows = query.reshape(batch * kv_heads, groups * queries, width)
    columns = key.reshape(batch * kv_heads, keys, width).transpose(1, 2)
    added = query.new_zeros(1) if bias is None else bias
    scores = torch.baddbmm(
        added, rows, columns, beta=0 if bias is None else 1, alpha=1 / math.sqrt(width) if scaled else 1
    )
    return (scores.softmax(-1) @ value.reshape(batch * kv_heads, keys, width)).view(batch, heads, queries, width)


def can_attend(keys: int) -> bool:
    """Whether `attend` is faster than PyTorch's attention for this number of keys."""
    return keys <= _LONGEST_WRITTEN_OUT


class Drawn(NamedTuple):
    """The random bytes. A number is dropped if its byte is below `dropped`, else multiplied by `factor`."""

    bytes: Tensor  # (count,), uint8
    dropped: int
    factor: float


class Dropout(nn.Module):
    """In training, sets a share p of the numbers to zero and scales up the other numbers (Srivastava et al., 2014).

    On a CPU, one random byte per number decides whether to drop it, which is ten times as fast as PyTorch's dropout. So
    p is rounded to a multiple of 1/256; if the rounding error is too large, PyTorch's dropout is used.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Applies dropout to x (...) -> (...); does nothing outside training."""
        if not (self.training and self.p > 0):
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not self.draws_bytes:
            return F.dropout(x, self.p)
        drawn = self.draw(x.numel())
        kept = drawn.bytes.view(x.shape) >= drawn.dropped
        return x * kept.to(x.dtype).mul_(drawn.factor)

    @property
    def draws_bytes(self) -> bool:
        """Whether a byte per number is precise enough for p."""
        return self.p == 0 or abs(round(self.p * 256) / 256 - self.p) / min(self.p, 1 - self.p) <= _MOST_ROUNDED

    def draw(self, count: int) -> Drawn:
        """Draws the random bytes of `count` numbers from PyTorch's default generator."""
        dropped = round(self.p * 256)
        drawn = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        return Drawn(drawn.view(torch.uint8)[:count], dropped, 256 / (256 - dropped))


class _HeadLoss(torch.autograd.Function):
    """Computes the loss and its gradients in the forward pass, in chunks, so memory never contains all logits.

    A weight that is not `learned` gets no gradient. With label smoothing, the gradients belong to the smoothed loss,
    but the returned loss is not smoothed.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, learned: bool) -> Tensor:
        tokens, vocabulary = hidden.shape[0], weight.shape[0]
        at_once = max(1, logits_at_once(hidden.device.type) // vocabulary)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=wide) if learned else None
        nats = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, tokens, at_once):
            rows, right = hidden[start : start + at_once], targets[start : start + at_once, None]
            logs = F.linear(rows, weight).log_softmax(-1, dtype=wide)
            nats -= logs.gather(1, right).sum()
            slope = logs.exp_()
            if smoothing:
                slope -= smoothing / vocabulary
            slope.scatter_add_(1, right, logs.new_full((), smoothing - 1).expand(right.shape))
            slope = slope.div_(tokens).to(hidden.dtype)
            torch.mm(slope, weight, out=to_hidden[start : start + at_once])
            if to_weight is not None:
                to_weight += slope.T @ rows
        ctx.save_for_backward(to_hidden, None if to_weight is None else to_weight.to(weight.dtype))
        return nats / tokens

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        scale = gradients[0]
        if to_weight is not None:
            to_weight = to_weight * scale.to(to_weight.dtype)
        return to_hidden * scale.to(to_hidden.dtype), to_weight, None, None, None


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns the mean cross-entropy in nats of targets (...), given hidden (..., C) and the head's weight (V, C).

    The loss is computed in float32. Head, loss and gradient are fused, as in Hsu et al., 2024 ("Liger Kernel").
    `smoothing` changes the gradient only: it is the gradient of the cross-entropy with targets that have the
    probability 1 - smoothing, while the rest is spread evenly over the vocabulary (Szegedy et al., 2016). So losses
    with and without smoothing are comparable.
    """
    loss: Tensor = _apply(_HeadLoss, hidden.flatten(0, -2), weight, targets.flatten(), smoothing, weight.requires_grad)
    return loss
