"""Starts the C compiler before PyTorch is imported, and prints a note while the compiler runs."""

from __future__ import annotations

import sys

from attncli.model.native_library import begin, compiling

_NOTE = "compiling {} in C for this processor, which happens once and takes two to five seconds"
_COMPILED = {"native": "the network", "training": "the training step"}


def begin_compiling(device: str, name: str = "native") -> None:
    """Starts the compiler if the command may run on the CPU and the library with this name is not compiled yet."""
    if device not in ("auto", "cpu"):
        return
    begin(name)
    if compiling(name):  # without Rich, whose import takes a tenth of a second
        print(_NOTE.format(_COMPILED[name]), file=sys.stderr, flush=True)
