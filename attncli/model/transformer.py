"""The network: token embedding, decoder stack, output head; with an encoder stack if the model translates.

The class `Transformer` implements every shape of ModelConfig. Each switch of the config is read in one place: here, in
`stack`, in `attention` or in `positions`. There are no classes for model families. `initialize` draws new weights.

Letters: B batch, T new tokens, S source tokens, C model width, V vocabulary.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.config import ModelConfig
from attncli.model.activation import activate
from attncli.model.attention import Observer
from attncli.model.cache import KVCache
from attncli.model.fused import head_loss
from attncli.model.stack import Block, Source, Stack, make_embedding, make_norm, padding_mask


@lru_cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    """Rounds a number to a dtype, as transformers rounds the scale of the embedding to the dtype of the weights."""
    return float(torch.tensor(value, dtype=dtype))


class Transformer(Stack):
    """A causal language model, an encoder-decoder, or an encoder alone: the shapes of ModelConfig.

    The stack is the decoder. An encoder-decoder also has `encoder`, a stack that reads the source with the same token
    embedding. In training mode, `dropout` applies to the embedding and to the outputs of attention and of the
    feed-forward part.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__(config, "decoder", config.layers, dropout, make_embedding(config.vocab_size, config.width))
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.head_transform = nn.Linear(config.width, config.width) if config.head_transform else None
        self.head_norm = make_norm(config) if config.head_transform else None
        encodes = config.encoder_layers > 0
        self.encoder = Stack(config, "encoder", config.encoder_layers, dropout) if encodes else None

    def new_cache(self) -> KVCache:
        """Returns an empty cache for this model, to pass to `forward`."""
        return KVCache(self.config.layers, self.config.context)

    def forward(
        self, ids: Tensor, cache: KVCache | None = None, observe: Observer | None = None, source: Source | None = None
    ) -> Tensor:
        """Returns the logits (B, T, V) of ids (B, T). With a cache, ids are the new tokens only.

        An encoder-decoder needs the `source` that `read_source` returns. Raises ValueError if the tokens, including
        cached tokens, exceed the context.
        """
        return self.unembed(self.hidden(ids, cache, observe, source))

    def hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        observe: Observer | None = None,
        source: Source | None = None,
        *,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Returns the head's input for ids (B, T): the residual stream (B, T, C) after the final norm.

        For an encoder alone, `mask` (B, T) is True at tokens and False at padding, and `segments` (B, T) are the
        segments of the tokens.
        """
        return self.run(self.embed(ids), cache, observe, source=source, mask=padding_mask(mask), segments=segments)

    def encode(self, ids: Tensor, mask: Tensor | None = None, observe: Observer | None = None) -> Tensor:
        """Returns the encoder's output (B, S, C) for ids (B, S). `mask` (B, S) is False at padding, or None."""
        assert self.encoder is not None
        return self.encoder.run(self.embed(ids), observe=observe, mask=padding_mask(mask))

    def read_source(self, ids: Tensor, mask: Tensor | None = None, observe: Observer | None = None) -> Source:
        """Encodes ids (B, S), and returns the keys and values of every cross-attention layer. `mask` is as in `encode`.

        `observe` receives the encoder's intermediate results.
        """
        return self.source_of(self.encode(ids, mask, observe), mask)

    def source_of(self, encoded: Tensor, mask: Tensor | None = None) -> Source:
        """Returns the keys and values of every cross-attention layer for an encoder's output (B, S, C)."""
        crossing = [block.cross_attention for block in self.blocks if isinstance(block, Block)]
        pairs = tuple(cross.keys_values(encoded) for cross in crossing if cross is not None)
        return Source(pairs, padding_mask(mask))

    def embed(self, ids: Tensor) -> Tensor:
        """Returns the token embeddings (..., C) of ids (...), scaled if the config requires it. Adds no positions."""
        x: Tensor = self.embedding(ids)
        return x * self.embedding_scale(x.dtype) if self.config.scaled_embedding else x

    def embedding_scale(self, dtype: torch.dtype) -> float:
        """Returns the factor of the token embeddings, rounded to their dtype."""
        return _rounded(math.sqrt(self.config.width), dtype) if self.config.scaled_embedding else 1.0

    def unembed(self, hidden: Tensor) -> Tensor:
        """Applies the output head: hidden (..., C) -> logits (..., V)."""
        if self.head_transform is not None and self.head_norm is not None:
            hidden = self.head_norm(activate(self.config.activation, self.head_transform(hidden)))
        if self.config.scaled_output:
            hidden = hidden / _rounded(math.sqrt(self.config.width), hidden.dtype)
        return F.linear(hidden, self.head_weight, self.head_bias)

    def loss(self, rows: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats of rows (B, T + 1): each token but the first is predicted."""
        return self._nats(self.hidden(rows[:, :-1]), rows[:, 1:])

    def translation_loss(
        self, ids: Tensor, mask: Tensor | None, inputs: Tensor, labels: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Returns the mean cross-entropy in nats of target tokens, given source texts.

        Args:
            ids: the source texts (B, S).
            mask: (B, S), True at tokens, False at padding; None if there is no padding.
            inputs: the tokens (B, T) that the decoder reads.
            labels: the tokens (B, T) to predict, negative at padding.
            smoothing: the label smoothing, which changes the gradient only (`fused.head_loss`).
        """
        hidden = self.hidden(inputs, source=self.read_source(ids, mask))
        predicted = labels >= 0
        return self._nats(hidden[predicted], labels[predicted], smoothing)

    def _nats(self, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Returns the mean cross-entropy in nats of targets (...), given the head's input (..., C).

        The loss is computed in float32 or wider, and `smoothing` changes its gradient only, as in `fused.head_loss`.
        """
        if self.head_bias is None and self.head_transform is None and not self.config.scaled_output:
            return head_loss(hidden, self.head_weight, targets, smoothing)
        logits = self.unembed(hidden).flatten(0, -2)
        logs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        nats = F.nll_loss(logs, targets.flatten())
        if smoothing == 0:
            return nats
        smoothed = (1 - smoothing) * nats - smoothing * logs.mean()
        return smoothed + (nats - smoothed).detach()

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The decoder stack, and the encoder stack if there is one."""
        return (self,) if self.encoder is None else (self, self.encoder)

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, C) of the output head."""
        return self.embedding.weight if self.head is None else self.head.weight


def _written_per_stack(config: ModelConfig, name: str) -> int:
    """Returns how many matrices write to the residual stream of one stack: the one with the parameter `name`."""
    if name.startswith("encoder."):
        return 2 * config.encoder_layers
    return (3 if config.encoder_layers else 2) * config.layers


@torch.no_grad()
def initialize(model: Transformer, generator: torch.Generator) -> None:
    """Draws the weights of a new model in a fixed order from a generator on the CPU.

    Matrices are drawn from a normal distribution with standard deviation 1/sqrt(input width), so that activations keep
    their scale. For the N matrices that write to the residual stream of a stack, the standard deviation is also divided
    by sqrt(N) (Radford et al., 2019). Embeddings have standard deviation 0.02, because a tied head computes logits from
    them. If sinusoids, with values up to 1, are added to scaled embeddings, token embeddings have standard deviation
    1/sqrt(C), which scaling makes 1 (benchmarks/README.md, "The recipe for pairs"). Gains are one, biases zero.
    """
    neutral = 0.0 if model.config.unit_offset else 1.0
    beside_sinusoids = model.config.positions == "sinusoidal" and model.config.scaled_embedding
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(neutral if "norm" in name and name.endswith("weight") else 0.0)
            continue
        tables = ("embedding", "position", "segment", "distance")
        std = 0.02 if name.removeprefix("encoder.").startswith(tables) else 1 / math.sqrt(parameter.shape[1])
        if name == "embedding.weight" and beside_sinusoids:
            std = 1 / math.sqrt(model.config.width)
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            std /= math.sqrt(_written_per_stack(model.config, name))
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
