"""How large the largest of many cosines is by chance. No torch.

Embeddings share a common part, so any two have a cosine well above 0, and among many cosines some are large by chance.
So chance is the largest of as many cosines as were compared, drawn from a normal distribution with their mean and
standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attncli.explain.question import Floats

_ANGLES = 1 << 16  # cells of the numerical integral


@dataclass(frozen=True)
class Chance:
    """The cosines with all tokens compared, and what the largest of as many random ones would be.

    By chance the largest is below `median` in half of all draws, and below `most` in 95%.
    """

    compared: int
    average: float
    spread: float  # standard deviation
    median: float
    most: float


def chance_among(cosines: Floats) -> Chance:
    """The largest of these cosines (N,) that chance would give, if they were spread around their mean at random.

    A value is an outlier when it lies further above the mean, in standard deviations, than the largest of N normal
    draws does (Grubbs, 1950). Less their mean and over their length, N normal draws are a random direction in N - 1
    dimensions, so this is the largest cosine of random directions, scaled. The draws' sum of 0 is not accounted for:
    with a few dozen cosines the median comes out a little low, the 95% point does not. Fewer than three cosines give 1.
    """
    count = len(cosines)
    if count < 3:
        return Chance(count, float(cosines.mean()) if count else 0.0, 0.0, 1.0, 1.0)
    average, spread = float(cosines.mean()), float(cosines.std(ddof=1))
    in_spreads = (count - 1) / count**0.5  # standard deviations that one of N values can lie from their mean
    median, most = (min(average + spread * in_spreads * one, 1.0) for one in largest_by_chance(count, count - 1))
    return Chance(count, average, spread, median, most)


def largest_by_chance(vectors: int, width: int) -> tuple[float, float]:
    """The largest cosine of random vectors of this width with a fixed direction: its median and its 95% point.

    The angles have the density sin(angle)^(width - 2), so all of them exceed an angle with the probability
    (1 - F(angle))^vectors.
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
