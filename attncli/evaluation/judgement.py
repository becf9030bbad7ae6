"""What a score is worth, as one record: the score, its baselines, memorization, a diagnosis. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.evaluation.baselines import Yardsticks
from attncli.evaluation.memorization import Memorization
from attncli.evaluation.score import Score


@dataclass(frozen=True)
class Judgement:
    """A model's score and what stands beside it; None for what was not measured."""

    score: Score
    yardsticks: Yardsticks | None = None
    memorization: Memorization | None = None
    diagnosis: tuple[str, ...] = ()
