"""GET /api/models: the models that a request may name, as `attncli models` lists them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.checkpoint.listing import list_known
from attncli.model.count import count_parameters
from attncli.render.models import models_document
from attncli.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes about models."""

    async def models(request: Request) -> Response:
        listed = await service.read(_listed)
        for one in listed:
            one["loaded"] = one["name"] in service.models.loaded
        return JSONResponse({"first": service.models.first, "models": listed})

    return [Route("/api/models", models, methods=["GET"])]


def _listed() -> list[dict[str, Any]]:
    """Returns the models, each with its kind and context; without the path, which is nothing for a client."""
    listing = list_known()
    parameters = {name: sum(count_parameters(shape).values()) for name, shape in listing.shapes.items()}
    found = []
    for one in models_document(listing.entries, parameters, listing.default):
        shape = listing.shapes.get(one["name"])
        one.pop("path")
        found.append(one | {"kind": shape and shape.kind, "context": shape and shape.context})
    return found
