"""Starts the C compiler before PyTorch is imported, and prints a note while the compiler runs."""

from __future__ import annotations

import sys

from attncli.model.native_library import begin, compiling

_NOTE = "compiling the network in C for this processor, which happens once and takes two to five seconds"


def begin_compiling(device: str) -> None:
    """Starts the compiler if generation may run on the CPU and the library is not compiled yet."""
    if device not in ("auto", "cpu"):
        return
    begin()
    if compiling():
        print(_NOTE, file=sys.stderr, flush=True)  # without Rich, whose import takes a tenth of a second
