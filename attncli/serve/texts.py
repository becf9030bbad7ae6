"""The texts that a server is generating: requests join and leave the batches of their models between two steps.

A request has one or more samples. They wait in order until their model's batch has a free place. The model thread
computes one step at a time, and hands the events of a step to the event loop together. A request ends when all its
samples have ended, when its client has left, or with the exception that a step raised.

With an exact backend, the other samples do not change the text of a sample.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from attncli.config import EngineConfig
from attncli.generation.batch import Batch, RunningSample
from attncli.generation.events import Finished, Text, Token
from attncli.model.count import cache_bytes_per_token
from attncli.serve.limits import Limits
from attncli.serve.metrics import Metrics
from attncli.serve.models import ServedModel
from attncli.serve.refusal import Refusal, too_slow

SampleEvent = Text | Finished | Token
Part = list[SampleEvent] | Exception | None  # the events of a step, the error of the request, or None: its end
_PAUSE = 0.002  # seconds between two parts of a stream, for each running text: sending a part takes about 0.2 ms
_KEPT_BYTES = 64 << 20  # a cache of at most this size is kept when its texts have ended: making one takes milliseconds
_PROMPT_TOKENS = 256  # of new prompts that a step reads at most, so that running texts go on meanwhile


@dataclass(eq=False)
class TextRequest:
    """A request for one or more samples, and the events that its client has not received. Made in the event loop."""

    seconds: float | None = None  # the longest time until its last event
    unfinished: int = 0  # samples; known to the model thread
    cancelled: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _events: asyncio.Queue[Part] = field(default_factory=asyncio.Queue)

    async def events(self) -> AsyncGenerator[list[SampleEvent], None]:
        """Yields the events of each step until all samples have ended. Cancels the request when it is closed.

        Raises Refusal with status 503 for a request that takes too long.
        """
        late = None
        if self.seconds is not None:
            late = self.loop.call_later(self.seconds, self.put, too_slow(self.seconds))
        try:
            while (events := await self._events.get()) is not None:
                if isinstance(events, Exception):
                    raise events
                yield events
        finally:
            self.cancelled = True
            if late is not None:
                late.cancel()

    def put(self, part: Part) -> None:
        """Hands a part to the client; called in the event loop."""
        self._events.put_nowait(part)


@dataclass(eq=False)
class _Queued:
    """A sample that runs or waits, and the request that it belongs to."""

    request: TextRequest
    sample: RunningSample
    number: int  # among the samples of the request
    streamed: bool
    asked: float = field(default_factory=time.perf_counter)
    began: float | None = None  # when it got its first token
    counted: int = 0  # tokens that the metrics have counted


class _ModelTexts:
    """The texts of one model."""

    def __init__(self, served: ServedModel, limits: Limits, metrics: Metrics) -> None:
        self._metrics = metrics
        config = served.loaded.model.config
        room = limits.cache_bytes // (cache_bytes_per_token(config, served.backend.types.cache) * config.context)
        slots = max(min(limits.texts, room), 1)
        how = EngineConfig(prompt_tokens=_PROMPT_TOKENS)
        self.batch = Batch(served.backend, served.loaded.tokenizer, slots, how)
        self.waiting: deque[_Queued] = deque()
        self.running: dict[int, _Queued] = {}  # by the number of the sample in the batch
        self._numbers = 0
        self._due = 0.0  # when the next step yields the new text of all streamed samples

    def step(self) -> dict[TextRequest, list[SampleEvent]]:
        """Computes one step; returns the events of each request, whose samples have the numbers of the request."""
        for at, queued in list(self.running.items()):
            if queued.request.cancelled:
                self.batch.leave(queued.sample)
                del self.running[at]
        self.waiting = deque(queued for queued in self.waiting if not queued.request.cancelled)
        while self.waiting and self.batch.free:
            queued = self.waiting.popleft()
            queued.sample.text.sample = self._numbers
            self.running[self._numbers] = queued
            self._numbers += 1
            self.batch.join(queued.sample)
        running = list(self.running.values())
        self._choose_streamed(running)
        found = dict[TextRequest, list[SampleEvent]]()
        for event in self.batch.step() if self.running else ():
            if isinstance(event, SampleEvent):
                queued = self.running[event.sample]
                found.setdefault(queued.request, []).append(_of_sample(event, queued.number))
                if isinstance(event, Finished):
                    queued.request.unfinished -= 1
                    del self.running[event.sample]
        self._measure(running)
        return found

    def _choose_streamed(self, running: Sequence[_Queued]) -> None:
        """Lets a streamed sample yield its first token at once, and later text after pauses, many tokens together.

        The pauses are longer if many texts are running. One text is hardly delayed. Tokens with details have no pauses.
        """
        now = time.perf_counter()
        due = now >= self._due
        if due:
            self._due = now + _PAUSE * len(running)
        for one in running:
            sample = one.sample
            sample.text.streamed = one.streamed and (due or not sample.generated or sample.details is not None)

    def _measure(self, running: Sequence[_Queued]) -> None:
        """Counts the tokens that a step generated, and the times of texts that it began or ended."""
        now = time.perf_counter()
        self._metrics.count_tokens(generated=sum(one.sample.generated - one.counted for one in running))
        for one in running:
            if one.began is None and one.sample.generated:
                one.began = now
                self._metrics.observe_first_token(now - one.asked)
            if one.began is not None and one.sample.text.finished:
                self._metrics.observe_text(now - one.began, one.sample.generated - 1)
            one.counted = one.sample.generated

    @property
    def requests(self) -> set[TextRequest]:
        """The requests that wait or run."""
        return {queued.request for queued in (*self.waiting, *self.running.values())}


def _of_sample(event: SampleEvent, number: int) -> SampleEvent:
    return replace(event, sample=number)


class Texts:
    """The texts of all models. The methods are called in the model thread."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._models: dict[ServedModel, _ModelTexts] = {}
        # The small caches without texts. They go with their models, so that no dropped model stays in memory.
        self._idle: WeakKeyDictionary[ServedModel, _ModelTexts] = WeakKeyDictionary()

    def add(self, served: ServedModel, request: TextRequest, samples: Sequence[RunningSample]) -> None:
        """Adds the samples of a request behind those that wait.

        Raises Refusal with status 503 if too many samples would wait.
        """
        texts = self._models.get(served) or self._idle.get(served) or _ModelTexts(served, self._limits, self._metrics)
        waiting = sum(len(one.waiting) for one in self._models.values()) + max(len(samples) - texts.batch.free, 0)
        if waiting > self._limits.texts_waiting:
            raise Refusal(
                503, f"{self._limits.texts_waiting} texts already wait for the model.", "Ask again later.", retry=2
            )
        self._models[served] = texts
        self._idle.pop(served, None)
        request.unfinished = len(samples)
        texts.waiting += [
            _Queued(request, sample, number, sample.text.streamed) for number, sample in enumerate(samples)
        ]

    def step(self) -> bool:
        """Computes one step of each model; returns whether texts are left."""
        for served, texts in list(self._models.items()):
            requests = texts.requests
            try:
                found = texts.step()
            except Exception as problem:
                _deliver({request: [problem] for request in requests})
                del self._models[served]
                continue
            _deliver({request: _with_end(request, events) for request, events in found.items()})
            if not texts.running and not texts.waiting:
                del self._models[served]
                if texts.batch.nbytes <= _KEPT_BYTES:
                    self._idle[served] = texts
        return bool(self._models)

    def end(self, why: Exception) -> None:
        """Ends all requests with an exception."""
        for texts in self._models.values():
            _deliver({request: [why] for request in texts.requests})
        self._models.clear()

    @property
    def count(self) -> tuple[int, int]:
        """The number of samples that run, and of those that wait. Another thread may ask."""
        models = list(self._models.values())
        return sum(len(one.running) for one in models), sum(len(one.waiting) for one in models)


def _with_end(request: TextRequest, events: list[SampleEvent]) -> list[Part]:
    return [events] if request.unfinished else [events, None]


def _deliver(found: Mapping[TextRequest, Sequence[Part]]) -> None:
    """Hands the events of a step to the event loop, in one call for each loop."""
    for loop in {request.loop for request in found}:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(_put, [one for one in found.items() if one[0].loop is loop])


def _put(found: Sequence[tuple[TextRequest, Sequence[Part]]]) -> None:
    for request, parts in found:
        for part in parts:
            request.put(part)
