"""GET / is the page, POST /api/page the data of a text: what the page shows of it, but for the cuts."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.config.limits import FINITE_FROM_0, one_of
from attncli.config.option import check, option
from attncli.explain.defaults import PARTS, AttentionPart
from attncli.generation.defaults import settings_for
from attncli.pages import document_of
from attncli.render.page.payload import payload
from attncli.serve.desk import Order
from attncli.serve.fields import read_fields
from attncli.serve.models import ServedModel
from attncli.serve.service import Service
from attncli.views import ViewOptions, text_of

_CUT_BUDGET = 1e10  # multiply-adds for the cuts of one text: half a second on two cores
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TextFields:
    """The fields of a request that name a model and a text, and order the requests of a client."""

    text: str
    model: str | None = None
    target: str | None = None  # for a model that translates; null: its own translation
    pair: str | None = None  # for BERT: the second text of a pair
    client: str | None = None
    number: int | None = None

    @property
    def options(self) -> ViewOptions:
        """The options of a view that choose the text."""
        return ViewOptions(target=self.target, pair=self.pair)


@dataclass(frozen=True, kw_only=True)
class PageFields(TextFields):
    """The fields of POST /api/page. Those of null have the default of `attncli explain --page`.

    The temperature and the filters have the defaults of `attncli generate`, because the page also draws tokens.
    """

    row: int | None = None  # the row in focus
    part: AttentionPart | None = option(None, "", limit=one_of(PARTS))  # the attention that is shown first
    temperature: float | None = option(None, "", limit=FINITE_FROM_0)  # that the page begins with
    cuts: bool = False  # whether to measure cuts as well
    lens: bool = True  # whether the logit lens is needed
    steps: bool = True  # whether queries, keys and values are needed

    def __post_init__(self) -> None:
        check(self)


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes of the page and of its data."""
    headers = {"Content-Security-Policy": policy_of(service.page)}

    async def page(request: Request) -> Response:
        return HTMLResponse(service.page, headers=headers)

    async def icon(request: Request) -> Response:
        return Response(status_code=204)  # a browser asks for it; without an answer it reports an error

    async def data(request: Request) -> Response:
        given = await read_fields(request, PageFields, service.limits)
        order = Order.of(given.client, given.number)
        found = await service.desk.run(request, "page", order, lambda: _data(service.models.get(given.model), given))
        return Response(found, media_type="application/octet-stream")

    return [
        Route("/", page, methods=["GET"]),
        Route("/favicon.ico", icon, methods=["GET"]),
        Route("/api/page", data, methods=["POST"]),
    ]


def _data(served: ServedModel, given: PageFields) -> bytes:
    """Computes the payload of a text, in the model thread. Raises BadInput or UsageProblem."""
    served.refuse_long(given.text, given.pair, given.target)
    loaded, options = served.loaded, replace(given.options, part=given.part)
    first = int(loaded.translates and given.part != "encoder")  # the rows of a decoder with an encoder count from 1
    token = None if given.row is None else str(given.row + first)
    read = text_of(loaded, given.text, options)
    budget = _CUT_BUDGET if given.cuts else 0
    document = document_of(loaded, read, token, options, served.kinds, budget, lens=given.lens, steps=given.steps)
    return payload([replace(document, start=replace(document.start, **_sampling(loaded, given)))])


def _sampling(loaded: LoadedModel, given: PageFields) -> dict[str, Any]:
    """Returns the temperature and the filters that the page begins with; no filters for an encoder alone."""
    asked: dict[str, Any] = {} if given.temperature is None else {"temperature": given.temperature}
    if not loaded.model.config.causal:
        return asked
    settings = settings_for(loaded, SampleConfig(**asked), asked)
    return {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p", "min_p")}


def policy_of(page: str) -> str:
    """Returns the content security policy of a page for the header, which alone can forbid that it is framed."""
    found = _POLICY.search(page)
    assert found is not None, "the page has no policy"
    return f"{html.unescape(found[1]).rstrip('; ')}; frame-ancestors 'none'"
