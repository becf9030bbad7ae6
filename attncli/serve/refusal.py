"""Refusal: the answer to a request that cannot be served, with its status, its words and its headers.

Every answer of this kind has the same JSON body: {"error": {"message", "hint"}}. The words are ours: they contain no
traceback, and no path of the file system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse

from attncli.errors import AttnError, BadCheckpoint, BadInput, OutOfRoom, UsageProblem, lacks_memory

_STANDARD = {
    404: ("There is nothing at this address.", "GET / is the page."),
    405: ("This address does not answer this method.", "It answers the methods that the header Allow names."),
}


class Refusal(Exception):
    """Raised to answer a request with an error."""

    def __init__(
        self, status: int, message: str, hint: str = "", *, retry: float | None = None, **headers: str
    ) -> None:
        """`retry` is the number of seconds after which the client may ask again; the header Retry-After says it."""
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if retry is not None:
            self.headers["Retry-After"] = str(max(math.ceil(retry), 1))

    def response(self) -> JSONResponse:
        """Returns the response."""
        return refused(self.status, self.message, self.hint, self.headers)


def refused(status: int, message: str, hint: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns a response with an error as JSON."""
    return JSONResponse({"error": {"message": message, "hint": hint}}, status, dict(headers or {}))


def standard_refusal(status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the response for an error that Starlette found, such as 404."""
    message, hint = _STANDARD.get(status, ("This request cannot be answered.", ""))
    return refused(status, message, hint, headers)


def refusal_of(problem: Exception) -> Refusal | None:
    """Returns the refusal for an error that the client or the user of the server can mend; None for a bug.

    The message of a BadCheckpoint or of an OSError may contain a path, so it is not repeated.
    """
    if isinstance(problem, Refusal):
        return problem
    if isinstance(problem, BadCheckpoint | OSError):
        return Refusal(
            422, "The files of this model cannot be read.", "On the machine that serves it, attncli info says why."
        )
    if isinstance(problem, OutOfRoom) or lacks_memory(problem):
        return Refusal(503, "The server is out of memory for this request.", "Give a shorter text.", retry=5)
    if isinstance(problem, UsageProblem | BadInput):
        return Refusal(400, problem.message, problem.hint)
    if isinstance(problem, AttnError):
        return Refusal(422, "The model cannot do this.", "")
    return None
