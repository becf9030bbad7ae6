"""A pre-norm decoder as components that read and write one residual stream, computed with the model's own weights.

`record` runs a text once and keeps what every component wrote. The other functions compute the reading parts one at a
time, each from an input of its own, so that a part can get an input that differs from the stream in one write. The
arithmetic is that of `model.attention` and `model.stack`; tests hold the two equal.

Letters: N texts or runs, T tokens, H heads, K key/value heads, D head width, C model width, U writers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from attncli.circuits.graph import ComponentGraph
from attncli.circuits.running import resume
from attncli.model.attention import Attention, AttentionSteps, Observer, Rotary
from attncli.model.mask import causal_mask
from attncli.model.stack import Block
from attncli.model.transformer import Transformer

TOKENS_AT_ONCE = 8192  # the most tokens of a batch, over all its rows


@dataclass(frozen=True)
class Recorded:
    """One run of a text: the residual streams, and what every component wrote to them."""

    streams: Tensor  # (L + 1, T, C): before every layer, and before the final norm
    middles: Tensor  # (L, T, C): before the feed-forward part of every layer
    writes: Tensor  # (U, T, C): the embedding, then the heads and the feed-forward part of every layer
    query: list[Tensor]  # by layer, (H, T, D), after query norm and rotation
    key: list[Tensor]  # by layer, (K, T, D), after key norm and rotation
    value: list[Tensor]  # by layer, (K, T, D)
    mixed: list[Tensor]  # by layer, (H, T, D): weights x values
    logits: Tensor  # (V,), after the last token


class Network:
    """The components of a decoder in evaluation mode. The model must have passed `refuse_graph`."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.config = model, model.config
        self.graph = ComponentGraph.of(model.config)

    def block(self, layer: int) -> Block:
        """Returns the block of a layer."""
        return cast(Block, self.model.blocks[layer])

    def attention(self, layer: int) -> Attention:
        """Returns the self-attention of a layer."""
        return self.block(layer).attention

    def embedded(self, ids: Tensor) -> Tensor:
        """Returns the residual stream (N, T, C) before the first layer, for ids (N, T): tokens and positions."""
        watch = _First()
        self.model.hidden(ids, observe=watch)
        return watch.stream

    def record(self, ids: Tensor) -> Recorded:
        """Runs a text with ids (T,) once."""
        watch = _Recorder()
        hidden = self.model.hidden(ids[None], observe=watch)
        writes = [watch.streams[0]]
        for layer, mixed in enumerate(watch.mixes):
            writes += [*self.written(layer, mixed[None])[0], watch.fed[layer]]
        logits = self.model.unembed(hidden[0, -1])
        streams, middles = torch.stack(watch.streams), torch.stack(watch.middles)
        return Recorded(streams, middles, torch.stack(writes), watch.query, watch.key, watch.value, watch.mixes, logits)

    def written(self, layer: int, mixed: Tensor) -> Tensor:
        """Returns what each head adds to the stream, without the bias: mixed (N, H, T, D) -> (N, H, T, C)."""
        output = self.attention(layer).output.weight  # (C, H x D)
        return torch.einsum("nhtd,chd->nhtc", mixed, output.view(len(output), mixed.shape[1], -1))

    def rotary(self, tokens: int, dtype: torch.dtype) -> Rotary | None:
        """Returns the rotations of the first positions; None for a model without rotary positions."""
        if self.config.positions != "rotary":
            return None
        return self.model.rotation(tokens).at(slice(0, tokens), dtype)

    def queries(self, layer: int, x: Tensor) -> Tensor:
        """Returns the queries of all heads from inputs of their own: x (N, H or 1, T, C) -> (N, H, T, D).

        The inputs are residual streams, before the norm.
        """
        attention = self.attention(layer)
        return self._turned(attention.query_norm(self._projected(layer, attention.query, x, self.config.heads)))

    def keys(self, layer: int, x: Tensor) -> Tensor:
        """Returns the keys of all groups from inputs of their own: x (N, K or 1, T, C) -> (N, K, T, D)."""
        attention = self.attention(layer)
        return self._turned(attention.key_norm(self._projected(layer, attention.key, x, self.config.kv_heads)))

    def values(self, layer: int, x: Tensor) -> Tensor:
        """Returns the values of all groups from inputs of their own: x (N, K or 1, T, C) -> (N, K, T, D)."""
        return self._projected(layer, self.attention(layer).value, x, self.config.kv_heads)

    def _projected(self, layer: int, linear: torch.nn.Linear, x: Tensor, heads: int) -> Tensor:
        normed = self.block(layer).attention_norm(x)
        if x.shape[1] == 1:
            sides: Tensor = linear(normed[:, 0])
            return sides.view(*sides.shape[:2], heads, -1).transpose(1, 2)
        matrix = linear.weight.view(heads, -1, linear.in_features)  # (heads, D, C)
        product = torch.einsum("nhtc,hdc->nhtd", normed, matrix)
        return product if linear.bias is None else product + linear.bias.view(heads, 1, -1)

    def _turned(self, x: Tensor) -> Tensor:
        rotary = self.rotary(x.shape[2], x.dtype)
        return x if rotary is None else rotary.apply(x)

    def scores(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        """Returns the masked scores (N, H, T, T) of queries (N, H, T, D) and keys (N, K, T, D)."""
        size, tokens = self.config.heads // self.config.kv_heads, query.shape[2]
        scores = query @ key.repeat_interleave(size, 1).transpose(-1, -2)
        if self.config.scaled_scores:
            scores = scores / math.sqrt(self.config.head_width)
        if self.model.distance is not None:
            scores = scores + self.model.distances(slice(0, tokens), tokens)
        allowed = causal_mask(tokens, tokens, self.config.window_of(layer), scores.device)
        return scores.masked_fill(~allowed, -math.inf)

    def mix(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns the outputs (N, H, T, D) of the heads, before the output matrix."""
        weights = self.scores(layer, query, key).softmax(-1)
        return weights @ value.repeat_interleave(self.config.heads // self.config.kv_heads, 1)

    def feed(self, layer: int, x: Tensor) -> Tensor:
        """Returns the output of the feed-forward part for inputs x (..., T, C), residual streams before the norm."""
        block = self.block(layer)
        fed: Tensor = block.feed_forward(block.feed_forward_norm(x))
        return fed

    def from_layer(self, layer: int, x: Tensor) -> Tensor:
        """Runs the layers from `layer` on, and returns the logits (N, V) after the last token; x is (N, T, C)."""
        return self.model.unembed(resume(self.model, layer, x)[:, -1])

    def from_middle(self, layer: int, middle: Tensor) -> Tensor:
        """Runs the model from the feed-forward part of a layer on; returns the logits (N, V) after the last token."""
        return self.from_layer(layer + 1, middle + self.feed(layer, middle))

    def logits(self, x: Tensor) -> Tensor:
        """Returns the logits (N, V) after the last token, from the stream (N, T, C) before the final norm."""
        return self.model.unembed(self.model.norm(x[:, -1]))


@dataclass
class _First(Observer):
    """Keeps the stream before the first layer."""

    stream: Tensor = field(default_factory=lambda: torch.zeros(0))

    def watches(self, part: str) -> bool:
        return False

    def residual(self, layer: int, stream: Tensor) -> None:
        if layer == 0:
            self.stream = stream


@dataclass
class _Recorder(Observer):
    """Keeps the streams, and the steps of every attention, of a batch of one text."""

    streams: list[Tensor] = field(default_factory=list)
    middles: list[Tensor] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)
    query: list[Tensor] = field(default_factory=list)
    key: list[Tensor] = field(default_factory=list)
    value: list[Tensor] = field(default_factory=list)
    mixes: list[Tensor] = field(default_factory=list)

    def residual(self, layer: int, stream: Tensor) -> None:
        self.streams.append(stream[0])

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.middles.append(self.streams[-1] + steps.output[0])
        for held, tensor in ((self.query, steps.query), (self.key, steps.key), (self.value, steps.value)):
            held.append(tensor[0])
        self.mixes.append(steps.mixed[0])

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.fed.append(output[0])


def in_batches(rows: Tensor, tokens: int) -> Sequence[Tensor]:
    """Splits rows (N, ...) of texts with this number of tokens into batches of at most TOKENS_AT_ONCE tokens."""
    return torch.split(rows, max(TOKENS_AT_ONCE // tokens, 1)) if len(rows) else ()
