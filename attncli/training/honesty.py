"""What a score is worth, as one record: beside the yardsticks, with what was copied, and in words. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.text.baselines import Yardsticks
from attncli.text.overlap import Memorization
from attncli.training.reports import Score


@dataclass(frozen=True)
class Honesty:
    """A model's score and what stands beside it; None for what was not measured."""

    score: Score
    yardsticks: Yardsticks | None = None
    memorization: Memorization | None = None
    diagnosis: tuple[str, ...] = ()
