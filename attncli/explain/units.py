"""Tokens counted as units, single tokens or whole words, and sums over them. No torch is imported.

As a source a unit is the sum of its tokens; as a query it is their mean. So the rows of a map still sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attncli.explain.question import Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Units:
    """The tokens of each unit of a text, the unit in focus, and the rows of attention that are watched."""

    spans: Sequence[range]
    focus: int
    rows: range  # positions of the queries; a unit is watched whole or not at all

    @property
    def queries(self) -> range:
        """The positions of the tokens in focus."""
        return self.spans[self.focus]

    @property
    def query_rows(self) -> range:
        """The same, counted from the first row that is watched."""
        return range(self.queries.start - self.rows.start, self.queries.stop - self.rows.start)

    @property
    def first(self) -> int:
        """The unit of the first row that is watched."""
        return next(at for at, span in enumerate(self.spans) if span.start == self.rows.start)

    def sum_sources(self, values: Tensor) -> Floats:
        """Values by token (..., S) -> by unit (..., units); zeros for units after the rows, which no query sees."""
        whole = np.zeros((*values.shape[:-1], self.spans[-1].stop))
        whole[..., : values.shape[-1]] = values.cpu().double().numpy()
        return np.add.reduceat(whole, [span.start for span in self.spans], axis=-1)

    def table(self, weights: Tensor) -> Floats:
        """Weights of the rows (R, S) -> (units among the rows, units), rows averaged and columns summed."""
        starts = [span.start - self.rows.start for span in self.spans if span.start in self.rows]
        sizes = np.diff([*starts, len(self.rows)])
        averaged: Floats = np.add.reduceat(self.sum_sources(weights), starts) / sizes[:, None]
        return averaged
