"""The record of a score with what helps to judge it: baselines, memorization, a diagnosis. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.evaluation.baselines import Baselines
from attncli.evaluation.memorization import Memorization
from attncli.evaluation.score import Score


@dataclass(frozen=True)
class Judgement:
    """A model's score and what helps to judge it; a field is None if it was not measured."""

    score: Score
    baselines: Baselines | None = None
    memorization: Memorization | None = None
    diagnosis: tuple[str, ...] = ()
