"""When the command line that runs began its work: what `--time` counts from."""

from __future__ import annotations

import time

started = time.monotonic()


def start() -> None:
    """Counts from now on: a process may run several command lines."""
    global started
    started = time.monotonic()
