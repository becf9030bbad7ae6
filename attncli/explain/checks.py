"""What each source is worth to the prediction: the edge from it to the token in focus is cut, in all heads and layers
or in those asked for.

One batched pass, each row of it with another cut, over the queries in focus alone: everything before them is the same
with and without a cut, so its keys and values are those of the pass that was watched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.explain.findings import EdgeChecks, NextToken
from attncli.explain.knockout import Cut, Knockout
from attncli.model.cache import SharedPast
from attncli.model.distribution import distribution
from attncli.model.transformer import Transformer

_SAMPLE = 32  # cuts drawn at random
_MOST_ELEMENTS = 1 << 24  # of a layer's scores, for all rows of a batch


@dataclass(frozen=True)
class Prediction:
    """What is checked: the prediction after the last of the queries `ids` (T,), which stand after the past."""

    past: SharedPast
    ids: Tensor
    target: int
    temperature: float = 1.0
    known: int | None = None  # ids that have a meaning: the others, which only fill a matrix, are never drawn


def check_edges(
    model: Transformer,
    asked: Prediction,
    units: Sequence[range],
    named: Sequence[int],
    target: NextToken,
    heads: Mapping[int, Collection[int]] | None = None,
) -> EdgeChecks:
    """Cuts every named unit off, and for comparison those before the focus, all of them or a sample.

    Units are the sources, as ranges of positions, the last of them the one in focus; `named` are indices into them. The
    random cut is the mean over cuts of any one unit before the focus that can be seen. Cut in these `heads` by layer,
    in all when not given.
    """
    start, end = asked.past.length, asked.past.length + len(asked.ids)
    before = [unit for unit in _within_reach(model, units, start, heads) if unit < len(units) - 1]
    drawn = before
    if len(before) > _SAMPLE:
        order = torch.randperm(len(before), generator=torch.Generator().manual_seed(0))
        drawn = [before[at] for at in order[:_SAMPLE].tolist()]
    wanted = sorted({*named, *drawn})
    edges = [
        frozenset((query - start, source) for query in range(start, end) for source in units[unit] if source <= query)
        for unit in wanted
    ]
    uncut, *after = probabilities(model, asked, [Cut(frozenset()), *(Cut(some, heads) for some in edges)])
    found = dict(zip(wanted, after, strict=True))
    return EdgeChecks(
        token=NextToken(target.id, target.text, uncut),
        sources=tuple(named),
        probabilities=tuple(found[unit] for unit in named),
        random=sum(found[unit] for unit in drawn) / len(drawn) if drawn else None,
        random_cuts=len(drawn),
        random_of=len(before),
    )


@torch.inference_mode()
def probabilities(model: Transformer, asked: Prediction, cuts: Sequence[Cut]) -> list[float]:
    """The probability of the target under each cut; queries are counted from the first of `ids`."""
    found: list[float] = []
    for part in _chunks(model, asked, cuts):
        ids = asked.ids.expand(len(part), -1)
        hidden = model.hidden(ids, asked.past, Knockout(part))[:, -1]
        logits = model.unembed(hidden).float()[:, : asked.known]
        found += distribution(logits, asked.temperature)[:, asked.target].tolist()
    return found


def _chunks(model: Transformer, asked: Prediction, cuts: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
    seen = asked.past.length + len(asked.ids)
    rows = max(1, _MOST_ELEMENTS // (model.config.heads * len(asked.ids) * seen))
    for at in range(0, len(cuts), rows):
        yield cuts[at : at + rows]


def _within_reach(
    model: Transformer, units: Sequence[range], first_query: int, heads: Mapping[int, Collection[int]] | None
) -> list[int]:
    """The units that a query can see in some layer that is cut: with a window everywhere, not the far past."""
    windows = [model.config.window_of(layer) for layer in (range(model.config.layers) if heads is None else heads)]
    reach = [window for window in windows if window is not None]
    lowest = first_query - max(reach) + 1 if len(reach) == len(windows) else 0
    return [at for at, unit in enumerate(units) if unit[-1] >= lowest]
