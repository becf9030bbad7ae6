"""Stores the start time of the running command, from which `--time` and the time to the first token are measured.

Read the time as `clock.started`, since each command line that the process runs resets it.
"""

from __future__ import annotations

import time

started = time.monotonic()


def start() -> None:
    """Sets the start time to now."""
    global started
    started = time.monotonic()
