"""A setting of the plan together with the reason, if attncli chose it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Decision(Generic[T]):
    """A value and the reason for it.

    The reason is None if the user gave the value, or if no reason is needed.
    """

    value: T
    reason: str | None = None


def reasons_of(**choices: Decision[Any]) -> dict[str, str]:
    """Returns a dictionary from setting to reason. Choices without a reason are left out."""
    return {name: choice.reason for name, choice in choices.items() if choice.reason is not None}


def duration_words(seconds: float) -> str:
    """Returns a duration in the words of a reason: 90 -> '1.5 min'."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"
