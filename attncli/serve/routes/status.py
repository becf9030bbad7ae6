"""What other programs ask about the server: GET /v1/models, GET /health and GET /metrics."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.checkpoint.listing import list_known
from attncli.serve.metrics import CONTENT_TYPE
from attncli.serve.refusal import Refusal
from attncli.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes about the server."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": await service.read(lambda: _listed(service.models.first))})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        listed = await service.read(lambda: _listed(service.models.first))
        found = next((one for one in listed if one["id"] == name), None)
        if found is None:
            raise Refusal(404, "There is no model of this name.", "GET /v1/models lists the names.", param="model")
        return JSONResponse(found)

    async def health(request: Request) -> Response:
        runs = service.thread.runs
        return JSONResponse({"status": "ok" if runs else "ending"}, 200 if runs else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(*service.texts.count), media_type=CONTENT_TYPE)

    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


def _listed(first: str) -> list[dict[str, Any]]:
    """Returns the first model, then the other models that generate texts."""
    listing = list_known()
    saved = {entry.name: int(entry.modified) for entry in listing.entries}
    others = (name for name, shape in listing.shapes.items() if shape.causal and name != first)
    return [
        {"id": name, "object": "model", "created": saved.get(name, 0), "owned_by": "attncli"}
        for name in (first, *others)
    ]
