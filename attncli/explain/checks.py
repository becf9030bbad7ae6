"""What each source is worth to the prediction: its edge to the token in focus is cut, in all heads or those asked for.

One batched pass cuts a different edge in each row, and computes only the queries in focus. All tokens before them are
the same with and without a cut, so their keys and values are taken from the pass that was observed.
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

_SAMPLE = 32  # sources cut for the random cut, at most
_MOST_ELEMENTS = 1 << 24  # of a layer's scores, for all rows of a batch


@dataclass(frozen=True)
class EdgeChecks:
    """The most probable next token, and what is left of its probability when an edge to the focus is cut.

    An edge is cut in the heads and layers that the shares are of, by a score of -inf (Geva et al., 2023).
    """

    token: NextToken  # its probability is that with nothing cut
    sources: tuple[int, ...]
    probabilities: tuple[float, ...]  # with the edge from each of these sources cut
    random: float | None  # the mean over cuts of single sources before the focus; None where none can be seen
    random_cuts: int  # how many sources that mean is over
    random_of: int  # how many sources there are before the focus


@dataclass(frozen=True)
class Prediction:
    """The prediction that is checked: of `target` after the last of the queries `ids` (T,), which follow a past."""

    past: SharedPast
    ids: Tensor
    target: int
    temperature: float = 1.0
    known: int | None = None  # ids that the tokenizer has; the rest only pad a matrix, and are never drawn


def check_edges(
    model: Transformer,
    prediction: Prediction,
    units: Sequence[range],
    named: Sequence[int],
    target: NextToken,
    heads: Mapping[int, Collection[int]] | None = None,
) -> EdgeChecks:
    """Cuts every named unit off, and for the random cut all units before the focus, or a sample of them.

    Args:
        model: in evaluation mode.
        prediction: what is measured.
        units: the sources, as ranges of positions; the last of them is the one in focus.
        named: indices into the units.
        target: the token predicted.
        heads: the heads of each layer in which an edge is cut; None is all heads of all layers.
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
    """At most _SAMPLE of the units, the same ones each time."""
    if len(units) <= _SAMPLE:
        return units
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(0))
    return [units[at] for at in order[:_SAMPLE].tolist()]


@torch.inference_mode()
def probabilities(model: Transformer, prediction: Prediction, cuts: Sequence[Cut]) -> list[float]:
    """The probability of the target under each cut; the queries of a cut are counted from the first of `ids`."""
    left: list[float] = []
    for batch in _batches(model, prediction, cuts):
        ids = prediction.ids.expand(len(batch), -1)
        hidden = model.hidden(ids, prediction.past, Knockout(batch))[:, -1]
        logits = model.unembed(hidden).float()[:, : prediction.known]
        left += distribution(logits, prediction.temperature)[:, prediction.target].tolist()
    return left


def _batches(model: Transformer, prediction: Prediction, cuts: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
    """The cuts, in batches whose scores stay within _MOST_ELEMENTS."""
    keys = prediction.past.length + len(prediction.ids)
    rows = max(1, _MOST_ELEMENTS // (model.config.heads * len(prediction.ids) * keys))
    for at in range(0, len(cuts), rows):
        yield cuts[at : at + rows]


def _within_reach(
    model: Transformer, units: Sequence[range], first_query: int, heads: Mapping[int, Collection[int]] | None
) -> list[int]:
    """The units that the first query can see in some layer that is cut; windows in all of them limit how far back."""
    windows = [model.config.window_of(layer) for layer in (range(model.config.layers) if heads is None else heads)]
    limited = [window for window in windows if window is not None]
    lowest = first_query - max(limited) + 1 if len(limited) == len(windows) else 0
    return [at for at, unit in enumerate(units) if unit[-1] >= lowest]
