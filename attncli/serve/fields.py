"""Parses the body of a POST request: a JSON object whose fields are those of a dataclass.

A form of another site cannot send JSON without asking first, so any other type of content is refused. A field is known
or refused: none is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from starlette.requests import Request

from attncli.checkpoint.untrusted_json import parse_object
from attncli.errors import BadCheckpoint
from attncli.records import record_from_json
from attncli.serve.limits import Limits, read_body
from attncli.serve.refusal import Refusal

T = TypeVar("T")
_WHERE = "The request"


async def read_fields(request: Request, kind: type[T], limits: Limits) -> T:
    """Returns the dataclass `kind` with the fields of a request's body.

    Raises Refusal: 415 for another type than JSON, 400 for fields that are missing, unknown or of another type, and for
    those that the dataclass refuses; also the refusals of `read_body`.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise Refusal(415, "The request is not JSON.", "Send the header Content-Type: application/json.")
    data = await read_body(request, limits)
    try:
        return record_from_json(kind, parse_object(data, Path(_WHERE)), _WHERE)
    except BadCheckpoint as problem:  # as the same checks of a file name it
        raise Refusal(400, problem.message, "docs/serving.md lists the fields of each address.") from None
