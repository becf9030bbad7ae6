"""Metrics: what the server has done, as numbers that Prometheus reads (its text format, version 0.0.4).

Requests are counted by the event loop, and texts by the model thread, so a lock guards the numbers.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
Labels = Mapping[str, str]


class Histogram:
    """The numbers of observed values up to each of some bounds, and the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Adds a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        """Yields the lines of a histogram: a cumulative count for each bound, the sum and the count."""
        total = 0
        for bound, count in zip([*map("{:g}".format, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", {**labels, "le": bound}, total)
        yield _line(f"{name}_sum", labels, self._sum)
        yield _line(f"{name}_count", labels, total)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._first_token, self._per_token = Histogram(_REQUEST_SECONDS), Histogram(_TOKEN_SECONDS)
        self._prompt_tokens = self._generated_tokens = 0

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request whose answer has ended. `route` is the path of a route, or 'none'."""
        with self._lock:
            self._requests[route, status] = self._requests.get((route, status), 0) + 1
            self._seconds.setdefault(route, Histogram(_REQUEST_SECONDS)).observe(seconds)

    def count_tokens(self, *, prompt: int = 0, generated: int = 0) -> None:
        """Counts tokens of prompts and of texts."""
        with self._lock:
            self._prompt_tokens += prompt
            self._generated_tokens += generated

    def observe_first_token(self, seconds: float) -> None:
        """Adds the time from a request to the first token of a text."""
        with self._lock:
            self._first_token.observe(seconds)

    def observe_text(self, seconds: float, tokens: int) -> None:
        """Adds the time that a text took for its tokens after the first one."""
        if tokens:
            with self._lock:
                self._per_token.observe(seconds / tokens)

    def text(self, running: int, waiting: int) -> str:
        """Returns all numbers in Prometheus's format, given the numbers of texts that run and that wait."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(running, waiting))

    def _lines(self, running: int, waiting: int) -> Iterator[str]:
        yield from _head("attncli_requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self._requests.items()):
            yield _line("attncli_requests_total", {"route": route, "status": str(status)}, count)
        yield from _head("attncli_request_seconds", "histogram", "Time from a request to the end of its answer.")
        for route, histogram in sorted(self._seconds.items()):
            yield from histogram.lines("attncli_request_seconds", {"route": route})
        for name, kind, help, value in (
            ("attncli_prompt_tokens_total", "counter", "Tokens of prompts.", self._prompt_tokens),
            ("attncli_generated_tokens_total", "counter", "Tokens of generated texts.", self._generated_tokens),
            ("attncli_texts_running", "gauge", "Texts that are being generated.", running),
            ("attncli_texts_waiting", "gauge", "Texts that wait for a place in a batch.", waiting),
        ):
            yield from _head(name, kind, help)
            yield _line(name, {}, value)
        yield from _head("attncli_first_token_seconds", "histogram", "Time from a request to a text's first token.")
        yield from self._first_token.lines("attncli_first_token_seconds", {})
        yield from _head("attncli_token_seconds", "histogram", "Mean time per token of a text after its first one.")
        yield from self._per_token.lines("attncli_token_seconds", {})


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Labels, value: float) -> str:
    """Returns a sample. The values of labels are our own words, without quotes or backslashes."""
    inside = ",".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"
