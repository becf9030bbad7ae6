"""Defines Decision: a setting of the plan, with a reason if attncli chose the setting. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Decision(Generic[T]):
    """The value of a setting, and the reason for the value.

    The reason is None if the user gave the value, or if the value needs no reason.
    """

    value: T
    reason: str | None = None


def reasons_of(**decisions: Decision[Any]) -> dict[str, str]:
    """Returns the reasons of settings: name -> reason. Settings without a reason are left out."""
    return {name: decision.reason for name, decision in decisions.items() if decision.reason is not None}


def duration_words(seconds: float) -> str:
    """Returns a duration as it is written in a reason: 90 -> '1.5 min'."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"
