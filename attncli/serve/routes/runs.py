"""GET /api/runs and /api/runs/NAME?after=STEP: the loss curves of training runs, also of one that is still running.

A run records its progress whenever it saves. A client that knows the curve up to a step asks for what comes after.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.checkpoint.catalog import ModelEntry, known_models
from attncli.checkpoint.directory import METRICS
from attncli.errors import BadCheckpoint
from attncli.paths import is_file
from attncli.render.curves import curves_document
from attncli.render.models import newest_first
from attncli.serve.refusal import Refusal
from attncli.serve.service import Service
from attncli.training.curves import read_curves

_MOST_DIGITS = 15


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes about training runs."""

    async def runs(request: Request) -> Response:
        entries = await service.read(_runs)
        return JSONResponse({"runs": [{"name": entry.name, "status": entry.status} for entry in entries]})

    async def run(request: Request) -> Response:
        name, after = request.path_params["name"], request.query_params.get("after", "-1")
        if not (after == "-1" or (after.isascii() and after.isdecimal() and len(after) <= _MOST_DIGITS)):
            raise Refusal(400, "after is not a step.", "Give a whole number of at least 0.")
        return JSONResponse(await service.read(lambda: _curves(name, int(after))))

    return [Route("/api/runs", runs, methods=["GET"]), Route("/api/runs/{name}", run, methods=["GET"])]


def _runs() -> list[ModelEntry]:
    """Returns the models that attncli trained, the newest first."""
    return newest_first([entry for entry in known_models() if entry.run and is_file(entry.path / METRICS)])


def _curves(name: str, after: int) -> dict[str, Any]:
    """Returns the curves of a run after a step, and its status. Raises Refusal with status 404 for another name."""
    entry = next((entry for entry in _runs() if entry.name == name), None)
    if entry is None:
        raise Refusal(404, "There is no run of this name.", "GET /api/runs lists the names.")
    try:
        (found,) = curves_document([read_curves(str(entry.path))])["runs"]
    except BadCheckpoint:
        raise Refusal(404, "This run has no measurements yet.", "It writes them when it saves.", retry=5) from None
    found.pop("path")
    for curve in ("train", "validation"):
        found[curve] = _after(found[curve], after)
    return {**found, "name": name, "status": entry.status}


def _after(curve: dict[str, list[Any]], step: int) -> dict[str, list[Any]]:
    """Returns the points of a curve after a step."""
    kept = [at for at, one in enumerate(curve["step"]) if one is not None and one > step]
    return {key: [values[at] for at in kept] for key, values in curve.items()}
