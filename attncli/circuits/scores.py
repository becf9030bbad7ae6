"""Why a head looks where it looks: one attention score as a sum over the components that wrote query and key.

With the scale of each norm held at its actual value, a query is a sum over the components that wrote the residual
stream of its token, and so is a key. Their product is a sum over pairs of components, plus the bias of relative
positions. The sum is exact: the norm before attention and the norms of queries and keys are frozen at their actual
scales, and the rotation is linear. Biases are a component of their own. The same decomposition of the values says what
the head wrote and which tokens that makes more probable. Computed in float64.

Letters: N components of a token, S sources, D head width, C model width, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from attncli.circuits.graph import Writer
from attncli.circuits.network import Network, Recorded
from attncli.errors import UsageProblem
from attncli.explain.contributions import output_rows, through_norm
from attncli.explain.next_token import name_of
from attncli.explain.question import Floats, refuse_length, refuse_missing
from attncli.explain.reading import ids_of
from attncli.model.attention import Attention, RMSNorm, norm_gain
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

_TOKENS = 5  # tokens that a head makes more probable


@dataclass(frozen=True)
class ScoreAttribution:
    """One attention score as a sum of terms, and what the head wrote from this source as a sum of vectors."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    layer: int
    head: int
    query: int  # token
    source: int  # token
    score: float  # as the model computes it, before the softmax
    weight: float  # after the softmax
    components: tuple[str, ...]  # of a token's stream before the layer, and at the end 'biases'
    terms: Floats  # (N, N): query component x key component
    average: Floats  # (N, N): the mean of the same terms over all sources that the query can attend to
    relative: float  # the bias of relative positions; 0 for other models
    chance: Floats  # (N, N): the standard deviation of a term whose key has a random direction and the same length
    frozen: bool  # queries and keys have norms, which are frozen at their actual scales
    written: HeadWrite

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return float(self.terms.sum()) + self.relative


@dataclass(frozen=True)
class HeadWrite:
    """The vector that a head adds to the query's token from one source: weight x value x output matrix."""

    norm: float  # the length of the written vector
    shares: Floats  # (N,): the components' projections on the written vector, as shares; they sum to 1
    tokens: tuple[tuple[int, str], ...]  # the tokens whose logits the write raises most, over the direct path
    logits: Floats  # (N, tokens): the terms of these logits, relative to the vocabulary's mean
    chance: Floats  # (N, tokens): the standard deviation of a term of a random direction with the same length


def attribute_score(
    model: Transformer, tokenizer: Tokenizer, pieces: Sequence[Piece], head: tuple[int, int], query: int, source: int
) -> ScoreAttribution:
    """Returns the terms of the score with which `head`, as (layer, head), looks from token `query` at token `source`.

    Raises UsageProblem for a head or a token that does not exist, for a source that the query cannot attend to, and for
    a model whose components do not read sums. Raises BadInput for a text that is empty or too long.
    """
    refuse_length(pieces, model.config.context)
    layer, which = head
    refuse_missing("layer", layer, model.config.layers)
    refuse_missing("head", which, model.config.heads)
    for token in (query, source):
        refuse_missing("token", token, len(pieces))
    window = model.config.window_of(layer)
    first = 0 if window is None else max(query - window + 1, 0)
    if not first <= source <= query:
        raise UsageProblem(
            f"Token {query} cannot look at token {source} in layer {layer}.", f"It looks at {first} to {query}."
        )
    with torch.inference_mode():
        network = Network(copy.deepcopy(model).double())
        run = network.record(ids_of(network.model, pieces)[0])
        return _Attribution(network, run, tokenizer, layer, which).of(tuple(pieces), query, source, first)


@dataclass(frozen=True)
class _Attribution:
    """The components of one head's queries, keys and values."""

    network: Network
    run: Recorded
    tokenizer: Tokenizer
    layer: int
    head: int

    @property
    def attention(self) -> Attention:
        """The attention of the head."""
        return self.network.attention(self.layer)

    @property
    def group(self) -> int:
        """The index of the head's keys and values."""
        return self.head * self.network.config.kv_heads // self.network.config.heads

    def of(self, pieces: tuple[Piece, ...], query: int, source: int, first: int) -> ScoreAttribution:
        """Returns the attribution of one score; the query can attend to the sources from `first` on."""
        config, attention = self.network.config, self.attention
        sides = self._side(query, attention.query, attention.query_norm, self.head)  # (N, D)
        keys = [self._side(at, attention.key, attention.key_norm, self.group) for at in range(first, query + 1)]
        scale = 1 / math.sqrt(config.head_width) if config.scaled_scores else 1.0
        products = [scale * sides @ key.T for key in keys]
        terms, lengths = products[source - first], sides.norm(dim=-1)
        chance = scale * lengths[:, None] * keys[source - first].norm(dim=-1)[None] / math.sqrt(config.head_width)
        scores = self.network.scores(self.layer, self.run.query[self.layer][None], self.run.key[self.layer][None])
        row = scores[0, self.head, query]
        relative = 0.0
        if self.network.model.distance is not None:
            bias = self.network.model.distances(slice(0, len(pieces)), len(pieces))
            relative = float(bias[0, self.head, query, source])
        weight = float(row.softmax(-1)[source])
        return ScoreAttribution(
            pieces, config.layers, config.heads, self.layer, self.head, query, source, float(row[source]), weight,
            self.names, terms.cpu().numpy(), torch.stack(products).mean(0).cpu().numpy(), relative,
            chance.cpu().numpy(), config.qk_norm, self._written(query, source, weight),
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the components."""
        start = ["embedding", "position"] if self._has_position else ["embedding"]
        return (*start, *(writer.name for writer in self._writers[1:]), "biases")

    @property
    def _writers(self) -> tuple[Writer, ...]:
        return self.network.graph.writers[: 1 + self.layer * (self.network.config.heads + 1)]

    @property
    def _has_position(self) -> bool:
        model = self.network.model
        return model.config.positions in ("learned", "sinusoidal") and model.embedding_norm is None

    def _components(self, at: int) -> Tensor:
        """Returns what was written to the stream of a token before the layer (N, C), with all output biases last."""
        writes = self.run.writes[: len(self._writers), at]
        stream = self.run.streams[self.layer, at]
        bias = stream - writes.sum(0)
        if self._has_position:
            added = cast(Tensor, self.network.model.positions(slice(at, at + 1), at + 1))[0].double()
            writes = torch.cat((torch.stack((writes[0] - added, added)), writes[1:]))
        return torch.cat((writes, bias[None]))

    def _normed(self, at: int) -> tuple[Tensor, Tensor]:
        """Returns the components (N, C) after the norm with its actual scale, and the norm's bias (C,)."""
        norm, stream = self.network.block(self.layer).attention_norm, self.run.streams[self.layer, at]
        parts = self._components(at)
        if isinstance(norm, nn.LayerNorm):
            parts = parts - parts.mean(-1, keepdim=True)
            scale = (stream.var(unbiased=False) + norm.eps).rsqrt()
            bias = torch.zeros_like(stream) if norm.bias is None else norm.bias + 0
        else:
            assert isinstance(norm, RMSNorm)
            scale, bias = (stream.square().mean() + norm.eps).rsqrt(), torch.zeros_like(stream)
        return parts * scale * norm_gain(norm), bias

    def _projected(self, at: int, linear: nn.Linear, head: int) -> Tensor:
        """Returns the components (N, D) of one head's rows of a projection, with all biases in the last one."""
        width = self.network.config.head_width
        rows = slice(head * width, (head + 1) * width)
        parts, bias = self._normed(at)
        projected = parts @ linear.weight[rows].T
        constant = bias @ linear.weight[rows].T + (0 if linear.bias is None else linear.bias[rows])
        return torch.cat((projected[:-1], projected[-1:] + constant))

    def _side(self, at: int, linear: nn.Linear, norm: nn.Module, head: int) -> Tensor:
        """Returns the components (N, D) of a query or a key, after its norm with the actual scale and the rotation."""
        parts = self._projected(at, linear, head)
        if isinstance(norm, RMSNorm):
            parts = parts * (parts.sum(0).square().mean() + norm.eps).rsqrt() * norm.gain
        rotary = self.network.rotary(at + 1, parts.dtype)
        if rotary is None:
            return parts
        last = type(rotary)(rotary.cos[at:], rotary.sin[at:])
        return last.apply(parts[None, :, None])[0, :, 0]

    def _written(self, query: int, source: int, weight: float) -> HeadWrite:
        """Returns what the head wrote from a source."""
        model, width = self.network.model, self.network.config.head_width
        columns = self.attention.output.weight[:, self.head * width : (self.head + 1) * width]  # (C, D)
        parts = weight * self._projected(source, self.attention.value, self.group) @ columns.T  # (N, C)
        whole = parts.sum(0)
        norm, last = model.norm, self.run.streams[-1, query]
        assert isinstance(norm, RMSNorm | nn.LayerNorm)
        spread = last.var(unbiased=False) if isinstance(norm, nn.LayerNorm) else last.square().mean()
        rows = output_rows(model)[: self.tokenizer.vocab_size]
        rows = rows - rows.mean(0)
        scale = (spread + norm.eps).rsqrt() / (math.sqrt(len(last)) if model.config.scaled_output else 1.0)
        raised = scale * (rows @ (norm_gain(norm) * self._centered(whole))[:, None])[:, 0]  # (V,)
        ids = raised.argsort(descending=True, stable=True)[:_TOKENS].tolist()
        directions = torch.stack([scale * through_norm(norm, rows[id_]) for id_ in ids])  # (tokens, C)
        logits = parts @ directions.T
        chance = parts.norm(dim=-1)[:, None] * directions.norm(dim=-1)[None] / math.sqrt(len(last))
        return HeadWrite(
            float(whole.norm()),
            (parts @ whole / whole.square().sum()).cpu().numpy(),
            tuple((id_, name_of(self.tokenizer, id_)) for id_ in ids),
            logits.cpu().numpy(),
            chance.cpu().numpy(),
        )

    def _centered(self, vector: Tensor) -> Tensor:
        layered = isinstance(self.network.model.norm, nn.LayerNorm)
        return vector - vector.mean() if layered else vector


def default_source(model: Transformer, pieces: Sequence[Piece], head: tuple[int, int], query: int) -> int:
    """Returns the token that a head's query attends to most."""
    with torch.inference_mode():
        network = Network(model)
        run = network.record(ids_of(model, pieces)[0])
        scores = network.scores(head[0], run.query[head[0]][None], run.key[head[0]][None])
    return int(scores[0, head[1], query].argmax())
