"""Parses values of the command line: counts such as 25.6k, times such as 5m, biases such as ' cat=2.5'.

A `Format` parses one kind of value. A parser raises ValueError for invalid text, and its message begins with that text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_LARGEST_COUNT = 10**15
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Format:
    """A format of values: `parse` parses text, `show` formats a value; `metavar` is the placeholder in the help."""

    parse: Callable[[str], Any]
    metavar: str
    show: Callable[[Any], str] = str


def parse_count(text: str) -> int:
    """Parses a whole number: '25.6k' -> 25600, '1M' -> 1000000. Raises ValueError.

    A negative number is parsed too, so that the limit of the option can refuse it.
    """
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kmb]?)", text.strip().replace("_", "").replace(",", ""), re.IGNORECASE)
    value = Decimal(found[1]) * _UNITS[found[2].lower()] if found else None
    if value is None or value != int(value) or abs(value) > _LARGEST_COUNT:
        raise ValueError(f"{text!r} is not a whole number such as 500, 25.6k or 1M.")
    return int(value)


def parse_seconds(text: str) -> float:
    """Parses a time: '90s' -> 90.0, '5m' -> 300.0, '1h30m' -> 5400.0; a bare number is seconds. Raises ValueError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise ValueError(f"{text!r} is not a time such as 90s, 5m or 1h.")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_bias(text: str) -> tuple[int | str, float]:
    """Parses a bias: ' cat=2.5' -> (' cat', 2.5); '#12=-inf' -> (12, -inf); '==1' -> ('=', 1.0). Raises ValueError."""
    token, equals, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        equals = ""
    if not equals or not token:
        raise ValueError(
            f"{text!r} is not a token, an equals sign and a number, such as ' cat=2.5', or '#12=-inf' to ban token #12."
        )
    id_ = re.fullmatch(r"#(\d{1,18})", token)
    return (int(id_[1]) if id_ else token), bias


COUNT = Format(parse_count, "N")
SECONDS = Format(parse_seconds, "TIME", lambda seconds: f"{seconds:g}s")
BIAS = Format(parse_bias, "TOKEN=BIAS")
