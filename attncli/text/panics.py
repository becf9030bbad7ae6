"""The process's standard error, held back while a library may panic there.

Owns one thing: a panic of a library in Rust prints several lines to the descriptor of standard error, past sys.stderr,
before it becomes an exception. Knows nothing of what the library does.
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
    """Holds back what is written to standard error meanwhile; it is passed on afterwards, unless an exception came."""
    with _alone:
        try:
            held, kept = tempfile.TemporaryFile(), os.dup(_STANDARD_ERROR)  # noqa: SIM115
        except OSError:  # none is open, no descriptor is left, or no file can be written
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
