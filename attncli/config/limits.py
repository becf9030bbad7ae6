"""Checks of a setting's value: each raises an error that names the setting, the value and the limit."""

from __future__ import annotations

from attncli.errors import UsageProblem

_LONGEST_SHOWN = 10**40
_MOST_SHOWN = 60  # characters


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Raises UsageProblem, naming the value and the rule, unless it is `ok`."""
    if not ok:
        raise UsageProblem(f"{name} is {shown_value(value)}, and must be {rule}.")


def shown_value(value: object) -> str:
    """A value for an error message, shortened; also an integer of more digits than Python converts to text."""
    if isinstance(value, int) and abs(value) > _LONGEST_SHOWN:
        return "an integer of over 40 digits"
    return ascii(value) if len(ascii(value)) <= _MOST_SHOWN else f"{ascii(value)[:_MOST_SHOWN]}…"


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raises UsageProblem unless the value is a whole number within the limits."""
    fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(fits, name, value, f"a whole number from {least} to {most:,}")


def require_between(name: str, value: object, limits: tuple[float, float]) -> None:
    """Raises UsageProblem unless the value is a number within the limits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least, most = limits
    fits = number and least <= value <= most  # type: ignore[operator]
    require(fits, name, value, f"a number from {least:g} to {most:g}")


def is_positive(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < 1e300  # type: ignore[operator]


def option_of(name: str) -> str:
    """'batch_size' -> '--batch-size'."""
    return {"seconds": "--time"}.get(name, "--" + name.replace("_", "-"))
