"""Ranks values from the greatest to the smallest; equal values keep their order. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def ranked(values: NDArray[np.floating], among: Iterable[int] | None = None) -> list[int]:
    """Returns the indices of `values` (N,), sorted by value, the greatest first.

    If `among` is given, returns only these indices.
    """
    indices = np.arange(len(values)) if among is None else np.array(list(among), int)
    order: list[int] = indices[np.argsort(-values[indices], kind="stable")].tolist()
    return order
