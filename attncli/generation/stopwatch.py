"""Measures the speed of a generation from its events and a clock."""

from __future__ import annotations

import time

from attncli.generation.events import Event, Finished, PromptsRead, Throughput


class Stopwatch:
    """Measures the speed of one generation, from the creation of this object on."""

    def __init__(self, started: float) -> None:
        """Starts the clock; `started` is the time.monotonic() at which the command began."""
        self._started = started
        self._begun = time.monotonic()
        self._first: float | None = None
        self._prompt_tokens = self._new_tokens = self._texts = 0
        self._prompt_seconds = 0.0

    def update(self, event: Event) -> None:
        """Records an event; call it as soon as the event arrives."""
        if isinstance(event, PromptsRead):
            self._first = self._first or time.monotonic()
            self._prompt_tokens += event.tokens
            self._prompt_seconds += event.seconds
        elif isinstance(event, Finished):
            self._texts += 1
            self._new_tokens += len(event.ids)

    def result(self) -> Throughput:
        """Returns the speed of the generation; call it after the last event."""
        now = time.monotonic()
        return Throughput(
            self._prompt_tokens,
            self._prompt_seconds,
            (self._first or now) - self._started,
            self._new_tokens,
            self._new_tokens - self._texts,
            max(now - self._begun - self._prompt_seconds, 0.0),
        )
