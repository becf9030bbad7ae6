"""The stack of blocks that an encoder and a decoder have in common: positions, attention, feed-forward, norms.

`transformer` builds a model from stacks, an embedding and an output head.

Letters: B batch, T new tokens, S source tokens, H heads, K key/value heads, D head width, C model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attncli.config import ModelConfig
from attncli.model import fused
from attncli.model.activation import activate
from attncli.model.attention import Attention, Observer, Part, RMSNorm, Rotary, rotation_table
from attncli.model.cache import KVCache
from attncli.model.fused import Dropout
from attncli.model.positions import distance_buckets, sinusoid_table


def make_norm(config: ModelConfig) -> nn.Module:
    """Returns a new norm of the config's kind, for the input of attention, the feed-forward part or the head."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps, config.unit_offset)
    return nn.LayerNorm(config.width, config.norm_eps, bias=config.norm_bias)


class FeedForward(nn.Module):
    """Computes down(activation(up(x))). With a gate, computes down(activation(gate(x)) * up(x)).

    The gated forms are SwiGLU and GEGLU (Shazeer, 2020).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner, bias = config.width, config.feed_forward_width, config.feed_forward_bias
        self.activation = config.activation
        self.gate = nn.Linear(width, inner, bias=bias) if config.gated else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the feed-forward part: (B, T, C) -> (B, T, C)."""
        if self.gate is None:
            inner = activate(self.activation, self.up(x))
        elif self.gate.bias is None and fused.worth_it(x):
            inner = fused.gated_product(fused.joined(x, self.gate, self.up), self.activation)
        else:
            inner = activate(self.activation, self.gate(x)) * self.up(x)
        output: Tensor = self.down(inner)
        return output


class Block(nn.Module):
    """Computes x + attention(norm(x)), then x + feed_forward(norm(x)).

    In a decoder with an encoder, x + cross_attention(norm(x)) is between the two. In a post-norm model, each norm is
    applied to the sum: norm(x + attention(x)) (Vaswani et al., 2017).
    """

    def __init__(self, config: ModelConfig, layer: int, dropout: float, part: Part = "decoder") -> None:
        super().__init__()
        self.layer, self.pre_norm = layer, config.pre_norm
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer, part)
        crosses = part == "decoder" and config.encoder_layers > 0
        self.cross_norm = make_norm(config) if crosses else None
        self.cross_attention = Attention(config, layer, "cross") if crosses else None
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None,
        cache: KVCache | None,
        observe: Observer | None,
        source: Source | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Applies the block: (B, T, C) -> (B, T, C).

        `mask` and `bias` apply to self-attention; cross-attention attends to `source`.
        """
        if observe is not None:
            observe.residual(self.layer, x)
        attention, cross = self.attention, self.cross_attention
        x = self._add(x, self.attention_norm, lambda y: attention(y, rotary, cache, observe, mask=mask, bias=bias))
        if cross is not None:
            assert source is not None and self.cross_norm is not None
            pair, hidden = source.layers[self.layer], source.mask
            x = self._add(x, self.cross_norm, lambda y: cross(y, None, None, observe, source=pair, mask=hidden))
        return self._add(x, self.feed_forward_norm, lambda y: self._fed(y, observe))

    def _add(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Adds the output of a part of the block to the residual stream x, with the norm before or after."""
        y: Tensor = x + self.dropout(part(norm(x))) if self.pre_norm else norm(x + self.dropout(part(x)))
        return y

    def _fed(self, x: Tensor, observe: Observer | None) -> Tensor:
        fed: Tensor = self.feed_forward(x)
        if observe is not None:
            observe.feed_forward(self.layer, fed)
        return fed


@dataclass(frozen=True)
class Source:
    """The encoded source texts of a batch, to which every decoder layer attends: computed once per text."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # for each decoder layer: keys and values (B, K, S, D)
    mask: Tensor | None  # (B, 1, 1, S), True at tokens, False at padding; None if no source has padding

    def expanded(self, rows: int) -> Source:
        """Returns the source of a batch of `rows` rows that all have this single source text, without a copy."""
        layers = tuple((key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)) for key, value in self.layers)
        return Source(layers, None if self.mask is None else self.mask.expand(rows, -1, -1, -1))


def make_embedding(rows: int, width: int) -> nn.Embedding:
    """Returns an embedding with uninitialized weights.

    nn.Embedding would initialize the weights. On the device "meta", this imports modules for 0.8 s.
    """
    from_pretrained: Callable[..., nn.Embedding] = nn.Embedding.from_pretrained
    return from_pretrained(torch.empty(rows, width), freeze=False)


def padding_mask(mask: Tensor | None) -> Tensor | None:
    """Returns a mask (B, S) as (B, 1, 1, S), the shape that attention needs; None remains None."""
    return None if mask is None else mask[:, None, None]


class Stack(nn.Module):
    """The positions, the blocks on a residual stream and the final norm: a decoder, or an encoder."""

    def __init__(
        self, config: ModelConfig, part: Part, layers: int, dropout: float, embedding: nn.Embedding | None = None
    ) -> None:
        """`embedding` becomes a part of this stack; a stack without one gets its input from another embedding."""
        super().__init__()
        self.config, self.part = config, part
        if embedding is not None:
            self.embedding = embedding
        rows = config.context + config.position_offset
        self.position = make_embedding(rows, config.width) if config.positions == "learned" else None
        self.segment = make_embedding(config.segments, config.width) if config.segments else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, layer, dropout, part) for layer in range(layers))
        self.distance = (
            make_embedding(config.relative_buckets, config.heads) if config.positions == "relative" else None
        )
        self.norm = make_norm(config) if config.pre_norm else nn.Identity()
        self.checkpoint_activations = False  # in training, recompute a block's activations in the backward pass
        self._rotary: Rotary | None = None
        self._sinusoids: Tensor | None = None

    def prepare(self, positions: int) -> None:
        """Computes the rotations or sinusoids of the first `positions` now instead of at their first use."""
        if self.config.positions == "rotary":
            self.rotation(positions)
        elif self.config.positions == "sinusoidal":
            self._sinusoids_of(positions)

    def run(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        observe: Observer | None = None,
        *,
        source: Source | None = None,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Applies the stack to embedded tokens: (B, T, C) -> (B, T, C), after the final norm.

        Args:
            x: the embeddings of the tokens, without positions; with a cache, of the new tokens only.
            cache: the keys and values of earlier tokens.
            observe: receives the intermediate results.
            source: the encoded source texts, for a decoder with an encoder.
            mask: (B, 1, 1, T), True at tokens, False at padding; None if there is no padding.
            segments: (B, T), the segment of each token, for a model with segments; None means segment 0.

        Raises ValueError if the tokens, including cached tokens, exceed the context.
        """
        at, end = self._positions(x, cache)
        x = self._with_positions(x, at, end, segments)
        rotary = self.rotation(end).at(at, x.dtype) if self.config.positions == "rotary" else None
        bias = None if self.distance is None else self.distances(at, end)
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            arguments = (x, rotary, cache, observe, source, mask, bias)
            x = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        if observe is not None:
            observe.residual(len(self.blocks), x)
        hidden: Tensor = self.norm(x)
        return hidden

    def _positions(self, x: Tensor, cache: KVCache | None) -> tuple[slice | Tensor, int]:
        """Returns the positions of x (B, T, C), and the number of positions that its queries can attend to.

        The positions are a slice, or (B, 1) if each row has one token, and the rows have different positions.
        """
        context = self.config.context
        if cache is not None and cache.places is not None:
            # the position of an unused row may exceed the context
            return cache.places.clamp(max=context - 1)[:, None], cache.limit
        start = cache.length if cache is not None else 0
        end = start + x.shape[1]
        if end > context:
            raise ValueError(f"{end} tokens in a context of {context}")
        return slice(start, end), end

    def _with_positions(self, x: Tensor, at: slice | Tensor, end: int, segments: Tensor | None) -> Tensor:
        """Adds the positions and segments to embedded tokens, then applies the norm and the dropout of the input."""
        positions = self.positions(at, end)
        if positions is not None:
            x = x + positions.to(x.dtype)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        embedded: Tensor = self.dropout(x)
        return embedded

    def positions(self, at: slice | Tensor, end: int) -> Tensor | None:
        """Returns the learned or sinusoidal positions (T, C) or (B, 1, C); None if the model adds no positions."""
        if self.position is not None:
            return self.position.weight[_moved(at, self.config.position_offset)]
        if self.config.positions == "sinusoidal":
            return self._sinusoids_of(min(end, self.config.context))[at]
        return None

    def rotation(self, positions: int) -> Rotary:
        """Returns the rotary table for at least `positions` positions, on the device of the weights.

        The table grows with the longest text that is read, because a config may have a huge context.
        """
        positions = min(positions, self.config.context)
        device, held = self.device, self._rotary
        if held is None or held.cos.device != device or len(held.cos) < positions:
            with torch.inference_mode(False):  # training can use a table that generation made
                held = self._rotary = rotation_table(self.config, positions, device)
        return held

    def _sinusoids_of(self, positions: int) -> Tensor:
        """Returns the sinusoids (P, C) of at least `positions` positions, on the device of the weights."""
        device, held = self.device, self._sinusoids
        if held is None or held.device != device or len(held) < positions:
            with torch.inference_mode(False):
                held = self._sinusoids = sinusoid_table(self.config, positions, device)
        return held

    def distances(self, at: slice | Tensor, keys: int) -> Tensor:
        """Returns the bias (1 or B, H, T, S) of relative positions for queries at `at` and the first `keys` keys."""
        assert self.distance is not None
        at_key = torch.arange(keys, device=self.device)
        at_query = at_key[at][:, None] if isinstance(at, slice) else at[:, :, None]  # (T, 1) or (B, 1, 1)
        buckets = distance_buckets(at_key - at_query, self.config, causal=self.part == "decoder" and self.config.causal)
        bias: Tensor = self.distance(buckets)  # (T, S, H) or (B, 1, S, H)
        return bias.movedim(-1, -3).reshape(-1, self.config.heads, at_query.shape[-2], keys)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


def _moved(at: slice | Tensor, offset: int) -> slice | Tensor:
    return slice(at.start + offset, at.stop + offset) if isinstance(at, slice) else at + offset
