"""Recomputes a forward pass under many cuts of attention at once, from what an uncut pass has recorded.

An edge is cut by a score of -inf before the softmax (Geva et al., 2023); a query whose keys would all be cut keeps its
keys. A head is ablated by zeros instead of its output before the output matrix. The rest is recomputed exactly.

A cut changes no earlier row of a causal decoder, so all cuts share the keys and values of the earlier rows. A cut
changes no lower layer, so it enters the batch at its own layer, with the residual stream of the uncut pass: the batch
grows from layer to layer.

Letters: B cuts, T recomputed rows, S sources, H heads, L layers, C model width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attncli.explain.page.predictions import largest
from attncli.explain.reading import Reading, ids_of
from attncli.model.attention import Attention, AttentionSteps, Observer, Part
from attncli.model.cache import KVCache, SharedPast
from attncli.model.stack import Source
from attncli.text.tokenizer import Tokenizer

_STRETCH = 512  # tokens of one chunk of the uncut pass
_MOST_LOGITS = 1 << 23  # the most logits that are computed at once


@dataclass(frozen=True)
class CutBatch:
    """Cuts in one attention that are computed together, sorted by the first layer in which they change anything."""

    part: Part
    queries: range  # the T rows of the decoder, or of the only stack, that are recomputed
    heads: Tensor  # (B, L, H), True at the heads in which a cut acts
    edges: Tensor | None  # (B, T or 1, S), True at the edges that a cut removes; None: the heads are ablated

    @cached_property
    def entering(self) -> list[int]:
        """By layer, the number of cuts that change nothing below this layer."""
        layers = self.heads.any(-1)  # (B, L)
        counts: list[int] = torch.bincount(layers.int().argmax(-1), minlength=layers.shape[1]).tolist()
        return counts

    def mask(self, layer: int, count: int) -> Tensor | None:
        """Returns the edges (B, H, T or 1, S) that the first `count` cuts remove in a layer; None if there are none."""
        acts = self.heads[:count, layer]
        if self.edges is None or not acts.any():
            return None
        return acts[:, :, None, None] & self.edges[:count, None]

    def ablated(self, layer: int, count: int) -> Tensor | None:
        """Returns the heads (B, H) that the first `count` cuts ablate in a layer; None if edges are cut."""
        return self.heads[:count, layer] if self.edges is None else None


@dataclass(frozen=True)
class Predicted:
    """The predictions of some rows: the probabilities of given candidates, and the most probable tokens."""

    kept: Tensor  # (..., K)
    ids: Tensor  # (..., n)
    probabilities: Tensor  # (..., n)


class UncutPass:
    """The residual streams of a forward pass without cuts, and in a causal decoder its keys and values.

    `hidden` recomputes the pass under cuts, and `predict` applies the output head.
    """

    def __init__(self, reading: Reading, tokenizer: Tokenizer) -> None:
        """Runs the forward pass over all rows of a reading; in an encoder-decoder, always over the rows of the decoder.

        Raises UsageProblem for a model that predicts no words.
        """
        if reading.translation is None:
            reading.require_prediction()
        self.reading, self.model, self.known = reading, reading.model, tokenizer.vocab_size
        self.causal = self.model.config.causal
        self.ids = ids_of(self.model, reading.pieces)
        with torch.inference_mode():
            record = _Recorder(self.model.config.layers)
            if self.causal:
                cache = KVCache(self.model.config.layers, self.ids.shape[1])
                for chunk in torch.split(self.ids, _STRETCH, 1):
                    self.model.hidden(chunk, cache, record, reading.source)
            else:
                self.model.hidden(self.ids, observe=record, segments=reading.segments)
        self.streams = torch.stack([torch.cat(chunks) for chunks in record.streams])  # (L + 1, T, C)
        self.keys, self.values = record.keys, record.values  # by layer, (1, K, T, D)

    @property
    def length(self) -> int:
        """The number of rows."""
        return self.ids.shape[1]

    @torch.inference_mode()
    def hidden(self, cuts: CutBatch) -> Tensor:
        """Returns the normalized residual stream (B, T, C) of the recomputed rows under each cut."""
        observe, count, translation = _Cutting(cuts), len(cuts.heads), self.reading.translation
        if cuts.part != "encoder" or translation is None:
            return self._decode(cuts.queries, cuts.entering, self.reading.source, observe)
        ids = ids_of(self.model, translation.source)
        source = self.model.read_source(ids.expand(count, -1), observe=observe)
        return self._decode(cuts.queries, [count, *[0] * (self.model.config.layers - 1)], source, observe)

    def _decode(self, rows: range, entering: list[int], source: Source | None, observe: Observer) -> Tensor:
        """Returns the stream (B, T, C) of some rows; by layer, `entering` cuts join the batch with the uncut stream."""
        model, at = self.model, slice(rows.start, rows.stop)
        rotary = bias = past = None
        if model.config.positions == "rotary":
            rotary = model.rotation(rows.stop).at(at, self.streams.dtype)
        if model.distance is not None:
            bias = model.distances(at, rows.stop)
        if self.causal and rows.start:
            keys, values = ([each[:, :, : rows.start] for each in side] for side in (self.keys, self.values))
            past = SharedPast(keys, values, model.config.context)
        x = self.streams[0, None, at][:0]
        for layer, block in enumerate(model.blocks):
            x = torch.cat((x, self.streams[layer, None, at].expand(entering[layer], -1, -1)))
            if len(x):
                x = block(x, rotary, past, observe, source, None, bias)
        hidden: Tensor = model.norm(x)
        return hidden

    @torch.inference_mode()
    def predict(self, hidden: Tensor, candidates: Tensor, most: int) -> Predicted:
        """Returns the probabilities of `candidates` (..., K) and the `most` probable tokens.

        `hidden` (..., C) is the residual stream after the final norm; its leading dimensions are those of `candidates`.
        """
        rows, at_once = hidden.flatten(0, -2), max(1, _MOST_LOGITS // self.known)
        wanted = candidates.expand(*hidden.shape[:-1], candidates.shape[-1]).flatten(0, -2)
        parts: list[tuple[Tensor, ...]] = []
        for chunk, tokens in zip(torch.split(rows, at_once), torch.split(wanted, at_once), strict=True):
            logits = self.model.unembed(chunk)[:, : self.known]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            totals = logits.logsumexp(-1, keepdim=True)
            values, ids = largest(logits, most)
            parts.append(((logits.gather(-1, tokens) - totals).exp(), ids, (values - totals).exp()))
        kept, ids, probabilities = (torch.cat(column) for column in zip(*parts, strict=True))
        shape = hidden.shape[:-1]
        return Predicted(*(each.view(*shape, -1) for each in (kept.float(), ids, probabilities.float())))

    def uncut(self, rows: range, most: int) -> Predicted:
        """Returns the `most` probable tokens of each row, with nothing cut; they are the candidates, too."""
        hidden = self.model.norm(self.streams[-1, rows.start : rows.stop])
        found = self.predict(hidden, torch.zeros(1, 1, dtype=torch.int64, device=hidden.device), most)
        return Predicted(found.probabilities, found.ids, found.probabilities)


class _Recorder(Observer):
    """Records the residual streams, chunk by chunk, and the keys and values of self-attention."""

    def __init__(self, layers: int) -> None:
        self.streams: list[list[Tensor]] = [[] for _ in range(layers + 1)]  # by layer: chunks (t, C)
        self.keys: list[Tensor] = [torch.zeros(0)] * layers  # of all chunks so far
        self.values: list[Tensor] = [torch.zeros(0)] * layers

    def residual(self, layer: int, stream: Tensor) -> None:
        self.streams[layer].append(stream[0])

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.keys[layer], self.values[layer] = steps.key, steps.value


class _Cutting(Observer):
    """Applies a batch of cuts. It watches every attention, because only observed attention shares its keys."""

    def __init__(self, cuts: CutBatch) -> None:
        self._cuts = cuts

    def watches(self, part: Part) -> bool:
        return True

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        """Sets the scores (B, H, T, S) of cut edges to -inf."""
        mask = self._cuts.mask(layer, len(scores)) if module.part == self._cuts.part else None
        if mask is None:
            return scores
        left = scores.masked_fill(mask[..., : scores.shape[-1]], -math.inf)  # later sources are not read
        blind = left.isneginf().all(-1, keepdim=True)
        return torch.where(blind, scores, left)

    def mixed(self, layer: int, mixed: Tensor, module: Attention) -> Tensor:
        """Replaces the outputs (B, H, T, D) of ablated heads by zeros."""
        heads = self._cuts.ablated(layer, len(mixed)) if module.part == self._cuts.part else None
        return mixed if heads is None else mixed.masked_fill(heads[:, :, None, None], 0)
