"""Aligns the words of sentence pairs by the cross-attention of an encoder-decoder.

A `HeadSelection` says which heads are read, and at which position. Their weights are averaged. Each target word links
to the source word with the largest weight, and each source word to the target word with the largest weight. The links
of both directions are united. `head_choice` chooses a selection without gold links.

Shapes: B batch, H heads, I source words, J target words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attncli.evaluation.alignment import Link, Links, grow_diagonal_final
from attncli.evaluation.cross_attention import SHIFTS, PairBatch, Shift, batches_of, read_weights
from attncli.evaluation.pair_words import WordsOfPair
from attncli.model.transformer import Transformer

Floats = NDArray[np.float32]
HeadIndex = tuple[int, int]  # layer and head, counted from 0

AT_ONCE = 2000  # pairs that are sorted by length together


@dataclass(frozen=True)
class HeadSelection:
    """The cross-attention weights that are read as an alignment: the mean of some heads, at one of two positions."""

    heads: tuple[HeadIndex, ...]
    shift: Shift

    @property
    def layers(self) -> frozenset[int]:
        """The layers of the heads."""
        return frozenset(layer for layer, _ in self.heads)


@dataclass(frozen=True)
class Alignment:
    """The words of a pair, the cross-attention between them, and their links."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Floats  # (J, I), of each target word to each source word; the rest of a row went to other tokens
    links: tuple[Link, ...]  # (source word, target word), sorted

    @property
    def link_weights(self) -> tuple[float, ...]:
        """The weight of each link."""
        return tuple(float(self.weights[j, i]) for i, j in self.links)


def align_pairs(
    model: Transformer,
    pairs: Iterable[WordsOfPair],
    selection: HeadSelection,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Alignment]:
    """Yields the alignment of each pair, in order.

    `progress` is called with the number of pairs that are done.
    """
    left, done = iter(pairs), 0
    while some := list(islice(left, AT_ONCE)):
        found: dict[int, Floats] = {}
        for batch in batches_of(some, model):
            for number, weights in zip(batch.numbers, mean_weights(model, batch, [selection]), strict=True):
                found[number] = weights[0]
            progress(done + len(found))
        for at, pair in enumerate(some):
            yield Alignment(pair.source.words, pair.target.words, found[at], tuple(sorted(linked(found[at]))))
        done += len(some)


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
    """Returns the links of weights (J, I): those of both directions, united by grow-diag-final-and."""
    return grow_diagonal_final(*best_words(weights))
