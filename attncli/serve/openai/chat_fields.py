"""The fields of POST /v1/chat/completions: a conversation, and the fields that all routes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attncli.checkpoint.chat import Message
from attncli.config import SampleConfig, shown_value
from attncli.config.limits import alternatives
from attncli.serve.limits import Limits
from attncli.serve.openai.completion_fields import MOST_LOGPROBS
from attncli.serve.openai.fields import TextFields, refused_field, require
from attncli.serve.refusal import Refusal

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class ChatFields(TextFields):
    """The fields of a request."""

    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None  # the newer name of max_tokens
    logprobs: bool = False
    top_logprobs: int | None = None  # the number of most probable tokens for each token

    def refuse(self, limits: Limits) -> None:
        """Raises Refusal for values that are not allowed, or not together."""
        super().refuse(limits)
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise refused_field(
                "max_completion_tokens", "max_completion_tokens and max_tokens are the same limit.", "Give one of them."
            )
        for name in ("max_tokens", "max_completion_tokens"):
            value = getattr(self, name)
            fits = value is None or 1 <= value <= limits.new_tokens
            require(fits, name, value, f"a whole number from 1 to {limits.new_tokens:,}")
        fits = self.top_logprobs is None or 0 <= self.top_logprobs <= MOST_LOGPROBS
        require(fits, "top_logprobs", self.top_logprobs, f"a whole number from 0 to {MOST_LOGPROBS}")
        if self.top_logprobs is not None and not self.logprobs:
            raise refused_field("top_logprobs", "top_logprobs needs logprobs.", "Set logprobs to true.")
        most = len(self.conversation)
        require(1 <= most <= limits.messages, "messages", f"{most} messages", f"from 1 to {limits.messages} messages")

    @property
    def most_tokens(self) -> int:
        """The maximum number of new tokens of a sample."""
        return self.max_tokens or self.max_completion_tokens or SampleConfig.max_new_tokens

    @property
    def conversation(self) -> list[Message]:
        """The messages with their texts. Raises Refusal for anything else."""
        return [_message(at, message) for at, message in enumerate(self.messages or (), 1)]


def _message(at: int, given: Mapping[str, Any]) -> Message:
    values = {name: value for name, value in given.items() if value is not None}
    role, content = values.pop("role", None), values.pop("content", None)
    if role not in _ROLES:
        raise _refused(f"message {at} has the role {shown_value(role)}, and must have {alternatives(_ROLES)}.")
    for name in values:
        raise _refused(f"message {at} has {shown_value(name)}, which this server does not implement.")
    return Message(role=role, content=_text(at, content))


def _text(at: int, content: object) -> str:
    """Returns the text of a message, whose parts are joined by line breaks."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [None]:
        if not (isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"):
            raise _refused(f"message {at} has no text: its content must be a text, or a list of parts of type text.")
        if not isinstance(part["text"], str):
            raise _refused(f"message {at} has a part whose text is {shown_value(part['text'])}.")
        texts.append(part["text"])
    return "\n".join(texts)


def _refused(words: str) -> Refusal:
    return refused_field("messages", f"messages: {words}")
