"""POST /api/next: one token drawn after a text, and the distribution that it was drawn from.

The client passes the ids that were drawn before, so the server remembers nothing of a text. With the same settings and
seed, the n-th call draws the n-th token of `attncli generate`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.config import SampleConfig
from attncli.config.limits import Limit, is_whole
from attncli.config.option import check, option
from attncli.config.sampling import draw_seed
from attncli.generation.defaults import settings_for, target_and_source
from attncli.generation.one_token import OneToken
from attncli.render.escape import id_label
from attncli.serve.desk import Order
from attncli.serve.fields import read_fields
from attncli.serve.models import ServedModel
from attncli.serve.service import Service

_MOST_LISTED = 1000
_SETTINGS = tuple(field.name for field in fields(SampleConfig))


@dataclass(frozen=True, kw_only=True)
class NextFields:
    """The fields of a request. A setting that is null has the default of `attncli generate`."""

    text: str
    model: str | None = None
    target: str | None = None  # for a model that translates: the beginning of the translation
    ids: tuple[int, ...] = ()  # the tokens that were drawn before
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None  # null: drawn, and part of the answer
    count: int = option(
        20,
        "",
        limit=Limit(f"a whole number from 1 to {_MOST_LISTED}", lambda n: is_whole(n) and 1 <= n <= _MOST_LISTED),
    )
    client: str | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        check(self)
        self.sampling()

    def sampling(self) -> SampleConfig:
        """Returns the settings of the draw. Raises UsageProblem for one that is not allowed."""
        return SampleConfig(**{"seed": draw_seed()} | self.given)

    @property
    def given(self) -> dict[str, Any]:
        """The sampling settings that the request gives."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name, None)) is not None}


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of the next token."""

    async def next_token(request: Request) -> Response:
        given = await read_fields(request, NextFields, service.limits)
        order, sampling = Order.of(given.client, given.number), given.sampling()

        def work() -> dict[str, Any]:
            return _drawn(service.models.get(given.model), given, sampling)

        return JSONResponse(await service.desk.run(request, "next", order, work))

    return [Route("/api/next", next_token, methods=["POST"])]


def _drawn(served: ServedModel, given: NextFields, sampling: SampleConfig) -> dict[str, Any]:
    """Draws the token, in the model thread. Raises UsageProblem or BadInput."""
    loaded = served.loaded
    loaded.refuse_encoder("continues no text")
    served.refuse_long(given.text, target=given.target)
    prompt, source = target_and_source(loaded, loaded.prompt(given.text), given.target)
    config = settings_for(loaded, sampling, given.given)
    drawn = served.drawer.draw(prompt, given.ids, config, source, given.count)
    return _document(drawn, config, loaded.name)


def _document(drawn: OneToken, config: SampleConfig, model: str) -> dict[str, Any]:
    """Returns the answer; `chances` has the probability of each token before and after the sampling steps."""
    labels = {chance.id: id_label(chance.id, chance.text) for chance in drawn.chances}
    return {
        "model": model,
        "token": {"id": drawn.id, "label": labels[drawn.id]},
        "step": drawn.step,
        "ends": drawn.ends,
        "written": drawn.written,
        "uniform": drawn.uniform,
        "left": drawn.left,
        "chances": [{"label": labels[chance.id]} | asdict(chance) for chance in drawn.chances],
        "settings": {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p", "seed")},
    }
