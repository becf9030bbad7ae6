"""Records one attention of a reading for the page: weights, shares, rollout and vectors of every head, in one pass.

The share of a source is what `explain.sources` computes for one row, here for all rows at once. Let f_h(x_j) be the
value vector of source j times head h's columns of the output matrix. A head's share of source j in row i is
|a_hij f_h(x_j)| divided by its sum over j, and |f_h(x_j)| does not depend on the row. The share of a layer is
|sum over h of a_hij f_h(x_j)| divided by its sum over j; the squared norm is a_ij' G_j a_ij with the Gram matrix
G_j (H, H) of the vectors f_h(x_j), so the vectors of a row are never formed. The vectors f_h(x_j) are formed for a few
sources at a time.

A pass records only the rows that it is asked for. The columns are all tokens up to the last of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.contributions import by_head
from attncli.explain.defaults import AttentionPart
from attncli.explain.head_map import alignment_scores
from attncli.explain.question import MapAxes
from attncli.explain.reading import Observers, Reading
from attncli.explain.rollout import RolloutRows
from attncli.explain.units import Spans
from attncli.explain.words import word_spans
from attncli.model.attention import Attention, AttentionSteps, Observer, Part

Array = NDArray[np.float32]
_THUMBNAIL = 32  # cells along the side of a thumbnail
_VECTOR_ROWS = 16  # rows whose queries are kept, if the queries of all rows are too many
_MOST_WRITTEN = 1 << 24  # numbers of the vectors f_h(x_j) that are formed at once
_PASS_BYTES = (
    1 << 30
)  # the most bytes of one layer's weights, and of all layers' averages, in a pass over all rows of a long text


@dataclass(frozen=True)
class Vectors:
    """Queries, keys and values of some heads in some rows, with the scores and the lengths of what the heads write."""

    heads: tuple[tuple[int, int], ...]  # (layer, head) of each of the N heads
    rows: range  # Q rows
    query: Array  # (N, Q, D), after query norm and rotation
    key: Array  # (N, S, D), after key norm and rotation
    value: Array  # (N, S, D)
    scores: Array  # (N, Q, S): query . key, / sqrt(D) if `divided`, plus the bias of relative positions; 0 if masked
    written: Array  # (N, Q): the length of the vector that the head adds to the attention output
    divided: bool


@dataclass(frozen=True)
class Thumbnails:
    """Every head's weights over all rows: the largest weight of each square of `pool` x `pool` tokens."""

    pool: int
    weights: Array  # (L, H, P, Q)


@dataclass(frozen=True)
class PageAttention:
    """One attention of a text: the weights and shares of every head in the stored rows."""

    part: AttentionPart
    axes: MapAxes  # in tokens
    words: Spans
    windows: tuple[int | None, ...]  # by layer
    rows: range  # the R stored rows
    raw: Array  # (L, H, R, S): attention weights
    norm: Array  # (L, H, R, S): norm-weighted shares of each head
    layer_shares: Array  # (L, R, S): norm-weighted shares of all heads together
    busiest: tuple[int, int]  # (layer, head) that brings most from other tokens to the row in focus
    rollout: Array | None  # (R, S); None for cross-attention and for texts that are too long
    even: Array | None  # (R, S): the rollout of uniform attention
    thumbnails: Thumbnails | None  # None if all rows are stored
    vectors: Vectors | None

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of layers and of heads per layer."""
        return self.raw.shape[0], self.raw.shape[1]


@torch.inference_mode()
def page_attention(
    reading: Reading, rows: range, focus: int, *, vectors: int = 0, more: Observer | None = None
) -> PageAttention:
    """Records the one attention of a reading in `rows`; `focus` is the row for which the busiest head is found.

    `vectors` is the most numbers of queries, keys and values that are kept; 0 keeps none. `more` observes the same
    forward pass, for example to record the residual stream.
    """
    (part,) = reading.parts
    axes, count = reading.axes, len(reading.axes.rows)
    record = _Recorder(reading, rows, focus)
    whole = len(rows) == count
    rolled = RolloutRows(reading, rows) if whole and part != "cross" else None
    reading.run(rows, Observers([each for each in (record, rolled, more) if each is not None]))
    rollout, even = (None, None) if rolled is None else (rolled.product(rows), rolled.even(rows))
    thumbnails = None
    if not whole and 4 * reading.heads * count * len(axes.columns) <= _PASS_BYTES:
        rollout, even, thumbnails = _long_pass(reading, part, rows)
    busiest = record.busiest()
    return PageAttention(
        part="encoder" if part == "decoder" and not reading.model.config.causal else part,
        axes=axes,
        words=word_spans(reading),
        windows=tuple(
            reading.model.config.window_of(layer) if part == "decoder" and reading.causal else None
            for layer in range(reading.layers)
        ),
        rows=rows,
        raw=_stacked(record.raw),
        norm=_stacked(record.norm),
        layer_shares=_stacked(record.layer_shares),
        busiest=busiest,
        rollout=None if rollout is None else _array(rollout),
        even=None if even is None else _array(even),
        thumbnails=thumbnails,
        vectors=record.vectors(vectors, busiest) if vectors else None,
    )


def _long_pass(reading: Reading, part: Part, rows: range) -> tuple[Tensor | None, Tensor | None, Thumbnails]:
    """Returns the rollout and its baseline (R, S) in `rows` of a long text, and the thumbnails of all rows.

    The weights of one layer are in memory at a time, and for the rollout the averages over the heads of all layers.
    There is no rollout if these need more than _PASS_BYTES.
    """
    everything = range(len(reading.axes.rows))
    pool = math.ceil(max(len(everything), len(reading.axes.columns)) / _THUMBNAIL)
    pooled, rolled = _Pooled(pool), RolloutRows(reading, everything)
    rolls = part != "cross" and 4 * reading.layers * len(everything) ** 2 <= _PASS_BYTES
    reading.run(everything, Observers([pooled, rolled] if rolls else [pooled]))
    thumbnails = Thumbnails(pool, _stacked(pooled.layers))
    return (rolled.product(rows), rolled.even(rows), thumbnails) if rolls else (None, None, thumbnails)


def _stacked(layers: Sequence[Tensor]) -> Array:
    return _array(torch.stack(list(layers)))


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array


@dataclass
class _Recorder(Observer):
    """Records weights and shares of every layer, and what the vectors of the heads are cut from."""

    reading: Reading
    rows: range
    focus: int
    raw: list[Tensor] = field(default_factory=list)  # (H, R, S) per layer
    norm: list[Tensor] = field(default_factory=list)  # (H, R, S) per layer
    layer_shares: list[Tensor] = field(default_factory=list)  # (R, S) per layer
    _brought: list[Tensor] = field(default_factory=list)  # (H,) per layer: from other tokens to the focus
    _steps: list[tuple[AttentionSteps, Attention]] = field(default_factory=list)

    def _at(self, rows: range) -> slice:
        """Returns where some of the rows are in the forward pass: an encoder always computes all rows."""
        before = self.rows.start if self.reading.causal else 0
        return slice(rows.start - before, rows.stop - before)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        recorded = steps.weights[0, :, self._at(self.rows)].cpu()  # (H, R, S)
        weights = recorded.double()
        value = by_head(steps.value[0], module.heads).cpu().double()  # (H, S, D)
        matrix = module.output.weight.cpu().double().view(-1, module.heads, module.head_width)  # (C, H, D)
        lengths, together = _norms(weights, value, matrix)
        norms = weights * lengths[:, None]
        self.raw.append(weights.float())
        self.norm.append(_normalized(norms))
        self.layer_shares.append(_normalized(together))
        self._brought.append(self._from_others(norms, recorded))
        self._steps.append((steps, module))

    def _from_others(self, norms: Tensor, weights: Tensor) -> Tensor:
        """Returns how much each head (H,) brings to the focus. For cross-attention, returns its alignment scores."""
        axes = self.reading.axes
        if axes.part == "cross":
            special = axes.columns[-1].special and weights.shape[-1] > 1
            return alignment_scores(weights[..., :-1] if special else weights).double()
        row = norms[:, self.focus - self.rows.start].clone()  # (H, S)
        for source in (axes.itself(self.focus), *axes.apart(self.focus)):
            if source is not None:
                row[:, source] = 0
        return row.sum(-1)

    def busiest(self) -> tuple[int, int]:
        """Returns the (layer, head) that brings most to the focus."""
        brought = torch.stack(self._brought)
        layer, head = divmod(int(brought.argmax()), brought.shape[1])
        return layer, head

    def vectors(self, most: int, busiest: tuple[int, int]) -> Vectors:
        """Returns the vectors of all heads, or of the busiest heads and of some rows, with at most `most` numbers."""
        sources, width = self.raw[0].shape[-1], self._steps[0][1].head_width
        total = len(self.raw) * len(self.raw[0])
        rows = self.rows
        if total * (len(rows) + 2 * sources) * width > most:
            first = max(self.rows.start, min(self.focus - _VECTOR_ROWS + 1, self.rows.stop - _VECTOR_ROWS))
            rows = range(first, min(first + _VECTOR_ROWS, self.rows.stop))
        count = max(1, min(total, most // ((len(rows) + 2 * sources) * width)))
        order = torch.stack(self._brought).flatten().argsort(descending=True).tolist()[:count]
        heads = sorted({busiest, *(divmod(at, len(self.raw[0])) for at in order)})
        each = [self._of_head(layer, head, self._at(rows)) for layer, head in heads]
        query, key, value, scores, written = (np.stack(arrays) for arrays in zip(*each, strict=True))
        return Vectors(tuple(heads), rows, query, key, value, scores, written, self._steps[0][1].scaled)

    def _of_head(self, layer: int, head: int, seen: slice) -> tuple[Array, Array, Array, Array, Array]:
        steps, module = self._steps[layer]
        shared = head // (module.heads // module.kv_heads)
        scores = steps.scores[0, head, seen]
        columns = slice(head * module.head_width, (head + 1) * module.head_width)
        written = steps.mixed[0, head, seen] @ module.output.weight[:, columns].T
        return (
            _array(steps.query[0, head, seen]),
            _array(steps.key[0, shared]),
            _array(steps.value[0, shared]),
            _array(scores.masked_fill(scores.isinf(), 0)),
            _array(written.norm(dim=-1)),
        )


def _norms(weights: Tensor, value: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns |f_h(x_j)| for each head and source (H, S), and |sum over h of a_hij f_h(x_j)| for each edge (R, S).

    `weights` are a_hij (H, R, S), `value` (H, S, D), and `matrix` the output matrix (C, H, D). The vectors f_h(x_j)
    are formed for at most _MOST_WRITTEN / (H x C) sources at once, and for at least one. In float64, they take at most
    128 MiB, or the 8 x H x C bytes of one source.
    """
    at_once = max(1, _MOST_WRITTEN // (len(value) * len(matrix)))
    lengths, together = [], []
    for some, seen in zip(torch.split(value, at_once, 1), torch.split(weights, at_once, 2), strict=True):
        written = torch.einsum("chd,hsd->shc", matrix, some)
        gram = written @ written.mT  # (s, H, H)
        by_source = seen.permute(2, 0, 1)  # (s, H, R)
        lengths.append(gram.diagonal(dim1=1, dim2=2).T)
        together.append(((gram @ by_source) * by_source).sum(1).T)
    return torch.cat(lengths, 1).clamp_min(0).sqrt(), torch.cat(together, 1).clamp_min(0).sqrt()


def _normalized(norms: Tensor) -> Tensor:
    """Divides norms (..., S) by their sum over the sources."""
    return (norms / norms.sum(-1, keepdim=True).clamp_min(1e-30)).float()


class _Pooled(Observer):
    """Pools the weights of each layer by maximum."""

    def __init__(self, pool: int) -> None:
        self.pool = pool
        self.layers: list[Tensor] = []  # (H, P, Q)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.layers.append(F.max_pool2d(steps.weights[0].float(), self.pool, ceil_mode=True).cpu())
