"""Parses the body of a POST request: a JSON object whose fields are those of a dataclass.

A form of another site cannot send JSON without asking first, so any other type of content is refused. A field is known
or refused: none is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from attncli.checkpoint.untrusted_json import parse_object
from attncli.errors import BadCheckpoint
from attncli.records import record_from_json, types_of
from attncli.serve.limits import Limits, read_body
from attncli.serve.refusal import Refusal

T = TypeVar("T")
_WHERE = "The request"


async def read_fields(request: Request, kind: type[T], limits: Limits) -> T:
    """Returns the dataclass `kind` with the fields of a request's body.

    Raises Refusal: 415 for another type than JSON, 400 for fields that are missing, unknown, too long or of another
    type, and for those that the dataclass refuses; also the refusals of `read_body`.
    """
    refuse_other_content(request)
    data = await read_body(request, limits)
    try:
        values = parse_object(data, Path(_WHERE), unique=True)
        _refuse_long_lists(kind, values, limits.entries)
        return record_from_json(kind, values, _WHERE)
    except BadCheckpoint as problem:  # as the same checks of a file name it
        raise Refusal(400, problem.message, "docs/serving.md lists the fields of each address.") from None


def refuse_other_content(request: Request) -> None:
    """Raises Refusal with status 415 for a request that is not declared as JSON."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise Refusal(415, "The request is not JSON.", "Send the header Content-Type: application/json.")


def _refuse_long_lists(kind: type, values: Mapping[str, Any], most: int) -> None:
    """Raises Refusal for a field of a request that is a list of more than `most` entries, before any is checked."""
    for name in types_of(kind):
        if isinstance(value := values.get(name), list) and len(value) > most:
            raise Refusal(
                400,
                f"{_WHERE}: {name} has {len(value):,} entries, and must have at most {most:,}.",
                "docs/serving.md lists the limits.",
            )
