"""How strongly a model links the words of a pair, as a matrix, and the links of such a matrix.

A matrix (J, I) has a row for each target word and a column for each source word. It contains the weights of
cross-attention, averaged over the heads of a `HeadSelection`, or the nats that the prediction of each target word loses
without each source word (`drops_of`).

Shapes: B batch, H heads, I source words, J target words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attncli.evaluation.alignment import SHIFTS, Links, Shift, grow_diagonal_final, intersection
from attncli.evaluation.cross_attention import PairBatch, prediction_drops, read_weights
from attncli.model.transformer import Transformer

Floats = NDArray[np.floating[Any]]
HeadIndex = tuple[int, int]  # layer and head, counted from 0

_TINY = 1e-30  # keeps a quotient finite


@dataclass(frozen=True)
class HeadSelection:
    """The cross-attention weights that are read as an alignment: the mean of some heads, at one of two positions."""

    heads: tuple[HeadIndex, ...]
    shift: Shift

    @property
    def layers(self) -> frozenset[int]:
        """The layers of the heads."""
        return frozenset(layer for layer, _ in self.heads)


def mean_weights(model: Transformer, batch: PairBatch, selections: Sequence[HeadSelection]) -> list[list[Floats]]:
    """Returns for each pair of a batch, and for each selection, the mean weights (J, I) of its heads."""
    totals: list[Tensor | None] = [None] * len(selections)

    def add(layer: int, weights: Tensor) -> None:
        for at, selection in enumerate(selections):
            heads = [head for of, head in selection.heads if of == layer]
            if heads:
                some, total = weights[SHIFTS.index(selection.shift)][:, heads].sum(1), totals[at]
                totals[at] = some if total is None else total + some

    read_weights(model, batch, add)
    means = [
        (total / len(selection.heads)).cpu().numpy()
        for total, selection in zip(totals, selections, strict=True)
        if total is not None
    ]
    sizes = [(len(pair.target.words), len(pair.source.words)) for pair in batch.pairs]
    return [[mean[row, :targets, :sources] for mean in means] for row, (targets, sources) in enumerate(sizes)]


def best_words(weights: Floats) -> tuple[Links, Links]:
    """Returns the links of weights (J, I) in two directions: the best source word of each target word, and vice versa.

    A word without tokens has no weights, and no link.
    """
    sources, targets = weights.argmax(1), weights.argmax(0)
    return (
        frozenset((int(i), j) for j, i in enumerate(sources) if weights[j, i] > 0),
        frozenset((i, int(j)) for i, j in enumerate(targets) if weights[j, i] > 0),
    )


def linked(weights: Floats) -> Links:
    """Returns the links of attention weights (J, I): those of both directions, united by grow-diag-final-and.

    The strength of a link is the product of two shares: that of the weight in its row, and that in its column.
    """
    rows, columns = weights.sum(1, keepdims=True), weights.sum(0, keepdims=True)
    return grow_diagonal_final(*best_words(weights * weights / np.maximum(rows * columns, _TINY)))


def drops_of(model: Transformer, batch: PairBatch) -> list[Floats]:
    """Returns the prediction drops (J, I) of each pair of a batch, which is one with `rows`."""
    drops = prediction_drops(model, batch).cpu().numpy()
    return [
        drops[row, : len(pair.target.words), : len(pair.source.words)].copy() for row, pair in enumerate(batch.pairs)
    ]


def links_of_drops(drops: Floats) -> Links:
    """Returns the links of prediction drops (J, I): each is the strongest of its source word and of its target word.

    The strength of a link is the product of two softmax values: over the source words, and over the target words. Words
    are not linked if the prediction loses nothing.
    """
    return intersection(*best_words(np.where(drops > 0, softmax(drops, 0) * softmax(drops, 1), 0)))


def softmax(values: Floats, axis: int) -> Floats:
    """Returns exp(values) / sum(exp(values)) along an axis."""
    exponentials = np.exp(values - values.max(axis, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(axis, keepdims=True)
    return shares
