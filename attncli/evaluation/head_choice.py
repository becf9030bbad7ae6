"""Chooses which cross-attention heads are read as an alignment, and at which position, without gold links.

Candidates are every head, the mean of the heads of each layer, and the mean of all heads, each at both positions. They
link the words of the same pairs. The best candidate is the one whose links agree most with a reference without
attention: the links of an HMM that is trained on these pairs. An HMM learns little from few pairs. With few pairs, the
reference is what the model's predictions lose without each source word (`prediction_drops`), and only the means are
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal

import numpy as np
import torch

from attncli.errors import UsageProblem
from attncli.evaluation.alignment import SHIFTS, Links, intersection
from attncli.evaluation.bitext import lowered
from attncli.evaluation.cross_attention import batches_of
from attncli.evaluation.ibm import Aligner
from attncli.evaluation.link_matrices import HeadIndex, HeadSelection, drops_of, linked, links_of_drops, mean_weights
from attncli.evaluation.pair_words import WordsOfPair
from attncli.model.transformer import Transformer

MOST_PAIRS = 500  # that candidates are compared on
_FEWEST_PAIRS = 30  # from which the links of an HMM choose better heads than those of predictions
_MOST_WORK = 2e10  # parameters x tokens of the forward passes for one pair: about a second on two CPU cores


@dataclass(frozen=True)
class Choice:
    """The chosen selection, and how it was chosen."""

    selected: HeadSelection
    criterion: Literal["hmm", "prediction"] | None = None  # the reference; None if the selection was given
    value: float | None = None  # the agreement, as F1
    candidates: int = 1  # the number of selections that were compared
    pairs: int = 0  # the number of pairs on which they were compared


def sample_of(count: int, most: int = MOST_PAIRS) -> list[int]:
    """Returns the indices of at most `most` of `count` pairs, evenly spread."""
    indices: list[int] = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return indices


def selections_of(
    model: Transformer, heads: Sequence[HeadIndex] = (), layer: int | None = None, shift: str | None = None
) -> list[HeadSelection]:
    """Returns the selections to choose from: the mean of `heads`, or of a layer's heads, or by default all.

    By default, the candidates are every head, and the means of each layer and of all heads. With `shift`, only this
    position is read. Raises UsageProblem for a layer or head that does not exist.
    """
    layers, count = model.config.layers, model.config.heads
    for what, indices, most in (
        ("layer", [at for at, _ in heads] + ([] if layer is None else [layer]), layers),
        ("head", [head for _, head in heads], count),
    ):
        wrong = next((index for index in indices if not 0 <= index < most), None)
        if wrong is not None:
            raise UsageProblem(f"There is no {what} {wrong} of cross-attention.", f"There are {most}: 0 to {most - 1}.")
    if heads:
        groups = [tuple(heads)]
    else:
        means = [tuple((at, head) for head in range(count)) for at in (range(layers) if layer is None else [layer])]
        whole = [tuple(chain(*means))] if layer is None and layers > 1 else []
        single = [((at, head),) for at, head in chain(*means)] if layer is None and count > 1 else []
        groups = [*single, *means, *whole]
    return [HeadSelection(group, one) for group in groups for one in SHIFTS if shift in (None, one)]


def choose_heads(model: Transformer, pairs: Sequence[WordsOfPair], candidates: Sequence[HeadSelection]) -> Choice:
    """Returns the candidate that agrees best with the reference on `pairs`; of equal candidates, the first."""
    if len(candidates) == 1:
        return Choice(candidates[0])
    few = len(pairs) < _FEWEST_PAIRS
    if few:
        candidates = [one for one in candidates if len(one.heads) > 1] or candidates
    reference = _links_of_predictions(model, pairs) if few else _links_of_hmm(pairs)
    links: list[list[Links]] = [[frozenset()] * len(pairs) for _ in candidates]
    for batch in batches_of(pairs, model):
        for number, weights in zip(batch.numbers, mean_weights(model, batch, candidates), strict=True):
            for at, each in enumerate(weights):
                links[at][number] = linked(each)
    values = [agreement(some, reference) for some in links]
    best = int(np.argmax(values))
    return Choice(candidates[best], "prediction" if few else "hmm", values[best], len(candidates), len(pairs))


def head_of_pair(model: Transformer, pair: WordsOfPair) -> Choice | None:
    """Returns the choice among single heads, where a target word is predicted, for one pair.

    Returns None if a side has no words, or if the prediction drops would take too long.
    """
    source, target = pair.source, pair.target
    work = (len(source.words) + 1) * (len(source.ids) + len(target.ids)) * sum(map(torch.numel, model.parameters()))
    if not source.words or not target.words or work > _MOST_WORK:
        return None
    heads = product(range(model.config.layers), range(model.config.heads))
    return choose_heads(model, [pair], [HeadSelection((head,), "output") for head in heads])


def agreement(found: Sequence[Links], reference: Sequence[Links]) -> float:
    """Returns F1 of two alignments of the same pairs: 1 if all links are equal, 0 if none is in both."""
    both = sum(len(one & other) for one, other in zip(found, reference, strict=True))
    return 2 * both / max(sum(map(len, found)) + sum(map(len, reference)), 1)


def _links_of_hmm(pairs: Sequence[WordsOfPair]) -> list[Links]:
    """Trains an HMM on the pairs, and returns the links that both of its directions have."""
    aligner = Aligner([(lowered(pair.source.words), lowered(pair.target.words)) for pair in pairs])
    return [intersection(*both) for both in zip(*aligner.links(), strict=True)]


def _links_of_predictions(model: Transformer, pairs: Sequence[WordsOfPair]) -> list[Links]:
    """Returns the links between words that need each other most, by prediction drops."""
    links: list[Links] = [frozenset()] * len(pairs)
    for batch in batches_of(pairs, model, rows=True):
        for number, drops in zip(batch.numbers, drops_of(model, batch), strict=True):
            links[number] = links_of_drops(drops)
    return links
