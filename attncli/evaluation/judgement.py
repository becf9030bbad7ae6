"""Defines Judgement: a score with the figures and sentences that help to judge it. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.evaluation.baselines import Baselines
from attncli.evaluation.memorization import Memorization
from attncli.evaluation.score import Score


@dataclass(frozen=True)
class Judgement:
    """A model's score, with baselines, copied text and a diagnosis. A field is None if it was not measured."""

    score: Score
    baselines: Baselines | None = None
    memorization: Memorization | None = None
    diagnosis: tuple[str, ...] = ()  # sentences
