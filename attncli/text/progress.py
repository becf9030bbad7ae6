"""Progress: how far reading, learning a vocabulary and tokenizing have come, told to a listener now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a stage has come, in bytes of text. `total` is None when it is not known."""

    stage: Literal["reading", "learning the vocabulary", "tokenizing", "measuring a step"]
    done: int
    total: int | None


Listener = Callable[[Progress], None]


class Meter:
    """Counts the bytes of a stage and tells a listener, ten times a second at most."""

    def __init__(self, listener: Listener | None, first: Progress) -> None:
        self._listener, self._now = listener, first
        self._told = 0.0

    def add(self, size: int) -> None:
        """Counts `size` more bytes."""
        stage, done, total = self._now.stage, self._now.done + size, self._now.total
        self._now = Progress(stage, done if total is None else min(done, total), total)
        if self._listener is not None and time.monotonic() - self._told >= _REPORT_EVERY:
            self._listener(self._now)
            self._told = time.monotonic()
