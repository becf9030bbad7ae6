"""Values that a shell completes: closed sets, and the names of models. Where nothing fits, the shell names files.

Imports no torch: a key press waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from attncli.errors import AttnError

Value = str | tuple[str, str]  # alone, or with what it means


def one_of(values: Iterable[Value]) -> Callable[[str], list[Value]]:
    """Completes one of these; Typer keeps those that begin as what is typed."""
    listed = list(values)
    return lambda incomplete: listed


def model_names(incomplete: str) -> list[Value]:
    """The models that `attncli models` lists; none where a folder cannot be read. Only names that every shell takes."""
    from attncli.checkpoint.catalog import known_models

    with suppress(AttnError, OSError):
        return [entry.name for entry in known_models() if re.fullmatch(r"[\w.-]+", entry.name)]
    return []
