"""Starts the compiler of the network in C before PyTorch is imported, and says that it is at work."""

from __future__ import annotations

import sys

from attncli.model.native_library import begin, compiling

_NOTE = "compiling the network in C for this processor: once, about ten seconds"


def begin_compiling(device: str) -> None:
    """Starts the compiler where a CPU may generate and the library is not there yet."""
    if device not in ("auto", "cpu"):
        return
    begin()
    if compiling():
        print(_NOTE, file=sys.stderr, flush=True)  # not through Rich, whose import takes a tenth of a second
