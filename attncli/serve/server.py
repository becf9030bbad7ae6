"""Runs the application with uvicorn: the socket, the connections, the signals and the browser.

The socket is opened before a model is loaded, so that a port in use is reported at once. After SIGTERM, running
and waiting texts may finish within a time limit. Any other signal, or a second one, skips this. Then the server ends
within a second: it cancels all requests with status 503, and the handler of `stopping` ends the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from attncli.errors import UsageProblem
from attncli.serve.guard import Guard
from attncli.serve.limits import Limits
from attncli.serve.refusal import Refusal
from attncli.serve.service import Service

_LAST_SECONDS = 1  # for the answers that are on their way when the server ends
_POLL_SECONDS = 0.02
_BACKLOG = 128
_SENT_AHEAD = 1 << 17  # bytes of an answer that the system takes before the client reads; Linux would take megabytes
_EVERY_ADDRESS = ("", "0.0.0.0", "::")
_IDLE_SECONDS = 30  # of a connection between two requests


def open_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address; port 0 means any free port.

    Raises UsageProblem for a port in use, and for an address that this machine does not have.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)  # without its protocol, asyncio leaves Nagle's delay of 40 ms on
    except (OSError, UnicodeError):
        raise _no_address(host) from None
    try:
        if os.name == "posix":  # a port whose last connections are closing is free; on Windows, any port would be
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD)  # connections inherit it
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError as problem:
        made.close()
        raise _not_opened(problem, host, port) from None
    return made


def _not_opened(problem: OSError, host: str, port: int) -> UsageProblem:
    if problem.errno == errno.EADDRINUSE:
        hint = f"Give another: {{}} {port + 1 if port < 65535 else 8000}, or 0 for any free port."
        return UsageProblem.naming(
            lambda named: (f"{named('port')} {port} is in use on {host}.", hint.format(named("port")))
        )
    if problem.errno in (errno.EACCES, errno.EPERM):
        return UsageProblem.naming(
            lambda named: (f"{named('port')} {port} is not free for this user.", "Give one from 1024.")
        )
    return _no_address(host)


def _no_address(host: str) -> UsageProblem:
    return UsageProblem.naming(
        lambda named: (f"{named('host')} {host!r} is no address of this machine.", "For this machine alone: 127.0.0.1.")
    )


def address_of(listening: socket.socket, host: str, token: str | None = None) -> str:
    """Returns the address of the page on a socket, with the token: 'http://127.0.0.1:8000/?token=...'.

    For a host that stands for every address of this machine, the address has the name of the machine.
    """
    port, query = listening.getsockname()[1], "" if token is None else f"?token={quote(token, safe='')}"
    name = socket.gethostname() if host in _EVERY_ADDRESS else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}"


class Connection(H11Protocol):
    """A connection that is closed if its client sends no head of a request, or does not read its answer, in time.

    When too many are open, a new one takes the place of the one that has waited longest for the head of a request.
    """

    limits = Limits()
    waiting: ClassVar[dict[Connection, None]] = {}  # those without a request, in order; each server has its own

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the head of a request."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._discarded = 0  # bytes of a body after the answer
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._end_with(Refusal(503, f"More than {self.limits.connections} connections are open.", retry=1))
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Reads a part of a request. From a complete head on, the application limits the time.

        The body of a request that has its answer is discarded, up to the greatest size of a body. A client that does
        not read its answer gets no more time for it by sending.
        """
        if self._refused:
            self._discarded += len(data)
            if self._discarded > self.limits.body:
                self.transport.abort()
                return
        super().data_received(data)
        if self.flow.write_paused:
            return
        if self._answers:
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._await_head()

    def on_response_complete(self) -> None:
        """Ends a request. Until the next one, the connection may make room for another."""
        self._discarded = 0
        super().on_response_complete()
        if self.cycle.response_complete and self._deadline is None and not self.transport.is_closing():
            self.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        self._forget_deadline()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begins to wait for the client to read its answer."""
        super().pause_writing()
        self._end_in(self.limits.answer_seconds)

    def resume_writing(self) -> None:
        """Goes on after the client has read enough. The rest of a head that has begun has its own time."""
        super().resume_writing()
        self._forget_deadline()
        if self._answers or self.transport.is_closing():
            return
        if self.timeout_keep_alive_task is None:  # a head has begun
            self._await_head()
        else:
            self.waiting[self] = None

    def timeout_keep_alive_handler(self) -> None:
        """Ends a connection without a further request, even if its client has not read the last answer."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are not HTTP, in the form of all errors."""
        if self._answers:
            self.transport.close()  # the answer to an earlier request is on its way
        else:
            self._end_with(Refusal(400, "This is not a request of HTTP/1.1."))

    @property
    def _refused(self) -> bool:
        """Whether the last request was answered before its body has arrived."""
        return self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY

    def _await_head(self) -> None:
        self._end_in(self.limits.head_seconds)
        self.waiting[self] = None

    def _make_room(self) -> bool:
        """Closes the connection that has waited longest for a request; returns whether there was one."""
        longest = next(iter(self.waiting), None)
        if longest is not None:
            longest._forget_deadline()
            longest.transport.abort()
        return longest is not None

    @property
    def _answers(self) -> bool:
        """Whether the application is answering a request of this connection."""
        return self.cycle is not None and not self.cycle.response_complete

    def _end_with(self, refusal: Refusal) -> None:
        answer = refusal.response("")
        head = "".join(f"{name}: {value}\r\n" for name, value in (*answer.headers.items(), ("connection", "close")))
        line = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        self.transport.write(f"{line}{head}\r\n".encode() + bytes(answer.body))
        self.transport.close()

    def _end_in(self, seconds: float) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server that cancels running requests when it ends."""

    def __init__(self, application: Guard, service: Service) -> None:
        bounded = type("Bounded", (Connection,), {"limits": service.limits, "waiting": {}})
        super().__init__(
            uvicorn.Config(
                application,
                http=bounded,
                ws="none",
                lifespan="off",
                loop="asyncio",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to answer, and to prepare the first model for the first page."""
        await super().startup(sockets)
        self._service.desk.prepare(lambda: self._service.models.get(None).kinds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server: refuses new connections, cancels what runs, and lets the answers out."""
        if self._captured_signals == [signal.SIGTERM]:
            await self._finish_texts()
        self._service.thread.end()
        await super().shutdown(sockets)

    async def _finish_texts(self) -> None:
        """Waits until all texts have ended, as long as the limits allow and no second signal arrives."""
        for server in self.servers:
            server.close()
        self._service.thread.refuse()
        end = time.monotonic() + self._service.limits.finish_seconds
        while any(self._service.texts.count) and len(self._captured_signals) == 1 and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)
