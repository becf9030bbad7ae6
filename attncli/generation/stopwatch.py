"""Measures how fast a generation is, from its events and a clock."""

from __future__ import annotations

import time

from attncli.generation.events import Event, Finished, PromptsRead, Throughput


class Stopwatch:
    """Measures one generation. Its clock starts when it is created."""

    def __init__(self, started: float) -> None:
        """`started` is the time.monotonic() at which the command began."""
        self._started = started
        self._begun = time.monotonic()
        self._first: float | None = None
        self._prompt_tokens = self._new_tokens = self._texts = 0
        self._prompt_seconds = 0.0

    def update(self, event: Event) -> None:
        """Records one event, at the moment it arrives."""
        if isinstance(event, PromptsRead):
            self._first = self._first or time.monotonic()
            self._prompt_tokens += event.tokens
            self._prompt_seconds += event.seconds
        elif isinstance(event, Finished):
            self._texts += 1
            self._new_tokens += len(event.ids)

    def result(self) -> Throughput:
        """The figures, after the last event."""
        now = time.monotonic()
        return Throughput(
            self._prompt_tokens,
            self._prompt_seconds,
            (self._first or now) - self._started,
            self._new_tokens,
            self._new_tokens - self._texts,
            max(now - self._begun - self._prompt_seconds, 0.0),
        )
