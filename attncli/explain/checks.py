"""Measures how much a prediction depends on each source, by cutting the edge from the source to the token in focus.

An edge is cut in all heads or in selected heads. One batched pass cuts a different edge in each row, and computes only
the queries in focus. A cut does not change the tokens before the focus, so their keys and values come from the forward
pass that was already observed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.explain.knockout import Cut, Knockout
from attncli.explain.next_token import NextToken
from attncli.model.cache import SharedPast
from attncli.model.distribution import distribution
from attncli.model.transformer import Transformer

_SAMPLE = 32  # the most sources over which the random cut is averaged
_MOST_ELEMENTS = 1 << 24  # the most attention scores of one layer, over all rows of a batch


@dataclass(frozen=True)
class EdgeChecks:
    """The most probable next token, and its probability when an edge to the focus is cut.

    An edge is cut by a score of -inf (Geva et al., 2023), in the heads and layers for which the shares are computed.
    """

    token: NextToken  # with its probability when nothing is cut
    sources: tuple[int, ...]
    probabilities: tuple[float, ...]  # of the token, when the edge from each source is cut
    random: float | None  # mean over random cuts of one source before the focus; None without such a source
    random_cuts: int  # the number of random cuts
    random_of: int  # the number of sources before the focus


@dataclass(frozen=True)
class Prediction:
    """A prediction to measure: the probability of `target` after the tokens `ids` (T,), which follow a cached past."""

    past: SharedPast
    ids: Tensor
    target: int
    temperature: float = 1.0
    known: int | None = None  # ids of the tokenizer; larger ids only pad a matrix and are never sampled


def check_edges(
    model: Transformer,
    prediction: Prediction,
    units: Sequence[range],
    named: Sequence[int],
    target: NextToken,
    heads: Mapping[int, Collection[int]] | None = None,
) -> EdgeChecks:
    """Computes the target's probability with each named source cut, and its mean probability over random cuts.

    A random cut removes one unit before the focus. The mean is over all these units, or over a sample of them.

    Args:
        model: in evaluation mode.
        prediction: the prediction whose probability is measured.
        units: the sources, as ranges of positions; the last unit is in focus.
        named: the sources to cut, as indices into `units`.
        target: the token predicted.
        heads: by layer, the heads in which an edge is cut; None means all heads of all layers.
    """
    start, end = prediction.past.length, prediction.past.length + len(prediction.ids)
    before = [unit for unit in _within_reach(model, units, start, heads) if unit < len(units) - 1]
    drawn = _sample(before)
    wanted = sorted({*named, *drawn})
    edges = [
        frozenset((query - start, source) for query in range(start, end) for source in units[unit] if source <= query)
        for unit in wanted
    ]
    uncut, *after = probabilities(model, prediction, [Cut(frozenset()), *(Cut(some, heads) for some in edges)])
    left = dict(zip(wanted, after, strict=True))
    return EdgeChecks(
        token=NextToken(target.id, target.text, uncut),
        sources=tuple(named),
        probabilities=tuple(left[unit] for unit in named),
        random=sum(left[unit] for unit in drawn) / len(drawn) if drawn else None,
        random_cuts=len(drawn),
        random_of=len(before),
    )


def _sample(units: Sequence[int]) -> Sequence[int]:
    """Returns at most _SAMPLE of the units, drawn with a fixed seed."""
    if len(units) <= _SAMPLE:
        return units
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(0))
    return [units[at] for at in order[:_SAMPLE].tolist()]


@torch.inference_mode()
def probabilities(model: Transformer, prediction: Prediction, cuts: Sequence[Cut]) -> list[float]:
    """Returns the probability of the target under each cut. A cut's queries are indices into `prediction.ids`."""
    left: list[float] = []
    for batch in _batches(model, prediction, cuts):
        ids = prediction.ids.expand(len(batch), -1)
        hidden = model.hidden(ids, prediction.past, Knockout(batch))[:, -1]
        logits = model.unembed(hidden).float()[:, : prediction.known]
        left += distribution(logits, prediction.temperature)[:, prediction.target].tolist()
    return left


def _batches(model: Transformer, prediction: Prediction, cuts: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
    """Yields the cuts in batches that are small enough to keep the scores within _MOST_ELEMENTS."""
    keys = prediction.past.length + len(prediction.ids)
    rows = max(1, _MOST_ELEMENTS // (model.config.heads * len(prediction.ids) * keys))
    for at in range(0, len(cuts), rows):
        yield cuts[at : at + rows]


def _within_reach(
    model: Transformer, units: Sequence[range], first_query: int, heads: Mapping[int, Collection[int]] | None
) -> list[int]:
    """Returns the units that the first query can attend to, in at least one layer in which edges are cut.

    If all these layers have a window, the widest window limits the distance. Otherwise, all units are within reach.
    """
    windows = [model.config.window_of(layer) for layer in (range(model.config.layers) if heads is None else heads)]
    limited = [window for window in windows if window is not None]
    lowest = first_query - max(limited) + 1 if len(limited) == len(windows) else 0
    return [at for at, unit in enumerate(units) if unit[-1] >= lowest]
