"""Computes one head's attention map: of the given head, or of the head that contributes most to the focus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.explain.question import Floats, Focus
from attncli.explain.units import Units
from attncli.model.mask import causal_mask


@dataclass(frozen=True)
class HeadMap:
    """One head's attention weights: a row is a query, a column is a source.

    The map has a row for each of the T tokens or, in a long text, only the R rows around the focus.
    """

    layer: int
    head: int
    weights: Floats  # (R, T), rows sum to 1, 0 above the diagonal
    asked_for: bool  # False: the head is the one that contributes most to the focus from other tokens
    previous_token: float | None  # mean weight on the previous token, over all rows except that of token 0
    previous_token_chance: float | None  # the same mean for uniform attention
    first_row: int = 0  # the token index of the first row


@dataclass
class BusiestHead:
    """Observes one layer at a time, and keeps the weights of the head that contributes most to the focus."""

    focus: Focus
    units: Units
    _busiest: float = -1.0
    _map: tuple[int, int, Tensor] | None = None  # layer, head, weights (R, S)
    _window: int | None = None  # of the map's layer

    def take(self, layer: int, weights: Tensor, contributed: list[tuple[Tensor, Tensor]], window: int | None) -> None:
        """Observes one layer: weights (H, R, S), and the contribution norms of each row in focus."""
        norms = torch.stack([per_head for per_head, _ in contributed]).mean(0)  # (H, S)
        queries, first = self.units.queries, self.units.spans[0]
        norms[:, queries.start : queries.stop] = 0
        if self.units.focus > 1:
            norms[:, : first.stop] = 0  # idle heads often attend to the first token
        brought = norms.sum(-1)
        head = int(brought.argmax()) if self.focus.head is None else self.focus.head
        if float(brought[head]) > self._busiest:
            self._busiest = float(brought[head])
            self._map = (layer, head, weights[head].float().clone())  # a view would keep the whole layer in memory
            self._window = window

    def head_map(self) -> HeadMap:
        """Returns the map of the busiest head, with its previous-token score on this text."""
        assert self._map is not None
        layer, head, weights = self._map
        allowed = causal_mask(len(self.units.rows), self.units.rows.stop, self._window, weights.device).double()
        table = self.units.table(weights)
        even = self.units.table(allowed / allowed.sum(-1, keepdim=True))
        asked_for = self.focus.head is not None and self.focus.layer is not None
        first = self.units.first
        scores = previous_token_score(table, first), previous_token_score(even, first)
        return HeadMap(layer, head, table, asked_for, *scores, first)


def previous_token_score(weights: Floats, first: int = 0) -> float | None:
    """Returns the mean weight on the previous token, over the rows of `weights` (R, T).

    `first` is the token index of the first row. The row of token 0 is skipped, because token 0 has no previous token.
    Returns None if there is no other row.
    """
    before = [float(row[at - 1]) for at, row in enumerate(weights, first) if at]
    return sum(before) / len(before) if before else None
