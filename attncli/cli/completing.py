"""Lists the values that a shell completes: choices and model names. If none matches, the shell completes file names.

This module imports no torch, because the user waits after each press of Tab.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from attncli.errors import AttnError

Value = str | tuple[str, str]  # a value, or a value and its meaning


def one_of(values: Iterable[Value]) -> Callable[[str], list[Value]]:
    """Returns a completer that lists these values; Typer keeps those that begin with the typed text."""
    listed = list(values)
    return lambda incomplete: listed


def model_names(incomplete: str) -> list[Value]:
    """Returns the model names that need no quotes in a shell. If the directory cannot be read, returns no names."""
    from attncli.checkpoint.catalog import known_models

    with suppress(AttnError, OSError):
        return [entry.name for entry in known_models() if re.fullmatch(r"[\w.-]+", entry.name)]
    return []
