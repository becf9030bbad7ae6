"""The option of a field: how errors of the library name settings on a command line."""

from __future__ import annotations

_RENAMED = {"seconds": "--time"}


def option_of(field: str) -> str:
    """'batch_size' -> '--batch-size'."""
    return _RENAMED.get(field, "--" + field.replace("_", "-"))
