"""The model thread: runs jobs one after another, so that one model never computes two things at once.

Between two jobs, the thread computes one step of the texts that are being generated. Brief jobs, which add texts, do
not alternate with steps: all that arrive during a step run after it, so that many requests join a batch together.

A job is cancelled by the event loop at any time. If it waits, it never runs. If it runs, `check` raises Cancelled in
the model thread. Every block of a loaded network calls `check` before it computes, because `watch` hooks it; so a
cancelled job ends within one layer, whatever it computes. The hooks do not change what a network computes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from attncli.model.stack import Block
from attncli.serve.refusal import Refusal

T = TypeVar("T")


class Cancelled(BaseException):
    """Raised in the model thread to end a job that was cancelled. No handler of Exception stops it."""


class Job(Generic[T]):
    """Something to compute in the model thread. Made and cancelled in the event loop."""

    def __init__(self, work: Callable[[], T], *, brief: bool = False) -> None:
        self.work, self.brief = work, brief
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._loop.create_future()

    def cancel(self, why: Refusal) -> None:
        """Answers the job with a refusal, unless it has an answer, and ends it."""
        self.cancelled = True
        if not self.answer.done():
            self.answer.set_exception(why)
            self.answer.exception()  # the client may have left, so that nobody awaits the answer

    def finish(self, result: T | None, problem: BaseException | None) -> None:
        """Gives the answer to the event loop; called in the model thread."""
        try:
            self._loop.call_soon_threadsafe(self._answer, result, problem)
        except RuntimeError:  # the event loop has ended
            return

    def _answer(self, result: Any, problem: BaseException | None) -> None:
        if self.answer.done():
            return
        if problem is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(problem)


class SteppedWork(Protocol):
    """Work that the model thread does one step at a time, between jobs."""

    def step(self) -> bool:
        """Computes a step; returns whether there is more to do."""

    def end(self, why: Exception) -> None:
        """Gives up what is left to do."""


class ModelThread:
    """A thread that runs jobs in the order of their arrival."""

    def __init__(self, waiting: int, steps: SteppedWork | None = None, brief: int = 0) -> None:
        """At most `waiting` jobs wait while one runs, and `brief` brief ones. A job may add to `steps`."""
        self._most, self._steps = {False: waiting, True: brief}, steps
        self._jobs: deque[Job[Any]] = deque()
        self._running: Job[Any] | None = None
        self._changed = threading.Condition()
        self._refuses = self._ended = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether the thread takes jobs."""
        return not self._refuses and self._thread.is_alive()

    def refuse(self) -> None:
        """Refuses new jobs, before the thread ends. Earlier jobs and running texts continue."""
        self._refuses = True

    def submit(self, job: Job[Any]) -> None:
        """Adds a job. Raises Refusal with status 503 if too many jobs wait, or if the server ends."""
        with self._changed:
            if self._refuses:
                raise _ends()
            self._jobs = deque(one for one in self._jobs if not one.cancelled)
            jobs = [*self._jobs, *([] if self._running is None else [self._running])]
            most = self._most[job.brief]
            if sum(one.brief == job.brief for one in jobs) > most:
                raise Refusal(503, f"{most} requests already wait for the model.", "Ask again in a moment.", retry=1)
            self._jobs.append(job)
            self._changed.notify()

    def check(self) -> None:
        """Raises Cancelled if the job that calls this was cancelled; called in the model thread."""
        job = self._running
        if job is not None and job.cancelled and threading.current_thread() is self._thread:
            raise Cancelled

    def watch(self, network: nn.Module) -> None:
        """Makes every block of a network call `check` before it computes."""
        for module in network.modules():
            if isinstance(module, Block):
                module.register_forward_pre_hook(lambda *_: self.check())

    def end(self) -> None:
        """Cancels all jobs, and ends the thread when its present job has ended. Called in the event loop."""
        with self._changed:
            self._refuses = self._ended = True
            jobs = [*self._jobs, *([self._running] if self._running else [])]
            self._jobs.clear()
            self._changed.notify()
        for job in jobs:
            job.cancel(_ends())

    def _run(self) -> None:
        more = False
        while not self._ended:
            job = self._next(waits=not more)
            if job is not None:
                self._work(job)
                with self._changed:  # `submit` and `end` look at the running job
                    self._running = None
                if job.brief and self._brief_follows():
                    more = True  # the texts of this job have not had a step
                    continue
            more = self._steps is not None and not self._ended and self._steps.step()
        if self._steps is not None:
            self._steps.end(_ends())

    def _work(self, job: Job[Any]) -> None:
        result: Any = None
        problem: Exception | None = None
        try:
            self.check()
            result = job.work()
        except Cancelled:
            problem = _ends()  # it was answered when it was cancelled
        except StopIteration as raised:  # no future takes this exception
            problem = RuntimeError(f"{raised!r} left a job")
        except Exception as raised:
            problem = raised
        except BaseException as raised:  # would end the event loop
            problem = RuntimeError(f"{raised!r} left a job")
        job.finish(result, problem)

    def _next(self, *, waits: bool) -> Job[Any] | None:
        """Returns the next job; None if there is none and `waits` is false, or if the thread ends."""
        with self._changed:
            while waits and not self._jobs and not self._ended:
                self._changed.wait()
            self._running = self._jobs.popleft() if self._jobs and not self._ended else None
            return self._running

    def _brief_follows(self) -> bool:
        with self._changed:
            return not self._ended and bool(self._jobs) and self._jobs[0].brief


def _ends() -> Refusal:
    return Refusal(503, "The server ends.", "Start it again: attncli serve", retry=5)
