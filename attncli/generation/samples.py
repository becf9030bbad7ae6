"""Collects the finished samples of a generation from its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attncli.generation.events import Event, Finished, Sample, Text


class SampleCollector:
    """Collects the finished samples from the events of a generation."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._ids: dict[int, tuple[int, ...]] = {}

    def collect(self, events: Iterable[Event]) -> Iterator[Event]:
        """Records the events and yields them unchanged."""
        for event in events:
            if isinstance(event, Text):
                self._texts.setdefault(event.sample, []).append(event.text)
            elif isinstance(event, Finished):
                self._ids[event.sample] = event.ids
            yield event

    @property
    def samples(self) -> list[Sample]:
        """The finished samples, in the order of their numbers."""
        return [Sample(self._ids[number], "".join(self._texts.get(number, ()))) for number in sorted(self._ids)]


def samples_of(events: Iterable[Event]) -> list[Sample]:
    """Runs a generation to its end and returns its samples, in the order of their numbers."""
    collector = SampleCollector()
    for _ in collector.collect(events):
        pass
    return collector.samples
