"""Captures the process's standard error while a Rust library may panic.

A panic becomes a Python exception, but first prints several lines to the file descriptor of standard error, bypassing
sys.stderr. The captured lines are dropped after a panic, and otherwise written to standard error.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

_STANDARD_ERROR = 2
_alone = threading.RLock()


@contextmanager
def held_back() -> Iterator[None]:
    """Captures standard error in a `with` block. Drops the output if the block raises, or else writes it afterwards."""
    with _alone:
        try:
            held, kept = tempfile.TemporaryFile(), os.dup(_STANDARD_ERROR)  # noqa: SIM115
        except OSError:  # standard error is closed, or no descriptor or temporary file is available
            yield
            return
        try:
            os.dup2(held.fileno(), _STANDARD_ERROR)
            yield
            _pass_on(held, kept)
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
            held.close()


def _pass_on(held: IO[bytes], kept: int) -> None:
    held.seek(0)
    with suppress(OSError):
        os.write(kept, held.read())
