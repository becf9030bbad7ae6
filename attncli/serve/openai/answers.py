"""Writes answers in OpenAI's form, as JSON: what all routes share, and the answers of POST /v1/completions."""

from __future__ import annotations

import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from attncli.serve.openai.choices import Delta
from attncli.serve.openai.scored import ScoredToken
from attncli.serve.refusal import Refusal

Spelling = Callable[[int], bytes]  # from the id of a token to its bytes
_IMPOSSIBLE = -9999.0  # OpenAI's log-probability of a token with the probability 0: JSON has no infinity


def token_string(data: bytes) -> str:
    """Returns the bytes of a token as OpenAI writes them: text, or 'bytes:\\xe2' for an incomplete character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)


def finite_logprob(logprob: float | None) -> float | None:
    """Returns a log-probability as JSON can hold it, or None for None. Raises Refusal for NaN."""
    if logprob is None:
        return None
    if math.isnan(logprob):
        raise Refusal(
            422, "The model gives probabilities that are not numbers.", "On the server, attncli eval says more."
        )
    return max(logprob, _IMPOSSIBLE)


def usage_document(prompt: int, generated: int) -> dict[str, int]:
    """Returns the numbers of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


@dataclass(frozen=True)
class Answer(ABC):
    """The answer to one request, whole or as a stream. All its parts have the same id, time and model."""

    PREFIX: ClassVar[str]  # of the id
    OBJECT: ClassVar[str]
    CHUNK: ClassVar[str]  # the object of a part of a stream

    model: str
    seed: int
    spelling: Spelling
    logprobs: bool  # whether the answer has log-probabilities
    key: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self, deltas: Sequence[Delta], usage: Mapping[str, int]) -> dict[str, Any]:
        """Returns the whole answer, given one delta for each sample."""
        return self._head(self.OBJECT) | {"choices": [self._choice(delta) for delta in deltas], "usage": usage}

    def chunk(self, delta: Delta, *, usage: bool) -> dict[str, Any]:
        """Returns a part of a streamed answer. With `usage`, the last part has the numbers of tokens."""
        return self._chunk(self._part(delta), usage=usage)

    def first_chunks(self, samples: int, *, usage: bool) -> list[dict[str, Any]]:
        """Returns the parts with which a stream of some samples begins."""
        return []

    def usage_chunk(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """Returns the last part of a streamed answer: the numbers of tokens."""
        return self._head(self.CHUNK) | {"choices": [], "usage": usage}

    def _chunk(self, choice: dict[str, Any], *, usage: bool) -> dict[str, Any]:
        return self._head(self.CHUNK) | {"choices": [choice]} | ({"usage": None} if usage else {})

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": f"{self.PREFIX}-{self.key}", "object": kind, "created": self.created, "model": self.model}
        return head | {"seed": self.seed}

    @abstractmethod
    def _choice(self, delta: Delta) -> dict[str, Any]:
        """Returns a sample of a whole answer."""

    @abstractmethod
    def _part(self, delta: Delta) -> dict[str, Any]:
        """Returns what a step adds to a sample."""


class CompletionAnswer(Answer):
    """The answer of POST /v1/completions."""

    PREFIX, OBJECT, CHUNK = "cmpl", "text_completion", "text_completion"

    def _choice(self, delta: Delta) -> dict[str, Any]:
        logprobs = self._logprobs(delta.tokens) if self.logprobs else None
        return {"index": delta.index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.reason}

    def _part(self, delta: Delta) -> dict[str, Any]:
        return self._choice(delta)

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(token.id) for token in tokens],
            "token_logprobs": [finite_logprob(token.logprob) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }

    def _top(self, token: ScoredToken) -> dict[str, float | None] | None:
        """Returns the most probable tokens and the token itself. Of two that are spelled alike, the first counts."""
        if token.logprob is None:
            return None
        found = dict[str, float | None]()
        for id_, logprob in (*token.top, (token.id, token.logprob)):
            found.setdefault(self._spelled(id_), finite_logprob(logprob))
        return found

    def _spelled(self, id_: int) -> str:
        return token_string(self.spelling(id_))
