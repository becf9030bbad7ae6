"""Choice: a setting of the plan and, where attncli chose it, the reason. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A value, and the reason for it; None for what the user gave, or what needs no reason."""

    value: T
    reason: str | None = None


def reasons_of(**choices: Choice[Any]) -> dict[str, str]:
    """The reasons by the names of the settings, those without a reason left out."""
    return {name: choice.reason for name, choice in choices.items() if choice.reason is not None}


def duration_words(seconds: float) -> str:
    """90 -> '1.5 min': a duration as reasons name it."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"
