"""Writes the answers of POST /v1/completions: records to JSON in OpenAI's form."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attncli.serve.openai.choices import Delta
from attncli.serve.openai.scored import ScoredToken

Spelling = Callable[[int], bytes]  # from the id of a token to its bytes


def token_string(data: bytes) -> str:
    """Returns the bytes of a token as OpenAI writes them: text, or 'bytes:\\xe2' for an incomplete character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)


def usage_document(prompt: int, generated: int) -> dict[str, int]:
    """Returns the numbers of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


@dataclass(frozen=True)
class Answer:
    """What all parts of the answer to one request have in common."""

    model: str
    seed: int
    spelling: Spelling
    logprobs: bool  # whether the answer has log-probabilities
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self, deltas: Sequence[Delta], usage: Mapping[str, int]) -> dict[str, Any]:
        """Returns the whole answer, given one delta for each sample."""
        return self._head | {"choices": [self._choice(delta) for delta in deltas], "usage": usage}

    def chunk(self, delta: Delta, *, usage: bool) -> dict[str, Any]:
        """Returns a part of a streamed answer. With `usage`, the last part has the numbers of tokens."""
        return self._head | {"choices": [self._choice(delta)]} | ({"usage": None} if usage else {})

    def usage_chunk(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """Returns the last part of a streamed answer: the numbers of tokens."""
        return self._head | {"choices": [], "usage": usage}

    @property
    def _head(self) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return head | {"seed": self.seed}

    def _choice(self, delta: Delta) -> dict[str, Any]:
        logprobs = self._logprobs(delta.tokens) if self.logprobs else None
        return {"index": delta.index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.reason}

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }

    def _top(self, token: ScoredToken) -> dict[str, float] | None:
        """Returns the most probable tokens and the token itself. Of two that are spelled alike, the first counts."""
        if token.logprob is None:
            return None
        found: dict[str, float] = {}
        for id_, logprob in (*token.top, (token.id, token.logprob)):
            found.setdefault(self._spelled(id_), logprob)
        return found

    def _spelled(self, id_: int) -> str:
        return token_string(self.spelling(id_))
