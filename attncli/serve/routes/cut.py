"""POST /api/cut: what is left of a prediction when edges, a row, a column or heads of attention are cut.

A page asks for many cuts of one text, so the pass without cuts is kept with the model, for the last text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from attncli.config.option import check
from attncli.errors import UsageProblem
from attncli.explain.defaults import AttentionPart
from attncli.explain.next_token import name_of
from attncli.explain.page.cuts import LiveCut, LiveEffect, cut_effect
from attncli.explain.page.document import readings_of
from attncli.explain.page.recomputed import UncutPass
from attncli.explain.question import refuse_length
from attncli.render.escape import id_label
from attncli.serve.desk import Order
from attncli.serve.fields import read_fields
from attncli.serve.models import ServedModel
from attncli.serve.routes.page import TextFields
from attncli.serve.service import Service
from attncli.text.tokenizer import Tokenizer
from attncli.views import text_of


@dataclass(frozen=True, kw_only=True)
class CutFields(TextFields):
    """The fields of a request. Rows and columns are counted from 0."""

    kind: Literal["edge", "row", "column", "head"]
    part: AttentionPart | None = None  # of a model that translates; null: cross
    edges: tuple[tuple[int, int], ...] | None = None  # (row, column), for the kind edge
    row: int | None = None  # for the kind row: it sees only itself, in cross-attention only the last source
    column: int | None = None  # for the kind column: it is cut from every row
    heads: tuple[tuple[int, int], ...] | None = None  # (layer, head); null: all heads of all layers
    measured: int  # the row whose prediction is measured

    def __post_init__(self) -> None:
        """Raises UsageProblem unless exactly what the kind needs is given."""
        check(self)
        needed = {"edge": "edges", "row": "row", "column": "column", "head": "heads"}[self.kind]
        for name in ("edges", "row", "column"):
            if (getattr(self, name) is not None) != (name == needed):
                raise UsageProblem(f"a cut of kind {self.kind} {'needs' if name == needed else 'takes no'} {name}.")
        if needed == "heads" and not self.heads:
            raise UsageProblem("a cut of kind head needs heads.")

    @property
    def cut(self) -> LiveCut:
        """The cut."""
        rows, columns = (() if at is None else (at,) for at in (self.row, self.column))
        return LiveCut(self.edges or (), rows, columns, self.heads)


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of a cut."""

    async def cut(request: Request) -> Response:
        given = await read_fields(request, CutFields, service.limits)
        order = Order.of(given.client, given.number)
        found = await service.desk.run(request, "cut", order, lambda: _cut(service.models.get(given.model), given))
        return JSONResponse(found)

    return [Route("/api/cut", cut, methods=["POST"])]


def _cut(served: ServedModel, given: CutFields) -> dict[str, Any]:
    """Measures the cut, in the model thread. Raises BadInput or UsageProblem."""
    uncut, parts = served.remembered((given.text, given.pair, given.target), lambda: _uncut(served, given))
    part = given.part or parts[-1]
    if part not in parts:
        raise UsageProblem(f"{served.loaded.name} has no attention {part!r}.", f"It has {', '.join(parts)}.")
    return _document(cut_effect(uncut, part, given.cut, given.measured), served.loaded.tokenizer)


def _uncut(served: ServedModel, given: CutFields) -> tuple[UncutPass, list[AttentionPart]]:
    """Returns the pass without cuts, and the attentions that can be cut."""
    served.refuse_long(given.text, given.pair, given.target)
    readings = readings_of(served.loaded, text_of(served.loaded, given.text, given.options))
    reading = next(reversed(readings.values()))
    refuse_length(reading.pieces, served.loaded.model.config.context)
    return UncutPass(reading, served.loaded.tokenizer), list(readings)


def _document(effect: LiveEffect, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the answer: the candidates with their probabilities before and after the cut, and the tokens after it."""
    candidates, after = effect.candidates.tolist(), effect.ids.tolist()
    return {
        "candidates": candidates,
        "before": effect.before.tolist(),
        "kept": effect.kept.tolist(),
        "after": list(zip(after, effect.probabilities.tolist(), strict=True)),
        "vocabulary": {str(id_): id_label(id_, name_of(tokenizer, id_)) for id_ in {*candidates, *after}},
    }
