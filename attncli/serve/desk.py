"""The desk: takes a request to the model thread and waits for its answer, as long as the answer is wanted.

An answer is no longer wanted when the same client has asked something newer of the same kind, when the client has left,
or when the time of the request is over. Then its job is cancelled, also while it runs. To be superseded, a request has
the name of its client and a number that rises from request to request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from attncli.serve.limits import Limits
from attncli.serve.refusal import Refusal, too_slow
from attncli.serve.worker import Job, ModelThread

T = TypeVar("T")
_CLIENTS = 1024  # the most clients whose last number is remembered
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Order:
    """The place of a request among the requests of one client."""

    client: str
    number: int

    @classmethod
    def of(cls, client: str | None, number: int | None) -> Order | None:
        """Returns the order that a request gives; None without both. Raises Refusal for one without the other."""
        if client is None and number is None:
            return None
        if client is None or number is None or not 0 < len(client) <= _LONGEST_NAME:
            raise Refusal(
                400,
                f"client is a name of 1 to {_LONGEST_NAME} characters, and number rises from request to request.",
                "Give both, or neither.",
            )
        return cls(client, number)


class Desk:
    """Runs the work of requests in the model thread."""

    def __init__(self, thread: ModelThread, limits: Limits) -> None:
        self._thread, self._limits = thread, limits
        self._last: OrderedDict[tuple[str, str], tuple[int, Job[Any] | None]] = OrderedDict()

    async def run(
        self, request: Request, kind: str, order: Order | None, work: Callable[[], T], *, brief: bool = False
    ) -> T:
        """Runs `work` in the model thread, and returns its result or raises its exception.

        Brief work takes a few milliseconds, and has a longer queue. A request of a client supersedes its earlier ones
        of the same kind. Raises Refusal with status 409 for a request that is superseded, and 503 for one that finds no
        place in the queue or takes too long.
        """
        job = Job(work, brief=brief)
        self._supersede(kind, order, job)
        left = asyncio.ensure_future(_left(request))
        try:
            self._thread.submit(job)
            await asyncio.wait((job.answer, left), timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if not job.answer.done():
                job.cancel(_unwanted() if left.done() else too_slow(self._limits.seconds))
            return await job.answer
        finally:
            left.cancel()
            job.cancel(_unwanted())  # does nothing if the job has an answer
            if order is not None and self._last.get((order.client, kind)) == (order.number, job):
                self._last[order.client, kind] = order.number, None  # frees the work and the answer

    async def while_here(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`, which is cancelled when the client leaves."""
        left, task = asyncio.ensure_future(_left(request)), asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _unwanted()
            return await task
        finally:
            left.cancel()
            task.cancel()

    def prepare(self, work: Callable[[], object]) -> None:
        """Runs `work` in the model thread before later requests. Nobody waits for it, or learns of its error."""
        job = Job(work)
        job.answer.add_done_callback(asyncio.Future.exception)
        self._thread.submit(job)

    def _supersede(self, kind: str, order: Order | None, job: Job[Any]) -> None:
        if order is None:
            return
        number, earlier = self._last.pop((order.client, kind), (-1, None))
        if order.number <= number:
            self._last[order.client, kind] = number, earlier
            raise _superseded(order.number, number)
        self._last[order.client, kind] = order.number, job
        if earlier is not None:
            earlier.cancel(_superseded(number, order.number))
        if len(self._last) > _CLIENTS:
            self._last.popitem(last=False)


async def _left(request: Request) -> None:
    """Returns when the client has left. The body of the request was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _superseded(number: int, newer: int) -> Refusal:
    return Refusal(
        409,
        f"Request {number} is superseded by request {newer} of the same client.",
        "Wait for the answer to the newer request.",
    )


def _unwanted() -> Refusal:
    return Refusal(499, "The client has left.")
