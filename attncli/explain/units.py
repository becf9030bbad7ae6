"""Groups tokens into units, single tokens or whole words, and sums values over units. Imports no torch.

For sources, the values of a unit's tokens are summed; for queries, they are averaged. So the rows of a map still sum to
1.
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
class Spans:
    """The tokens of each unit, as ranges of positions: the units of the rows and the units of the columns."""

    rows: Sequence[range]
    columns: Sequence[range]

    @classmethod
    def single(cls, rows: int, columns: int) -> Spans:
        """Returns spans in which every token is a unit."""
        return cls([range(at, at + 1) for at in range(rows)], [range(at, at + 1) for at in range(columns)])


@dataclass(frozen=True)
class Units:
    """The tokens of each unit, the unit in focus, and the rows of attention that are observed."""

    spans: Spans
    focus: int
    rows: range  # positions of the queries; a unit is observed whole or not at all

    @property
    def queries(self) -> range:
        """The positions of the tokens in focus."""
        return self.spans.rows[self.focus]

    @property
    def query_rows(self) -> range:
        """The rows of the tokens in focus, counted from the first observed row."""
        return range(self.queries.start - self.rows.start, self.queries.stop - self.rows.start)

    @property
    def first(self) -> int:
        """The index of the unit that starts at the first observed row."""
        return next(at for at, span in enumerate(self.spans.rows) if span.start == self.rows.start)

    def sum_sources(self, values: Tensor) -> Floats:
        """Sums the values of tokens (..., S) to the values of units (..., units).

        Units after the last row are masked; their sums are 0.
        """
        whole = np.zeros((*values.shape[:-1], self.spans.columns[-1].stop))
        whole[..., : values.shape[-1]] = values.cpu().double().numpy()
        return np.add.reduceat(whole, [span.start for span in self.spans.columns], axis=-1)

    def table(self, weights: Tensor) -> Floats:
        """Returns weights by unit: (R, S) -> (observed units, units).

        The weights are averaged over the rows of a unit, and summed over the columns of a unit.
        """
        starts = [span.start - self.rows.start for span in self.spans.rows if span.start in self.rows]
        sizes = np.diff([*starts, len(self.rows)])
        averaged: Floats = np.add.reduceat(self.sum_sources(weights), starts) / sizes[:, None]
        return averaged
