"""Writes the answers of POST /v1/chat/completions: records to JSON in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attncli.serve.openai.answers import Answer, finite_logprob, token_string
from attncli.serve.openai.choices import Delta
from attncli.serve.openai.scored import ScoredToken


class ChatAnswer(Answer):
    """The answer of POST /v1/chat/completions."""

    PREFIX, OBJECT, CHUNK = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first_chunks(self, samples: int, *, usage: bool) -> list[dict[str, Any]]:
        """Returns the parts with which a stream begins: the role of each sample."""
        said = {"role": "assistant", "content": ""}
        return [
            self._chunk({"index": index, "delta": said, "logprobs": None, "finish_reason": None}, usage=usage)
            for index in range(samples)
        ]

    def _choice(self, delta: Delta) -> dict[str, Any]:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return {"index": delta.index, "message": message} | self._rest(delta)

    def _part(self, delta: Delta) -> dict[str, Any]:
        return {"index": delta.index, "delta": {"content": delta.text} if delta.text else {}} | self._rest(delta)

    def _rest(self, delta: Delta) -> dict[str, Any]:
        logprobs = {"content": self._content(delta.tokens), "refusal": None} if self.logprobs else None
        return {"logprobs": logprobs, "finish_reason": delta.reason}

    def _content(self, tokens: Sequence[ScoredToken]) -> list[dict[str, Any]]:
        return [
            self._token(token.id, token.logprob) | {"top_logprobs": [self._token(*one) for one in token.top]}
            for token in tokens
        ]

    def _token(self, id_: int, logprob: float | None) -> dict[str, Any]:
        data = self.spelling(id_)
        return {"token": token_string(data), "logprob": finite_logprob(logprob), "bytes": list(data)}
