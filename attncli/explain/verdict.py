"""Which ranking of sources is ahead of a random one: a one-sided t test of the paired differences over texts. No torch.

The test is done for every view against random in two ways of measuring, and for every view against every other, so its
level is divided by the number of COMPARISONS (Bonferroni's correction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attncli.explain.question import Floats
from attncli.explain.student import t_quantile

Ranking = Literal["raw", "norm", "rollout", "logit", "random"]
RANKINGS: tuple[Ranking, ...] = ("raw", "norm", "rollout", "logit", "random")
LEAST_TEXTS = 8  # with fewer texts rankings cannot be told apart
_VIEWS = RANKINGS[:-1]
COMPARISONS = 2 * len(_VIEWS) + len(_VIEWS) * (len(_VIEWS) - 1)
_LEVEL = 0.05  # probability that a verdict names a ranking that is no better


@dataclass(frozen=True)
class Verdict:
    """Compares rankings by their drops, of shape (texts, rankings, sizes) in the order of RANKINGS.

    A drop with the first k sources cut is better the larger it is, one with all others cut the smaller it is.
    """

    comprehensiveness: Floats
    sufficiency: Floats

    @property
    def needed(self) -> float:
        """The standard errors that a difference must be from zero; infinite for fewer than LEAST_TEXTS texts."""
        texts = len(self.comprehensiveness)
        return t_quantile(1 - _LEVEL / COMPARISONS, texts - 1) if texts >= LEAST_TEXTS else math.inf

    def advantage(self, ranking: Ranking, *, sufficient: bool = False) -> tuple[float, float]:
        """How much better than the random ranking, averaged over sizes: the mean over texts, and its standard error."""
        drops = self.sufficiency if sufficient else self.comprehensiveness
        return _mean_and_error(_difference(drops, ranking, "random") * (-1 if sufficient else 1))

    def beats_random(self, ranking: Ranking) -> bool:
        """Whether it is ahead by more than chance explains in one way of measuring, and not behind in the other."""
        ways = [self.advantage(ranking, sufficient=sufficient) for sufficient in (False, True)]
        needed = self.needed
        ahead = any(mean > needed * error for mean, error in ways)
        return ahead and all(mean > -needed * error for mean, error in ways)

    @property
    def best(self) -> Ranking | None:
        """Of the rankings that beat the random one, that with the largest advantage, both ways together."""
        winners = [ranking for ranking in _VIEWS if self.beats_random(ranking)]
        return max(winners, key=self._both_ways, default=None)

    def _both_ways(self, ranking: Ranking) -> float:
        return sum(self.advantage(ranking, sufficient=way)[0] for way in (False, True))

    @property
    def rivals(self) -> tuple[Ranking, ...]:
        """The rankings that the best one is not ahead of by more than chance explains, both ways together."""
        best = self.best
        if best is None:
            return ()
        drops, needed = self.comprehensiveness - self.sufficiency, self.needed
        others = [ranking for ranking in _VIEWS if ranking != best]
        ahead = {ranking: _mean_and_error(_difference(drops, best, ranking)) for ranking in others}
        return tuple(ranking for ranking, (mean, error) in ahead.items() if not mean > needed * error)


def _difference(drops: Floats, one: Ranking, other: Ranking) -> Floats:
    """The drops of one ranking less those of another, averaged over sizes (texts,)."""
    difference: Floats = (drops[:, RANKINGS.index(one)] - drops[:, RANKINGS.index(other)]).mean(-1)
    return difference


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean of values (N,), and its standard error; NaN for one value."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error
