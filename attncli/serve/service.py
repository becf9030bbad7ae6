"""Service: what every route needs: the models, the thread that runs them, the desk, the limits and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from attncli.checkpoint.load import LoadedModel
from attncli.serve.desk import Desk
from attncli.serve.limits import Limits
from attncli.serve.metrics import Metrics
from attncli.serve.models import Models
from attncli.serve.texts import Texts
from attncli.serve.worker import ModelThread

T = TypeVar("T")
_READERS = 2  # requests that read files at the same time


@dataclass(frozen=True)
class Service:
    """The parts of a server that its routes share."""

    page: str
    models: Models
    thread: ModelThread
    texts: Texts
    desk: Desk
    limits: Limits
    metrics: Metrics
    readers: asyncio.Semaphore

    @classmethod
    def of(cls, page: str, first: LoadedModel, limits: Limits | None = None) -> Service:
        """Returns the service of a page and a loaded model. Starts the model thread."""
        limits = limits or Limits()
        metrics = Metrics()
        texts = Texts(limits, metrics)
        thread = ModelThread(limits.waiting, texts, brief=limits.texts_waiting)
        models, readers = Models(first, thread), asyncio.Semaphore(_READERS)
        return cls(page, models, thread, texts, Desk(thread, limits), limits, metrics, readers)

    async def read(self, work: Callable[[], T]) -> T:
        """Runs `work`, which reads files, in another thread than the event loop and the model."""
        async with self.readers:
            return await run_in_threadpool(work)
