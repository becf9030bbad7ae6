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
from attncli.model.attention import Part
from attncli.model.cache import SharedPast
from attncli.model.distribution import distribution
from attncli.model.stack import Source
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
    """A prediction to measure: the probability of `targets` at the tokens `ids` (T,), which follow a cached past."""

    past: SharedPast | None  # None: `ids` are the whole text
    ids: Tensor
    targets: tuple[int, ...]  # the ids predicted after the last tokens; their probabilities are multiplied
    temperature: float = 1.0
    known: int | None = None  # ids of the tokenizer; larger ids only pad a matrix and are never sampled
    source: Source | None = None  # for an encoder-decoder
    columns: Mapping[Part, range] | None = None  # the sources of each attention, as `Knockout` takes them
    at: int | None = None  # the position whose prediction is measured; None: the last positions
    segments: Tensor | None = None  # (1, T), for a model with segments


def check_edges(
    model: Transformer,
    prediction: Prediction,
    edges: Mapping[int, frozenset[tuple[int, int]]],
    named: Sequence[int],
    before: Sequence[int],
    target: NextToken,
    heads: Mapping[int, Collection[int]] | None = None,
) -> EdgeChecks:
    """Computes the target's probability with each named source cut, and its mean probability over random cuts.

    A random cut removes one of the sources `before`. The mean is over all these sources, or over a sample of them.

    Args:
        model: in evaluation mode.
        prediction: the prediction whose probability is measured.
        edges: for each source, its edges to the queries in focus, as (index into `prediction.ids`, column) pairs.
        named: the sources to cut.
        before: the sources of the random cuts: all sources but the focus itself.
        target: the token predicted.
        heads: by layer, the heads in which an edge is cut; None means all heads of all layers.
    """
    drawn = _sample(before)
    wanted = sorted({*named, *drawn})
    cuts = [Cut(frozenset()), *(Cut(edges[unit], heads) for unit in wanted)]
    uncut, *after = probabilities(model, prediction, cuts)
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
    """Returns the probability of the targets under each cut. A cut's queries are indices into `prediction.ids`."""
    left: list[float] = []
    for batch in _batches(model, prediction, cuts):
        ids = prediction.ids.expand(len(batch), -1)
        source = None if prediction.source is None else prediction.source.expanded(len(batch))
        observe = Knockout(batch, prediction.columns)
        segments = None if prediction.segments is None else prediction.segments.expand(len(batch), -1)
        hidden = model.hidden(ids, prediction.past, observe, source, segments=segments)
        first = len(prediction.ids) - len(prediction.targets) if prediction.at is None else prediction.at
        probability = torch.ones(len(batch), device=hidden.device)
        for at, target in enumerate(prediction.targets, first):
            logits = model.unembed(hidden[:, at]).float()[:, : prediction.known]
            probability = probability * distribution(logits, prediction.temperature)[:, target]
        left += probability.tolist()
    return left


def _batches(model: Transformer, prediction: Prediction, cuts: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
    """Yields the cuts in batches that are small enough to keep the scores within _MOST_ELEMENTS."""
    keys = (0 if prediction.past is None else prediction.past.length) + len(prediction.ids)
    keys = max([keys, *(len(columns) for columns in (prediction.columns or {}).values())])
    rows = max(1, _MOST_ELEMENTS // (model.config.heads * len(prediction.ids) * keys))
    for at in range(0, len(cuts), rows):
        yield cuts[at : at + rows]


def within_reach(
    model: Transformer, units: Sequence[range], first_query: int, heads: Mapping[int, Collection[int]] | None
) -> list[int]:
    """Returns the units that a query can attend to, in at least one layer in which edges are cut.

    If all these layers have a window, the widest window limits the distance. Otherwise, all units are within reach.
    """
    windows = [model.config.window_of(layer) for layer in (range(model.config.layers) if heads is None else heads)]
    limited = [window for window in windows if window is not None]
    lowest = first_query - max(limited) + 1 if len(limited) == len(windows) else 0
    return [at for at, unit in enumerate(units) if unit[-1] >= lowest]
