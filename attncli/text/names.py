"""Lists file names in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def and_more(names: Sequence[str]) -> str:
    """Returns a short list of names: ['a', 'b', 'c'] -> 'a and 2 more'."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def listed(sources: Sequence[str]) -> str:
    """Returns the sources of a text in one line, each once: ['a', 'b', 'b'] -> 'a, 2 x b'."""
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in Counter(sources).items())
