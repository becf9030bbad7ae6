"""Shows how many patched runs are done, in the status line."""

from __future__ import annotations

import time
from dataclasses import dataclass

from attncli.render.numbers import duration
from attncli.render.status import status


@dataclass
class PatchedRuns:
    """Counts patched runs; call it with the runs done and the runs in all."""

    what: str = "patched runs"
    started: float = 0.0
    done: int = 0
    total: int = 0

    def more(self, runs: int) -> None:
        """Counts runs that were done since the last call."""
        self.done += runs
        self(self.done, max(self.total, self.done))

    def __call__(self, done: int, total: int) -> None:
        """Updates the status line, with the time that is left."""
        now = time.monotonic()
        self.started = self.started or now
        spent = now - self.started
        left = f", {duration(spent * (total - done) / done)} left" if spent > 1 and done else ""
        status(f"{done:,} of {total:,} {self.what}{left}")
