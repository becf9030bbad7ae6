"""The network: token embedding, blocks on a residual stream, final norm, output head.

The class `Transformer` implements every shape of ModelConfig. Each switch of the config is read in one place, here or
in `attention`. There are no classes for model families. `initialize` draws new weights.

Letters: B batch, T new tokens, C model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attncli.config import ModelConfig
from attncli.model import fused
from attncli.model.activation import activate
from attncli.model.attention import Attention, Observer, RMSNorm, Rotary, rotation_table
from attncli.model.cache import KVCache
from attncli.model.fused import Dropout, head_loss


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
    """Computes x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, rotary: Rotary | None, cache: KVCache | None, observe: Observer | None) -> Tensor:
        """Applies the block: (B, T, C) -> (B, T, C)."""
        if observe is not None:
            observe.residual(self.layer, x)
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache, observe))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        if observe is not None:
            observe.feed_forward(self.layer, fed)
        return x + fed


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Returns an embedding with uninitialized weights.

    nn.Embedding would initialize them, which on the device "meta" imports modules for 0.8 s.
    """
    from_pretrained: Callable[..., nn.Embedding] = nn.Embedding.from_pretrained
    return from_pretrained(torch.empty(rows, width), freeze=False)


@lru_cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    """Rounds a number to a dtype, as transformers rounds the scale of the embedding to the dtype of the weights."""
    return float(torch.tensor(value, dtype=dtype))


class Transformer(nn.Module):
    """A causal language model.

    In training mode, `dropout` applies to the embedding and to the outputs of attention and of the feed-forward part.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = _embedding(config.vocab_size, config.width)
        self.position = _embedding(config.context, config.width) if config.positions == "learned" else None
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.layers))
        self.norm = make_norm(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.checkpoint_activations = False  # in training, recompute a block's activations in the backward pass
        self._rotary: Rotary | None = None

    def prepare(self, positions: int) -> None:
        """Computes the rotations of the first `positions` now instead of at their first use."""
        if self.config.positions == "rotary":
            self.rotation(positions)

    def new_cache(self) -> KVCache:
        """Returns an empty cache for this model, to pass to `forward`."""
        return KVCache(self.config.layers, self.config.context)

    def forward(self, ids: Tensor, cache: KVCache | None = None, observe: Observer | None = None) -> Tensor:
        """Returns the logits (B, T, V) of ids (B, T). With a cache, ids are the new tokens only.

        Raises ValueError if the tokens, including cached tokens, exceed the context.
        """
        return self.unembed(self.hidden(ids, cache, observe))

    def hidden(self, ids: Tensor, cache: KVCache | None = None, observe: Observer | None = None) -> Tensor:
        """Returns the head's input for ids (B, T): the residual stream (B, T, C) after the final norm."""
        at: slice | Tensor  # the positions of the columns, or the position of the single token of each row
        if cache is not None and cache.places is not None:
            at = cache.places.clamp(max=self.config.context - 1)[
                :, None
            ]  # the place of a row without a token may exceed the context
            end = min(cache.limit, self.config.context)
        else:
            start = cache.length if cache is not None else 0
            end = start + ids.shape[1]
            if end > self.config.context:
                raise ValueError(f"{end} tokens in a context of {self.config.context}")
            at = slice(start, end)
        x = self.embed(ids)
        if self.position is not None:
            x = x + self.position.weight[at]
        x = self.dropout(x)
        rotary = self.rotation(end).at(at, x.dtype) if self.config.positions == "rotary" else None
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            arguments = (x, rotary, cache, observe)
            x = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        if observe is not None:
            observe.residual(self.config.layers, x)
        hidden: Tensor = self.norm(x)
        return hidden

    def embed(self, ids: Tensor) -> Tensor:
        """Returns the token embeddings (..., C) of ids (...), scaled if the config requires it. Adds no positions."""
        x: Tensor = self.embedding(ids)
        return x * _rounded(math.sqrt(self.config.width), x.dtype) if self.config.scaled_embedding else x

    def unembed(self, hidden: Tensor) -> Tensor:
        """Applies the output head: hidden (..., C) -> logits (..., V)."""
        return F.linear(hidden, self.head_weight)

    def loss(self, rows: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats of rows (B, T + 1): each token but the first is predicted."""
        return head_loss(self.hidden(rows[:, :-1]), self.head_weight, rows[:, 1:])

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, C) of the output head."""
        return self.embedding.weight if self.head is None else self.head.weight

    def rotation(self, positions: int) -> Rotary:
        """Returns the rotary table for at least `positions` positions, on the device of the weights.

        The table grows with the longest text that is read, because a config may have a huge context.
        """
        device, held = self.embedding.weight.device, self._rotary
        if held is None or held.cos.device != device or len(held.cos) < positions:
            with torch.inference_mode(False):  # so that training can use a table that generation made
                held = self._rotary = rotation_table(self.config, positions, device)
        return held


@torch.no_grad()
def initialize(model: Transformer, generator: torch.Generator) -> None:
    """Draws the weights of a new model in a fixed order from a generator on the CPU.

    Matrices are drawn from a normal distribution with standard deviation 1/sqrt(input width), so that activations keep
    their scale. For the two matrices of a block that write to the residual stream, the standard deviation is also
    divided by sqrt(2 x layers) (Radford et al., 2019). Embeddings have standard deviation 0.02, because a tied head
    computes logits from them. Gains are one, biases zero.
    """
    neutral = 0.0 if model.config.unit_offset else 1.0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(neutral if "norm" in name and name.endswith("weight") else 0.0)
            continue
        std = 0.02 if name.startswith(("embedding", "position")) else 1 / math.sqrt(parameter.shape[1])
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            std /= math.sqrt(2 * model.config.layers)
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
