"""The limits of the server, and the two that need no model: the size of a body and the rate of a client.

The length of a text is limited by the context of the model, the queue and the time of a request by `desk`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from attncli.serve.refusal import Refusal

_CLIENTS = 4096  # the most addresses whose rate is remembered


@dataclass(frozen=True)
class Limits:
    """The limits of one server."""

    body: int = 1 << 20  # bytes of a request
    entries: int = 10_000  # ids, edges or heads of a request
    body_seconds: float = 10  # for a body to arrive
    head_seconds: float = 10  # for the first line and the headers of a connection to arrive
    answer_seconds: float = 10  # for a client to go on reading an answer
    connections: int = 256  # open at a time
    waiting: int = 16  # requests that wait for the model
    texts: int = 32  # that one model generates at the same time
    texts_waiting: int = 256  # that wait until others have ended
    samples: int = 128  # of one prompt
    prompts: int = 256  # of one request
    messages: int = 1000  # of one conversation
    new_tokens: int = 16_384  # of one sample
    text_seconds: float = 600  # from a request for texts to the end of its answer
    finish_seconds: float = 10  # for running texts to end after SIGTERM
    cache_bytes: int = 2 << 30  # of the keys and values of one model
    seconds: float = 60  # from a request to its answer
    rate: float = 100  # requests per second of one address, on average
    burst: int = 400  # requests that one address may make at once


class Rate:
    """Limits the requests of each address: a bucket of `burst` tokens, filled with `rate` tokens per second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> tokens, at which time

    def take(self, address: str) -> None:
        """Counts a request. Raises Refusal with status 429 if the address has made too many."""
        now = self._clock()
        tokens, before = self._buckets.pop(address, (float(self._burst), now))
        tokens = min(tokens + (now - before) * self._rate, self._burst)
        self._buckets[address] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)  # the one that has been silent for longest
        if tokens < 1:
            raise Refusal(
                429,
                f"More than {self._rate:g} requests per second came from one address.",
                "Wait for the time that the header Retry-After gives.",
                retry=(1 - tokens) / self._rate,
            )


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body of a request.

    Raises Refusal for a body that is too long (413) or too slow (408), or whose Content-Length is not a number (400).
    """
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise Refusal(400, "The header Content-Length is not a number.")
    if len(length) > len(str(limits.body)) or int(length) > limits.body:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _received(request, limits)
    except TimeoutError:
        raise Refusal(
            408, f"The request did not arrive within {limits.body_seconds:g} s.", "Send it again.", Connection="close"
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "The request ended before its body.") from None


async def _received(request: Request, limits: Limits) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.body:
            raise _too_long(limits)
        parts.append(part)
    return b"".join(parts)


def _too_long(limits: Limits) -> Refusal:
    most = f"{math.floor(limits.body / 1024):,} KiB" if limits.body >= 1024 else f"{limits.body} bytes"
    return Refusal(413, f"The request is longer than {most}.", "Give a shorter text.", Connection="close")
