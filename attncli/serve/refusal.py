"""Refusal: the answer to a request that cannot be served, with its status, its words and its headers.

The JSON body is {"error": {"message", "hint"}}. For an address under /v1/, it has OpenAI's form instead, so that
OpenAI's clients show the message: {"error": {"message", "type", "param", "code"}}. There, a text that is too long has
status 400, on which these clients rely. The words are ours: they contain no traceback, and no path of the file system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from attncli.errors import AttnError, BadCheckpoint, BadInput, OutOfRoom, UsageProblem, lacks_memory

_STANDARD = {
    404: ("There is nothing at this address.", "GET / is the page."),
    405: ("This address does not answer this method.", "It answers the methods that the header Allow names."),
}
_OPENAI = "/v1/"  # the addresses whose errors have OpenAI's form
_TYPES = {403: "permission_error", 429: "rate_limit_error"}
_TOO_LONG = "context_length_exceeded"  # OpenAI's code
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded", 503: "unavailable"}


class Refusal(Exception):
    """Raised to answer a request with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        hint: str = "",
        *,
        param: str | None = None,
        code: str | None = None,
        retry: float | None = None,
        **headers: str,
    ) -> None:
        """`param` is the field at fault, if it is one. `code` is OpenAI's, if it does not follow from the status.

        `retry` is the number of seconds after which the client may ask again; the header Retry-After says it.
        """
        super().__init__(message)
        self.status, self.message, self.hint, self.param = status, message, hint, param
        self._own_code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if retry is not None:
            self.headers["Retry-After"] = str(max(math.ceil(retry), 1))

    def response(self, path: str) -> JSONResponse:
        """Returns the response to a request of an address, in the form that its clients read."""
        if not path.startswith(_OPENAI):
            return JSONResponse({"error": self._error}, self.status, self.headers)
        status = 400 if self._own_code == _TOO_LONG else self.status
        return JSONResponse({"error": self.openai_error}, status, self.headers)

    @property
    def openai_error(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        words = f"{self.message} {self.hint}".strip()
        return {"message": words, "type": kind, "param": self.param, "code": self._code}

    @property
    def _code(self) -> str | None:
        named = "model_not_found" if (self.status, self.param) == (404, "model") else None
        return self._own_code or named or _CODES.get(self.status)

    @property
    def _error(self) -> dict[str, Any]:
        return {"message": self.message, "hint": self.hint}


def bug() -> Refusal:
    """Returns the refusal of a request that met a bug."""
    return Refusal(500, "This is a bug of attncli.", "The server goes on. The traceback is on its standard error.")


def too_long(length: str, context: int, field: str | None) -> Refusal:
    """Returns the refusal of a text that is longer than the context of the model. `length` is its length in words."""
    return Refusal(
        422,
        f"The text has {length}, and the model reads at most {context:,} tokens.",
        "Give a shorter text.",
        param=field,
        code=_TOO_LONG,
    )


def too_slow(seconds: float) -> Refusal:
    """Returns the refusal of a request that took too long."""
    return Refusal(503, f"The model took longer than {seconds:g} s.", "Give a shorter text.", retry=1)


def standard_refusal(status: int, headers: Mapping[str, str] | None = None) -> Refusal:
    """Returns the refusal for an error that Starlette found, such as 404."""
    message, hint = _STANDARD.get(status, ("This request cannot be answered.", ""))
    refusal = Refusal(status, message, hint)
    refusal.headers |= dict(headers or {})
    return refusal


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
