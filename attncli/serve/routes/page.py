"""GET /: the page."""

from __future__ import annotations

import html
import re

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.serve.service import Service

_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', re.IGNORECASE)


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes of the page itself."""
    headers = {"Content-Security-Policy": policy_of(service.page)}

    async def page(request: Request) -> Response:
        return HTMLResponse(service.page, headers=headers)

    async def icon(request: Request) -> Response:
        return Response(status_code=204)  # a browser asks for it; without an answer it reports an error

    return [Route("/", page, methods=["GET"]), Route("/favicon.ico", icon, methods=["GET"])]


def policy_of(page: str) -> str:
    """Returns the content security policy of a page for the header, which alone can forbid that it is framed."""
    found = _POLICY.search(page)
    assert found is not None, "the page has no policy"
    return f"{html.unescape(found[1]).rstrip('; ')}; frame-ancestors 'none'"
