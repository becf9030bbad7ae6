"""Attention: queries, keys and values, the scaled dot product, the mask, the heads and the output matrix.

There are two paths with equal results. The fast path is PyTorch's fused `scaled_dot_product_attention`. The observed
path computes the result step by step and passes each step to an `Observer`. It does so one layer at a time, so memory
contains the attention weights of one layer only. RMSNorm and rotary positions are also here.

Letters: B batch, T queries, S keys, H heads, K key/value heads, D head width, C model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.config import ModelConfig, RopeScaling
from attncli.model import fused
from attncli.model.mask import causal_mask

if TYPE_CHECKING:
    from attncli.model.cache import KVCache

Part = Literal["encoder", "decoder", "cross"]  # cross: queries of the decoder, keys and values of the encoder's output

_FIRST_ROTATIONS = 4095  # positions; the smallest table has the next power of two


@dataclass(frozen=True)
class AttentionSteps:
    """The intermediate results of one layer's attention (Vaswani et al., 2017, equation 1).

    Keys and values have K heads, one for each group of query heads. If the rows of a batch share past positions, keys
    and values contain the new positions only.
    """

    query: Tensor  # (B, H, T, D), after query/key norm and rotation
    key: Tensor  # (B, K, S, D), after key norm and rotation
    value: Tensor  # (B, K, S, D)
    scores: Tensor  # (B, H, T, S): QK^T / sqrt(D), plus the bias of relative positions; -inf at masked keys
    weights: Tensor  # (B, H, T, S): softmax of the scores over S
    mixed: Tensor  # (B, H, T, D): weights x value, unless an observer replaces it
    output: Tensor  # (B, T, C): the concatenated heads through the output matrix


class Observer:
    """Receives the steps of a forward pass. Override the methods that you need; do not modify the tensors in place.

    The attention of a layer calls `scores`, `mixed` and `attention` if the observer watches its part. A decoder layer
    with an encoder has two parts: self-attention ("decoder") and cross-attention ("cross").
    """

    def watches(self, part: Part) -> bool:
        """Whether the observer receives the attention of a part; by default, of self-attention only."""
        return part != "cross"

    def residual(self, layer: int, stream: Tensor) -> None:
        """Receives the residual stream (B, T, C) before each layer, and once more before the final norm."""

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        """Receives the masked scores (B, H, T, S) before the softmax; the returned scores replace them."""
        return scores

    def mixed(self, layer: int, mixed: Tensor, module: Attention) -> Tensor:
        """Receives the outputs (B, H, T, D) of the heads, before the output matrix; the returned ones replace them."""
        return mixed

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Receives the intermediate results of a layer's attention, and its module, which has the output matrix."""

    def feed_forward(self, layer: int, output: Tensor) -> None:
        """Receives the output (B, T, C) of a layer's feed-forward part, which is added to the residual stream."""


class RMSNorm(nn.Module):
    """Computes x / sqrt(mean(x^2) + eps) * gain over the last dimension (Zhang and Sennrich, 2019).

    The computation is in float32 or wider. The gain is the weight, or 1 + weight with a unit offset, as in Gemma.
    """

    def __init__(self, width: int, eps: float, unit_offset: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width) if unit_offset else torch.ones(width))
        self.eps, self.unit_offset = eps, unit_offset

    @property
    def gain(self) -> Tensor:
        """The factor (width,) that multiplies the normalized numbers; with a unit offset, in float32 or wider."""
        if not self.unit_offset:
            return self.weight
        return 1 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes x (..., width) -> (..., width).

        The result is rounded to the dtype of x. As in transformers, the normalized numbers are also rounded before they
        are multiplied by the gain, unless there is a unit offset. On CUDA, only the result is rounded.
        """
        if fused.worth_it(x):
            return fused.rms_norm(x, self.gain.to(x.dtype), self.eps)
        if x.device.type == "cuda" and not self.unit_offset:  # one kernel instead of seven
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.unit_offset:
            return (normed * self.gain).to(x.dtype)
        return normed.to(x.dtype) * self.weight.to(x.dtype)


def norm_gain(norm: nn.Module) -> Tensor:
    """Returns the factor (width,) by which a norm multiplies its normalized input."""
    gain = norm.gain if isinstance(norm, RMSNorm) else norm.weight
    assert isinstance(gain, Tensor)
    return gain


@dataclass(frozen=True)
class Rotary:
    """The cosines and sines of the rotary positions of one forward pass, each (T, D) (Su et al., 2021).

    The first half of `sin` is negated, because a pair (a, b) is rotated to (a cos - b sin, b cos + a sin).
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def table(cls, positions: Tensor, head_width: int, theta: float, scaling: RopeScaling | None = None) -> Rotary:
        """Returns the table of the given positions.

        Position p rotates the pair (i, i + D/2) by p times the i-th frequency.
        """
        angles = torch.outer(positions.float(), rotary_frequencies(head_width, theta, scaling).to(positions.device))
        cos, sin = angles.cos(), angles.sin()  # (T, D/2)
        if scaling is not None and scaling.attention_factor != 1:
            cos, sin = cos * scaling.attention_factor, sin * scaling.attention_factor
        return cls(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))

    def at(self, positions: slice | Tensor, dtype: torch.dtype) -> Rotary:
        """Returns the table's rows at the given positions, in a dtype.

        A slice of positions -> rows (T, D). Positions (B, 1) -> rows (B, 1, 1, D).
        """
        if isinstance(positions, Tensor):
            positions = positions[:, None]
        return Rotary(self.cos[positions].to(dtype), self.sin[positions].to(dtype))

    def apply(self, x: Tensor) -> Tensor:
        """Rotates queries or keys x (B, heads, T, D)."""
        first, second = x.chunk(2, -1)
        return torch.addcmul(x * self.cos, torch.cat((second, first), -1), self.sin)


def rotation_table(config: ModelConfig, positions: int, device: torch.device) -> Rotary:
    """Returns the rotary table of at least the first `positions` positions of a model's context.

    The number of rows is a power of two, or the context if that is smaller.
    """
    rows = min(1 << max(positions, _FIRST_ROTATIONS).bit_length(), config.context)
    return Rotary.table(torch.arange(rows, device=device), config.head_width, config.rope_theta, config.rope_scaling)


def rotary_frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Returns the rotary frequencies (D/2,): the angle in radians of pair i at position 1.

    The angle is theta^(-2i/D) (Su et al., 2021). `scaling` changes it: `linear` divides it by the factor (Chen et al.,
    2023). `llama3` (`apply_scaling` in the code of Llama 3.1) and `yarn` (Peng et al., 2023, section 3.2) interpolate
    between the frequency f and f / factor. The weight of f is 1 for pairs that make many turns within the original
    context, and 0 for pairs that make few turns. For the other pairs, the weight is linear: for `llama3` in the number
    of turns, for `yarn` in i.
    """
    frequencies = theta ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    context = scaling.original_context or 1
    if scaling.kind == "llama3":
        turns = context * frequencies / (2 * math.pi)
        share = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    else:
        first, last = (
            head_width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (scaling.beta_fast, scaling.beta_slow)
        )
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_width - 1)
        width = last - first or 0.001
        share = 1 - (torch.arange(head_width // 2) - first) / width
    share = share.clamp(0, 1)
    return share * frequencies + (1 - share) * frequencies / scaling.factor


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values (Ainslie et al., 2023).

    Self-attention computes keys and values from its own input: with a causal mask in a decoder, without one in an
    encoder. Cross-attention gets keys and values, computed by `keys_values` from the encoder's output; each query
    attends to all of them.
    """

    def __init__(self, config: ModelConfig, layer: int, part: Part = "decoder") -> None:
        super().__init__()
        self.layer, self.part = layer, part
        self.causal = part == "decoder" and config.causal
        self.window = config.window_of(layer)
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.scaled = config.scaled_scores
        bias_in = config.qkv_bias
        self.query = nn.Linear(config.width, self.heads * self.head_width, bias=bias_in)
        self.key = nn.Linear(config.width, self.kv_heads * self.head_width, bias=bias_in)
        self.value = nn.Linear(config.width, self.kv_heads * self.head_width, bias=bias_in)
        self.output = nn.Linear(self.heads * self.head_width, config.width, bias=config.output_bias)
        norm = (self.head_width, config.norm_eps, config.unit_offset)
        self.query_norm = RMSNorm(*norm) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(*norm) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        cache: KVCache | None = None,
        observe: Observer | None = None,
        *,
        source: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attends: x (B, T, C) -> output (B, T, C). With a cache, x contains the new positions only.

        Args:
            x: the input, from which the queries are computed.
            rotary: the rotations of the positions of x.
            cache: the keys and values of earlier positions.
            observe: receives the intermediate results.
            source: for cross-attention, the keys and values (B, K, S, D) of the source.
            mask: (B, 1, 1, S), True at the keys that are not padding; None if no key is padding.
            bias: (1 or B, H, T, S), added to the scores.
        """
        if observe is not None and not observe.watches(self.part):
            observe = None
        if rotary is not None and cache is None and observe is None and self.causal:
            mixed = self._written_out(x, rotary)
            if mixed is not None:
                return self._combine(mixed)
        query = self.query_norm(self._heads(self.query(x)))  # (B, H, T, D)
        key, value = self.keys_values(x) if source is None else source  # (B, K, S, D)
        if rotary is not None:
            query, key = rotary.apply(query), rotary.apply(key)
        past = None
        if cache is not None and source is None:
            past = cache.shared(self.layer) if observe is not None else None
            if past is None:
                key, value = cache.append(self.layer, key, value)
            if mask is None and observe is None:
                mask = cache.mask(self.window)
        if observe is not None:
            return self._observed(query, key, value, mask, bias, observe, past)
        return self._combine(self._fused(query, key, value, mask, bias))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the keys and values (B, K, S, D) of x (B, S, C), without rotation."""
        return self.key_norm(self._heads(self.key(x))), self._heads(self.value(x))

    def _written_out(self, x: Tensor, rotary: Rotary) -> Tensor | None:
        """Attends with the operations of `fused`: (B, T, C) -> (B, H, T, D).

        Returns None if the operations of `fused` are slower or unsuitable.
        """
        norms = self.query_norm, self.key_norm
        if not isinstance(norms[0], RMSNorm) or not isinstance(norms[1], RMSNorm) or self.heads != self.kv_heads:
            return None
        if self.query.bias is not None or not fused.worth_it(x) or not fused.can_attend(x.shape[1]):
            return None
        sides = fused.joined(x, self.query, self.key, self.value)
        gains = torch.stack((norms[0].gain, norms[1].gain)).to(x.dtype)
        heads = fused.rotated_heads(sides, gains, rotary.cos, rotary.sin, self.heads, norms[0].eps)
        return fused.attend(*heads, fused.causal_bias(self.window, *heads[:2]), self.scaled)

    def _heads(self, x: Tensor) -> Tensor:
        """Splits heads: (B, T, heads x D) -> (B, heads, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)

    def _combine(self, mixed: Tensor) -> Tensor:
        """Concatenates the heads and applies the output matrix: (B, H, T, D) -> (B, T, C)."""
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """Attends by the fast path -> (B, H, T, D).

        Builds a mask only if PyTorch's `is_causal` does not apply: with a window, or with cached keys. A mask of cached
        keys is already causal.
        """
        queries, keys = query.shape[2], key.shape[2]
        if bias is None and fused.worth_it(query) and fused.can_attend(keys) and (mask is None or not self.causal):
            added = fused.causal_bias(self.window, query, key) if self.causal else fused.padding_bias(mask, query, key)
            return fused.attend(query, key, value, added, self.scaled)
        windowed = self.window is not None and keys > self.window
        misaligned = 1 < queries < keys  # is_causal would align the first query with the first cached key
        if self.causal and mask is None and (windowed or misaligned or bias is not None):
            mask = causal_mask(queries, keys, self.window, query.device)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_biased(mask, bias),
            is_causal=self.causal and mask is None and queries > 1,
            scale=None if self.scaled else 1.0,  # None: 1 / sqrt(D)
            enable_gqa=self.heads != self.kv_heads,
        )

    def _observed(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        observe: Observer,
        past: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Attends by the observed path -> (B, T, C).

        `past` contains the keys and values of earlier positions that all rows of the batch share.
        """
        before = 0 if past is None else past[0].shape[2]
        scores = _products(query, key.transpose(-1, -2))
        if past is not None:
            scores = torch.cat((_products(query, past[0].transpose(-1, -2)), scores), -1)
        scores = scores / math.sqrt(self.head_width) if self.scaled else scores
        if bias is not None:
            scores = scores + bias
        if self.causal:
            forbidden = ~causal_mask(query.shape[2], before + key.shape[2], self.window, query.device)
            scores = scores.masked_fill(forbidden, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        scores = observe.scores(self.layer, scores, self)
        weights = scores.softmax(-1)
        mixed = _products(weights[..., before:], value)
        if past is not None:
            mixed = mixed + _products(weights[..., :before], past[1])
        mixed = observe.mixed(self.layer, mixed, self)
        output = self._combine(mixed)
        observe.attention(self.layer, AttentionSteps(query, key, value, scores, weights, mixed, output), self)
        return output


def _biased(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Combines a mask (True at the keys to attend to) and a bias of the scores into one mask for PyTorch."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return torch.where(mask, bias, -math.inf)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Multiplies (B, H, T, X) @ (B, K, X, Y) -> (B, H, T, Y).

    The heads of a group share one right matrix without copies. If the batch size of `right` is 1, all rows of the batch
    share it.
    """
    (batch, heads, rows, inner), groups = left.shape, right.shape[1]
    if len(right) < batch:  # flattens the batch into the rows of one product
        together = _products(left.transpose(0, 1).reshape(1, heads, batch * rows, inner), right)
        return together.view(heads, batch, rows, right.shape[-1]).transpose(0, 1)
    return (left.reshape(batch, groups, heads // groups * rows, inner) @ right).view(
        batch, heads, rows, right.shape[-1]
    )
