"""POST /v1/attention: what `attncli explain --json` prints for a text and a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.config.limits import at_least
from attncli.config.option import check, option, option_from
from attncli.explain.defaults import AttentionPart, Measure
from attncli.explain.reading import TextPair
from attncli.generation.continuation import continued
from attncli.serve.fields import read_fields
from attncli.serve.models import ServedModel
from attncli.serve.service import Service
from attncli.views import ViewOptions, find_view, reading_of, refuse_generate, request, text_of

_OPTIONS = ("part", "layer", "head", "weights", "words", "check", "temperature", "target", "pair", "against")


@dataclass(frozen=True, kw_only=True)
class AttentionFields:
    """The fields of a request: the options of `attncli explain`, with its names and defaults."""

    text: str
    model: str | None = None
    view: str | None = None  # null: the first screen
    token: str | None = None  # the token in focus, by index or word
    generate: int = option(0, "", limit=at_least(0))  # tokens by which the text is continued first
    part: AttentionPart | None = option_from(ViewOptions, "part")
    layer: int | None = option_from(ViewOptions, "layer")
    head: str | None = option_from(ViewOptions, "head")
    weights: Measure = option_from(ViewOptions, "weights")
    words: bool = False
    check: bool = True
    temperature: float = option_from(ViewOptions, "temperature")
    target: str | None = None
    pair: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageProblem for a value that is not allowed."""
        check(self)
        find_view(self.view).refuse_options(self.options)

    @property
    def options(self) -> ViewOptions:
        """The options of the view."""
        return ViewOptions(**{name: getattr(self, name) for name in _OPTIONS})


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of explanations."""

    async def attention(request: Request) -> Response:
        given = await read_fields(request, AttentionFields, service.limits)
        found = await service.desk.run(
            request, "attention", None, lambda: _document(service.models.get(given.model), given)
        )
        return JSONResponse(found)

    return [Route("/v1/attention", attention, methods=["POST"])]


def _document(served: ServedModel, given: AttentionFields) -> dict[str, Any]:
    """Computes the document of a view, in the model thread. Raises BadInput or UsageProblem."""
    loaded, options, view = served.loaded, given.options, find_view(given.view)
    served.refuse_long(given.text, given.pair, given.target)
    refuse_generate(loaded, given.generate)
    read, generated = text_of(loaded, given.text, options), {}
    if given.generate and not isinstance(read, TextPair):
        generated = {"prompt_tokens": len(read)}
        read = continued(loaded, list(read), given.generate)
    functions = view.load(options)
    reading = reading_of(loaded, read, view, options)
    finding = functions.find(request(reading, loaded.tokenizer, given.token, options))
    return functions.document(finding, loaded.name) | generated
