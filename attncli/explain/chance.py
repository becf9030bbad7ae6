"""How large the largest of many cosines would be by chance. No torch.

Embeddings share a common component, so any two have a cosine well above 0, and among many cosines some are large by
chance. The baseline is therefore the largest of N draws from a normal distribution that has the mean and the standard
deviation of the N cosines compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attncli.explain.question import Floats

_ANGLES = 1 << 16  # intervals of the numerical integration


@dataclass(frozen=True)
class Chance:
    """The mean and spread of the cosines compared, and how large the largest of as many random cosines would be.

    The largest random cosine is below `median` in half of all draws, and below `most` in 95% of them.
    """

    compared: int
    average: float
    spread: float  # standard deviation
    median: float
    most: float


def chance_among(cosines: Floats) -> Chance:
    """Computes how large the largest of N cosines would be by chance, from the mean and spread of these cosines (N,).

    A value is an outlier when it lies further above the mean, in standard deviations, than the largest of N normal
    draws does (Grubbs, 1950). N normal draws, less their mean and divided by their norm, are a random direction in N -
    1 dimensions, so the baseline is the largest cosine of random directions, scaled. The baseline ignores that such
    draws sum to 0. As a result, the median is slightly too low for a few dozen cosines; the 95% point is not affected.
    For fewer than three cosines, the median and the 95% point are 1.
    """
    count = len(cosines)
    if count < 3:
        return Chance(count, float(cosines.mean()) if count else 0.0, 0.0, 1.0, 1.0)
    average, spread = float(cosines.mean()), float(cosines.std(ddof=1))
    in_spreads = (count - 1) / count**0.5  # the most standard deviations that one of N values can lie from the mean
    median, most = (min(average + spread * in_spreads * one, 1.0) for one in largest_by_chance(count, count - 1))
    return Chance(count, average, spread, median, most)


def largest_by_chance(vectors: int, width: int) -> tuple[float, float]:
    """Returns the median and the 95% point of the largest cosine of random vectors with a fixed direction.

    The angles have the density sin(angle)^(width - 2). With F as its cumulative distribution, all of them exceed an
    angle with the probability (1 - F(angle))^vectors.
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
