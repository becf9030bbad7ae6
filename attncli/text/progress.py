"""Reports the progress of reading, of learning a vocabulary and of tokenizing to a listener, at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """The progress of a stage, in bytes of text. `total` is None if the size is unknown."""

    stage: Literal["reading", "learning the vocabulary", "tokenizing", "measuring a step"]
    done: int
    total: int | None


Listener = Callable[[Progress], None]


class ProgressMeter:
    """Counts the bytes of a stage, and reports the progress to a listener at most ten times a second."""

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

    def counted(self, texts: Iterable[str]) -> Iterator[str]:
        """Yields the texts, and counts the bytes of each when the next one is requested."""
        for text in texts:
            yield text
            self.add(len(text.encode()))
