"""Computes one head's attention map: of the given head, or of the head that contributes most to the focus.

For cross-attention, it is by default the head that aligns best: a `KnownHead`, or else the head whose weights look most
like an alignment.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attncli.explain.question import Floats, Focus, MapAxes
from attncli.explain.units import Units


@dataclass(frozen=True)
class HeadMap:
    """One head's attention weights: a row is a query, a column is a source.

    The map has a row for each of the T tokens or, in a long text, only the R rows around the focus.
    """

    layer: int
    head: int
    weights: Floats  # (R, S), rows sum to 1; 0 at masked columns
    asked_for: bool  # False: the head is the one that contributes most to the focus from other tokens
    previous_token: float | None  # mean weight on the previous token, over all rows except that of token 0
    previous_token_chance: float | None  # the same mean for uniform attention
    axes: MapAxes
    first_row: int = 0  # the index of the first row
    aligning: float | None = None  # the score for which the head was chosen as aligning; None if it was not
    agrees: bool = False  # whether `aligning` is the agreement of a `KnownHead`


@dataclass(frozen=True)
class KnownHead:
    """The head of cross-attention whose links agree best with what the predictions lose without each source token."""

    layer: int
    head: int
    agreement: float  # F1


@dataclass
class BusiestHead:
    """Observes one layer at a time, and keeps the weights of the head that contributes most to the focus."""

    focus: Focus
    units: Units
    axes: MapAxes  # in units
    _busiest: float = -1.0
    _map: tuple[int, int, Tensor] | None = None  # layer, head, weights (R, S)
    _allowed: Tensor = field(default_factory=lambda: torch.ones(1, 1))  # (R, S), the mask of the map's layer

    def take(self, layer: int, weights: Tensor, contributed: list[tuple[Tensor, Tensor]], allowed: Tensor) -> None:
        """Observes one layer: weights (H, R, S), the contribution norms of each row in focus, and the mask (R, S)."""
        norms = torch.stack([per_head for per_head, _ in contributed]).mean(0)  # (H, S)
        focus, columns = self.units.focus, self.units.spans.columns
        for unit in (self.axes.itself(focus), *self.axes.apart(focus)):
            if unit is not None:
                norms[:, columns[unit].start : columns[unit].stop] = 0
        brought = norms.sum(-1)
        head = int(brought.argmax()) if self.focus.head is None else self.focus.head
        if float(brought[head]) > self._busiest:
            self._busiest = float(brought[head])
            self._map = (layer, head, weights[head].float().clone())  # a view would keep the whole layer in memory
            self._allowed = allowed

    def head_map(self) -> HeadMap:
        """Returns the map of the busiest head, with its previous-token score on this text if the map is square."""
        assert self._map is not None
        layer, head, weights = self._map
        allowed = self._allowed.double()
        table = self.units.table(weights)
        asked_for = self.focus.head is not None and self.focus.layer is not None
        first = self.units.first
        scores: tuple[float | None, float | None] = None, None
        if self.axes.squared:
            even = self.units.table(allowed / allowed.sum(-1, keepdim=True))
            scores = previous_token_score(table, first), previous_token_score(even, first)
        return HeadMap(layer, head, table, asked_for, *scores, self.axes, first)


@dataclass
class AligningHead:
    """Observes cross-attention layer by layer, and keeps the known head, or the one most like an alignment."""

    units: Units
    axes: MapAxes  # in units, of cross-attention
    known: KnownHead | None = None
    _best: tuple[float, int, int, Tensor] | None = None  # score, layer, head, weights (R, S)

    def take(self, layer: int, weights: Tensor) -> None:
        """Observes one layer: weights (H, R, S)."""
        if self.known is not None:
            if layer == self.known.layer:
                self._best = self.known.agreement, layer, self.known.head, weights[self.known.head].float().clone()
            return
        last = self.axes.columns[-1]
        words = weights[..., :-1] if last.special and weights.shape[-1] > 1 else weights
        scores = alignment_scores(words)
        head = int(scores.argmax())
        if self._best is None or float(scores[head]) > self._best[0]:
            self._best = float(scores[head]), layer, head, weights[head].float().clone()

    def head_map(self) -> HeadMap:
        """Returns the map of the best head."""
        assert self._best is not None
        score, layer, head, weights = self._best
        shown, agrees = self.units.table(weights), self.known is not None
        return HeadMap(layer, head, shown, False, None, None, self.axes, self.units.first, score, agrees)


def alignment_scores(weights: Tensor) -> Tensor:
    """Returns the alignment score (H,) of each head, given its weights (H, T, S) without the source's end token.

    The end token is left out, because idle heads attend to it. The score is sharpness x coverage, from 0 to 1.
    Sharpness is the mean over target tokens of the greatest weight. Coverage is the mean over source tokens of the
    greatest weight that the token gets from any target token. A head that attends to a single token has low coverage;
    a uniform head is low in both.
    """
    sharpness, coverage = weights.amax(-1).mean(-1), weights.amax(-2).mean(-1)
    return sharpness * coverage


def previous_token_score(weights: Floats, first: int = 0) -> float | None:
    """Returns the mean weight on the previous token, over the rows of `weights` (R, T).

    `first` is the token index of the first row. The row of token 0 is skipped, because token 0 has no previous token.
    Returns None if there is no other row.
    """
    before = [float(row[at - 1]) for at, row in enumerate(weights, first) if at]
    return sum(before) / len(before) if before else None
