"""Turns a prompt into token ids: as plain text to continue, or with --chat as a message in the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from attncli.checkpoint.chat import ChatTemplate, Message, read_chat_template, required_chat_template
from attncli.checkpoint.load import LoadedModel
from attncli.errors import AttnError, BadInput

Turn = tuple[str, str]  # the user's message, and the model's answer so far


@dataclass(frozen=True)
class PromptFormat:
    """How prompts become token ids: the model, its chat template if it has one, and whether to use the template."""

    loaded: LoadedModel
    template: ChatTemplate | None
    chat: bool

    @classmethod
    def of(cls, loaded: LoadedModel, chat: bool) -> PromptFormat:
        """Returns the format for a model, and reads its chat template.

        With `chat`, raises UsageProblem for a model without a template, BadCheckpoint for an invalid template.
        """
        if chat:
            return cls(loaded, required_chat_template(loaded.path), chat)
        with suppress(AttnError):
            return cls(loaded, read_chat_template(loaded.path), chat)
        return cls(loaded, None, chat)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Returns the token ids of the last message. With `chat`, formats the conversation with the chat template.

        Raises BadInput for a conversation that is longer than the context.
        """
        if not self.chat or self.template is None:
            return self.loaded.prompt(turns[-1][0])
        messages: list[Message] = []
        for said, answer in turns[:-1]:
            messages += [Message(role="user", content=said), Message(role="assistant", content=answer)]
        messages.append(Message(role="user", content=turns[-1][0]))
        ids = self.template.prompt(self.loaded.tokenizer, messages)
        if len(ids) > (context := self.loaded.model.config.context):
            raise BadInput(
                f"The conversation has {len(ids):,} tokens, and the model reads at most {context:,}.",
                "Give a shorter message; with -i, /new begins a new conversation.",
            )
        return ids

    @property
    def advice(self) -> str | None:
        """A note that recommends --chat, for a model with a chat template that is not used; else None."""
        if self.chat or self.template is None:
            return None
        return "this model was trained on conversations: --chat formats the prompt with its chat template"
