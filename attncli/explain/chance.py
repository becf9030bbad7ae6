"""Estimates how large the largest of many cosines would be by chance. This module imports no torch.

Embeddings share a common component, so any two have a cosine well above 0, and among many cosines some are large by
chance. The baseline is therefore the largest of N draws from a normal distribution with the mean and the standard
deviation of the N cosines that are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attncli.explain.question import Floats

_ANGLES = 1 << 16  # intervals of the numerical integration


@dataclass(frozen=True)
class Chance:
    """The mean and the spread of N cosines, and the size of the largest of N random cosines.

    The largest random cosine is below `median` in half of all draws, and below `most` in 95% of all draws.
    """

    compared: int  # N
    average: float
    spread: float  # standard deviation
    median: float
    most: float


def chance_among(cosines: Floats) -> Chance:
    """Returns the mean and the spread of cosines (N,), and how large the largest of N random cosines would be.

    A cosine is an outlier if it is further above the mean, in standard deviations, than the largest of N normal draws
    (Grubbs, 1950). N normal draws minus their mean, scaled to length 1, are a random direction in N - 1 dimensions. So
    the largest draw is, up to a factor, the largest cosine of this direction with N axes. `largest_by_chance` treats
    these N cosines as independent, although they sum to 0. So for a few dozen cosines the median is slightly too low;
    the 95% point is not affected.

    For fewer than three cosines, the median and the 95% point are 1.
    """
    count = len(cosines)
    if count < 3:
        return Chance(count, float(cosines.mean()) if count else 0.0, 0.0, 1.0, 1.0)
    average, spread = float(cosines.mean()), float(cosines.std(ddof=1))
    in_spreads = (count - 1) / count**0.5  # the greatest distance of one of N values from their mean, in spreads
    median, most = (min(average + spread * in_spreads * one, 1.0) for one in largest_by_chance(count, count - 1))
    return Chance(count, average, spread, median, most)


def largest_by_chance(vectors: int, width: int) -> tuple[float, float]:
    """Returns the median and the 95% point of the largest cosine between random vectors and a fixed direction.

    In `width` dimensions, the angle between a random vector and a fixed direction has a density proportional to
    sin(angle)^(width - 2). If F is the cumulative distribution of this angle, the probability that all angles exceed x
    is (1 - F(x))^vectors.
    """
    if width < 2 or not vectors:
        return 1.0, 1.0
    edges = np.linspace(0, np.pi, _ANGLES + 1)
    logarithms = (width - 2) * np.log(np.sin((edges[1:] + edges[:-1]) / 2))
    upto = np.concatenate([[0], np.cumsum(np.exp(logarithms - logarithms.max()))])
    median, most = (
        float(np.cos(np.interp(-np.expm1(np.log(probability) / vectors), upto / upto[-1], edges)))
        for probability in (0.5, 0.95)
    )
    return median, most
