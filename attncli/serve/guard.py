"""Guard: the outermost layer of the server. It decides who may ask, for every route, and completes every answer.

The checks, in this order: the method, the length of the body, Host, Origin, the rate of the address, the token. Then
the application answers. A bug in it becomes an answer with status 500, and its traceback goes to standard error. Every
answer gets headers that keep other sites from reading, framing, storing or guessing the type of what is served. There
are no CORS headers.
"""

from __future__ import annotations

import hmac
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attncli.render.escape import visible
from attncli.serve.address import Names, authority, origin
from attncli.serve.limits import Limits, Rate
from attncli.serve.metrics import Metrics
from attncli.serve.refusal import Refusal, bug

_METHODS = ("GET", "POST")
_PUBLIC = "/health"  # needs no token: a program that watches the server learns only that it runs
_OWN_SITE = ("same-origin", "none")  # of Sec-Fetch-Site: our page, or the address bar
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"  # the policy of an answer that is not a page
# A link from another site, such as a mail in a browser, sends no strict cookie, nor does a redirect of it. A page that
# goes on by itself does.
_ENTERED = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">'
    '<title>attncli</title><p><a href="/">Go on to the page</a></p></html>'
)


@dataclass(frozen=True)
class Access:
    """Who may ask: the names of the server, and the token that it asks for, if any."""

    names: Names
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))  # the value of the cookie

    def knows(self, token: bytes) -> bool:
        """Whether this is the token in UTF-8. Takes as long for a wrong one."""
        return self.token is not None and hmac.compare_digest(token, self.token.encode())

    def admits(self, headers: Headers, cookie: str) -> bool:
        """Whether a request has the token as a bearer, or the cookie of a browser that had it."""
        if self.token is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(bearer.strip().encode("latin-1")):
            return True
        held = cookie_parser(headers.get("cookie", "")).get(cookie, "")
        return hmac.compare_digest(held.encode(), self.session.encode())


class Guard:
    """An ASGI application that lets only allowed requests through to another one."""

    def __init__(
        self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics, paths: Mapping[Callable[..., Any], str]
    ) -> None:
        """`paths` has the path of each route by its function, for the metrics."""
        self._app, self._access, self._rate = app, access, Rate(limits.rate, limits.burst)
        self._metrics, self._paths = metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request of HTTP. Ignores one of another protocol."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        status, began = 0, time.perf_counter()  # status 0: the answer has not begun

        async def complete(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in (*_HEADERS.items(), ("Content-Security-Policy", _NOTHING)):
                    headers.setdefault(name, value)
            await send(message)

        try:
            answer = self._answer(scope)
        except Refusal as refusal:
            answer = refusal.response(scope["path"])
        try:
            await (answer or self._app)(scope, receive, complete)
        except Exception:
            sys.stderr.write(visible(traceback.format_exc()))  # it may repeat what a client has sent
            if not status:
                await bug().response(scope["path"])(scope, receive, complete)
        finally:
            endpoint = scope.get("endpoint")  # no key of the scope before the application has found a route
            route = "none" if endpoint is None else self._paths.get(endpoint, "none")
            self._metrics.count_request(route, status, time.perf_counter() - began)

    def _answer(self, scope: Scope) -> Response | None:
        """Returns an answer that needs no application; None for an allowed request. Raises Refusal for others."""
        headers, root = Headers(scope=scope), scope["method"] == "GET" and scope["path"] == "/"
        if scope["method"] not in _METHODS:
            raise Refusal(405, "This server answers GET and POST.", "Use one of them.", Allow=", ".join(_METHODS))
        if "content-length" in headers and "transfer-encoding" in headers:  # RFC 9112, section 6.1
            raise Refusal(400, "The request has two lengths.", "Leave Transfer-Encoding out.", Connection="close")
        host = self._host(headers)
        self._refuse_other_site(headers, host, navigates=root)
        client = scope.get("client")
        self._rate.take(client[0] if client else "")
        port = scope["server"][1] if scope.get("server") else 0
        cookie = f"attncli_{port}"  # a browser sends a cookie to every port of a host
        given = QueryParams(scope["query_string"]).get("token") if root else None
        if given is not None and self._access.knows(given.encode()):
            entered = HTMLResponse(_ENTERED)
            entered.set_cookie(cookie, self._access.session, path="/", httponly=True, samesite="strict")
            return entered
        if scope["path"] != _PUBLIC and not self._access.admits(headers, cookie):
            raise Refusal(
                401,
                "The token is missing or wrong.",
                "Send the header Authorization: Bearer TOKEN, or open /?token=TOKEN in a browser.",
                WWW_Authenticate="Bearer",
            )
        return None

    def _host(self, headers: Headers) -> tuple[str, int]:
        """Returns the host and the port that a request names. Raises Refusal for one that is not of this server."""
        given = headers.getlist("host")
        named = authority(given[0]) if len(given) == 1 else None
        if named is None or not self._access.names.allow(named[0]):
            raise Refusal(421, "The header Host names another server.", "Open the address that attncli serve printed.")
        return named

    def _refuse_other_site(self, headers: Headers, host: tuple[str, int], *, navigates: bool) -> None:
        """Raises Refusal for a request that a page of another site made. Following a link to GET / is allowed."""
        origins = headers.getlist("origin")
        sites = headers.getlist("sec-fetch-site")
        other = any(origin(one) != host for one in origins) or len(origins) > 1
        if other or (not navigates and any(site not in _OWN_SITE for site in sites)):
            raise Refusal(
                403,
                "The request comes from a page of another site.",
                "Send it from the page of this server, or without Origin.",
            )
