"""Tests which rankings of sources are better than a random one: a one-sided paired t test over texts. Imports no torch.

Every ranking is tested against random by two measures, and against every other ranking. So the significance level is
divided by the number of COMPARISONS (Bonferroni's correction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attncli.explain.question import Floats
from attncli.explain.student import t_quantile

Ranking = Literal["raw", "norm", "rollout", "logit", "random"]
RANKINGS: tuple[Ranking, ...] = ("raw", "norm", "rollout", "logit", "random")
_VIEWS = RANKINGS[:-1]
COMPARISONS = 2 * len(_VIEWS) + len(_VIEWS) * (len(_VIEWS) - 1)
_LEVEL = 0.05  # probability that a verdict wrongly calls a ranking better


@dataclass(frozen=True)
class Verdict:
    """Compares rankings by their drops (texts, rankings, sizes). The rankings are in the order of RANKINGS.

    For `comprehensiveness`, the first k sources are cut, and a larger drop is better. For `sufficiency`, all other
    sources are cut, and a smaller drop is better.
    """

    comprehensiveness: Floats
    sufficiency: Floats

    @property
    def needed(self) -> float:
        """The number of standard errors that a difference must exceed to be significant."""
        return t_quantile(1 - _LEVEL / COMPARISONS, len(self.comprehensiveness) - 1)

    def advantage(self, ranking: Ranking, *, sufficient: bool = False) -> tuple[float, float]:
        """Returns the mean over texts of a ranking's advantage over random, and the standard error of this mean.

        In each text, the advantage is averaged over sizes. The measure is sufficiency if `sufficient` is true,
        otherwise comprehensiveness.
        """
        drops = self.sufficiency if sufficient else self.comprehensiveness
        return _mean_and_error(_difference(drops, ranking, "random") * (-1 if sufficient else 1))

    def beats_random(self, ranking: Ranking) -> bool:
        """Whether a ranking is significantly better than random by one measure, and significantly worse by none."""
        ways = [self.advantage(ranking, sufficient=sufficient) for sufficient in (False, True)]
        needed = self.needed
        ahead = any(mean > needed * error for mean, error in ways)
        return ahead and all(mean > -needed * error for mean, error in ways)

    @property
    def best(self) -> Ranking | None:
        """The ranking with the largest advantage over random, summed over both measures; None if none beats random."""
        winners = [ranking for ranking in _VIEWS if self.beats_random(ranking)]
        return max(winners, key=self._both_ways, default=None)

    def _both_ways(self, ranking: Ranking) -> float:
        return sum(self.advantage(ranking, sufficient=way)[0] for way in (False, True))

    @property
    def rivals(self) -> tuple[Ranking, ...]:
        """The rankings, other than the best, that are not significantly worse than the best.

        Rankings are compared by comprehensiveness minus sufficiency. Empty if no ranking beats random.
        """
        best = self.best
        if best is None:
            return ()
        drops, needed = self.comprehensiveness - self.sufficiency, self.needed
        others = [ranking for ranking in _VIEWS if ranking != best]
        ahead = {ranking: _mean_and_error(_difference(drops, best, ranking)) for ranking in others}
        return tuple(ranking for ranking, (mean, error) in ahead.items() if not mean > needed * error)


def _difference(drops: Floats, one: Ranking, other: Ranking) -> Floats:
    """Returns the drops (texts,) of one ranking minus the drops of another ranking, averaged over sizes."""
    difference: Floats = (drops[:, RANKINGS.index(one)] - drops[:, RANKINGS.index(other)]).mean(-1)
    return difference


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """Returns the mean of values (N,), and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
