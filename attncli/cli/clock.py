"""Holds the start time of the running command. `--time` and the time to the first token are measured from it.

Read it as `clock.started`: a process may run several command lines, and each one resets the value.
"""

from __future__ import annotations

import time

started = time.monotonic()


def start() -> None:
    """Starts the clock."""
    global started
    started = time.monotonic()
