"""When the command line that runs began its work: what `--time` and the time to the first token count from.

Read it as `clock.started`: a process may run several command lines, and each starts it anew.
"""

from __future__ import annotations

import time

started = time.monotonic()


def start() -> None:
    """Starts the clock."""
    global started
    started = time.monotonic()
