"""Starts the compiler of the network in C before PyTorch is imported, and says that it is at work."""

from __future__ import annotations

from attncli.model.native_library import begin, compiling

_NOTE = "compiling the network in C for this processor: once, about ten seconds"


def begin_compiling(device: str) -> None:
    """Starts the compiler where a CPU may generate and the library is not there yet."""
    if device not in ("auto", "cpu"):
        return
    begin()
    if compiling():
        from attncli.render.console import print_note

        print_note(_NOTE)
