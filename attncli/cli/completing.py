"""The values that a shell completes: choices and names of models. If none fits, the shell completes file names.

Imports no torch, since the user waits after each press of Tab.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from attncli.errors import AttnError

Value = str | tuple[str, str]  # alone, or with its meaning


def one_of(values: Iterable[Value]) -> Callable[[str], list[Value]]:
    """A function that lists these values; Typer keeps the ones that begin with the typed text."""
    listed = list(values)
    return lambda incomplete: listed


def model_names(incomplete: str) -> list[Value]:
    """The names of `attncli models` that need no quotes in a shell; none if the directory cannot be read."""
    from attncli.checkpoint.catalog import known_models

    with suppress(AttnError, OSError):
        return [entry.name for entry in known_models() if re.fullmatch(r"[\w.-]+", entry.name)]
    return []
