"""Names of files in a message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def and_more(names: Sequence[str]) -> str:
    """['a', 'b', 'c'] -> 'a and 2 more'."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def listed(sources: Sequence[str]) -> str:
    """['a', 'b', 'b'] -> 'a, 2 x b': where a text came from, in a line."""
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in Counter(sources).items())
