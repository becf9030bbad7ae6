"""The application: the routes of every group behind the guard."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from attncli.errors import AttnError
from attncli.serve.guard import Access, Guard
from attncli.serve.refusal import Refusal, bug, refusal_of, standard_refusal
from attncli.serve.routes import attention, chat, completions, cut, models, next, page, runs, status
from attncli.serve.service import Service

# To add a group of routes, write routes/NAME.py with a function `routes`, and add it here. What is asked passes the
# guard before, and a route takes what it computes to `service.desk`.
GROUPS: tuple[Callable[[Service], list[BaseRoute]], ...] = (
    page.routes,
    cut.routes,
    next.routes,
    models.routes,
    runs.routes,
    completions.routes,
    chat.routes,
    attention.routes,
    status.routes,
)


def application(service: Service, access: Access) -> Guard:
    """Returns the ASGI application of a server."""
    routes = [route for group in GROUPS for route in group(service)]
    inner = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _standard,
            **dict.fromkeys((Refusal, AttnError, OSError, MemoryError, RuntimeError), _refused),
            Exception: _bug,
        },
    )
    inner.router.redirect_slashes = False
    paths = {route.endpoint: route.path for route in routes if isinstance(route, Route)}
    return Guard(inner, access, service.limits, service.metrics, paths)


async def _standard(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return standard_refusal(problem.status_code, problem.headers).response(request.url.path)


async def _refused(request: Request, problem: Exception) -> Response:
    refusal = refusal_of(problem)
    if refusal is None:
        raise problem
    return refusal.response(request.url.path)


async def _bug(request: Request, problem: Exception) -> Response:
    """Answers a request that met a bug. Starlette then raises the exception again, and the guard prints it."""
    return bug().response(request.url.path)
