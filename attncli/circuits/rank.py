"""Compares rankings: Spearman's rank correlation, and the area under the ROC curve. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attncli.explain.question import Floats


def ranks(values: Floats) -> Floats:
    """Returns the ranks (N,) of values, from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - (counts - 1) / 2)[inverse]
    return means


def agreement(one: Floats, other: Floats) -> float:
    """Returns Spearman's rank correlation of two lists; NaN if one of them is constant."""
    first, second = ranks(one), ranks(other)
    if first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def auroc(scores: Floats, true: NDArray[np.bool_]) -> float:
    """Returns the probability that a true item has a larger score than a false one; ties count half."""
    positive = int(true.sum())
    negative = len(true) - positive
    above = ranks(scores)[true].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))
