"""The limits for the values of a field.

A limit has a rule in words and a function that tests a value. An error names the field, the value and the rule.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attncli.errors import UsageProblem

_LONGEST_SHOWN = 10**40  # integers
_MOST_SHOWN = 60  # characters


@dataclass(frozen=True)
class Limit:
    """A limit for a value: `rule` completes the words "must be", and `holds` tests a value."""

    rule: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: object, *, secret: bool = False) -> None:
        """Raises UsageProblem for a value that the rule does not allow. The error does not repeat a secret value."""
        try:
            fits = self.holds(value)
        except (TypeError, OverflowError):  # the value has another type, or no float holds it
            fits = False
        if not fits:
            is_value = "" if secret else f" is {shown_value(value)}, and"
            raise UsageProblem.naming(lambda named: (f"{named(name)}{is_value} must be {self.rule}.", ""))


def at_least(least: int) -> Limit:
    """Returns a limit that allows whole numbers of at least `least`."""
    return Limit(f"a whole number of at least {least:,}", lambda value: is_whole(value) and value >= least)


def one_of(values: tuple[str, ...]) -> Limit:
    """Returns a limit that allows only these values."""
    return Limit(alternatives(values), values.__contains__)


def alternatives(names: Iterable[str]) -> str:
    """Returns the names as a list in words: 'a, b or c'."""
    *before, last = names
    return f"{', '.join(before)} or {last}" if before else last


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Raises UsageProblem with the value and the rule if `ok` is false."""
    if not ok:
        raise UsageProblem(f"{name} is {shown_value(value)}, and must be {rule}.")


def shown_value(value: object) -> str:
    """Returns a value as short text for an error message.

    A very long integer becomes a description, because Python refuses to convert it to text.
    """
    if isinstance(value, int) and abs(value) > _LONGEST_SHOWN:
        return "an integer of over 40 digits"
    return ascii(value) if len(ascii(value)) <= _MOST_SHOWN else f"{ascii(value)[:_MOST_SHOWN]}…"


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raises UsageProblem unless the value is a whole number within the limits."""
    fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(fits, name, value, f"a whole number from {least} to {most:,}")


def require_between(name: str, value: object, limits: tuple[float, float]) -> None:
    """Raises UsageProblem unless the value is a number within the limits."""
    least, most = limits
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    require(fits, name, value, f"a number from {least:g} to {most:g}")


def is_whole(value: object) -> bool:
    """Whether a value is an integer. True and 6.0 do not count as integers."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether a value is a number of at most 1e300, so that a product with it rarely overflows. True is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def plain_number(value: Any) -> Any:
    """Returns a number of another library as an int or a float: np.int64(3) -> 3. Returns other values unchanged."""
    if isinstance(value, int | float) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


SEED = Limit("a whole number from 0 to 2^63 - 1", lambda seed: is_whole(seed) and 0 <= seed < 2**63)
FINITE_ABOVE_0 = Limit("a finite number above 0", lambda value: is_finite(value) and value > 0)
FINITE_FROM_0 = Limit("a finite number of at least 0", lambda value: is_finite(value) and value >= 0)
