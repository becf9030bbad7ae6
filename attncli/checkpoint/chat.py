"""Converts a conversation to the token ids that a chat model continues, with the chat template of the model.

The template is rendered as in transformers, by `text/template.py` in a subprocess, which is killed if it takes too
long. The template's special tokens become special ids. The messages stay plain text, even if a message contains the
text of a special token: a placeholder replaces this text before rendering, and tokenizing restores it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from attncli.checkpoint import directory
from attncli.checkpoint.gguf.folder import open_folder
from attncli.errors import COPY_AGAIN, BadCheckpoint, BadInput, UsageProblem
from attncli.text.tokenizer import Tokenizer, checked_text

_RENDERER = Path(__file__).parent.parent / "text" / "template.py"
_LARGEST = 1 << 20  # the largest template, in bytes
_MOST_RENDERED = 1 << 20  # the largest number of characters that a template may add to the messages
_SECONDS = 4  # of CPU time
_MOST_SECONDS = 30.0  # of wall-clock time; decides if the machine is busy or the system cannot limit CPU time
_TIME_IS_UP = getattr(signal, "SIGXCPU", None)
_DEFAULT = "default"  # the name of the template for conversations in a list of named templates
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Message(TypedDict):
    """One turn of a conversation; `role` is 'system', 'user' or 'assistant'."""

    role: str
    content: str


class TemplateFailure(BadCheckpoint):
    """A chat template that fails for some messages; `why` says how, without the path of the template."""

    why = ""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a model. `names` are the template's variables for special tokens: {'bos_token': '<s>'}."""

    source: str
    names: dict[str, str]
    where: str

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of the conversation, which end where the model's turn begins.

        Raises TemplateFailure if the template fails or takes too long.
        """
        return tokenizer.encode_with_special(*self.rendered(tokenizer, messages))

    def rendered(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, dict[str, str]]:
        """Returns the rendered conversation and its placeholders, as `encode_with_special` takes them.

        This needs no model and takes most of the time. Raises TemplateFailure if the template fails or takes too long.
        """
        for message in messages:
            checked_text(message["content"])
        hidden = tokenizer.stand_ins([message["content"] for message in messages])
        said = [Message(role=message["role"], content=_hide(message["content"], hidden)) for message in messages]
        return self._rendered(said), hidden

    def _rendered(self, messages: Sequence[Message]) -> str:
        most = _MOST_RENDERED + 2 * sum(len(message["content"]) for message in messages)
        values = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None, **self.names}
        asked = json.dumps({"template": self.source, "values": values, "most": most, "seconds": _SECONDS})
        command = [sys.executable, "-P", str(_RENDERER)]
        try:
            done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=_MOST_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._failed(f"it has not ended after {_MOST_SECONDS:g} s") from None
        if _TIME_IS_UP is not None and done.returncode == -_TIME_IS_UP:
            raise self._failed(f"it has not ended after {_SECONDS} s")
        try:
            told = json.loads(done.stdout)
        except ValueError:
            raise self._failed("its process ended without a result") from None
        if "text" not in told:
            raise self._failed(str(told.get("problem")))
        try:
            return checked_text(str(told["text"]))
        except BadInput:
            raise self._failed("it makes text that is not valid Unicode") from None

    def _failed(self, why: str) -> TemplateFailure:
        failure = TemplateFailure.naming(
            lambda named: (f"The chat template of {self.where} fails: {why}.", f"Leave out {named('chat')}.")
        )
        failure.why = why
        return failure


def _hide(text: str, stand_ins: dict[str, str]) -> str:
    """Replaces each text of a special token by its placeholder.

    `stand_ins` maps placeholders to these texts, the longest text first.
    """
    for stand_in, token in stand_ins.items():
        text = text.replace(token, stand_in)
    return text


def read_chat_template(path: Path) -> ChatTemplate | None:
    """Returns the chat template of a model directory, or None if there is none.

    Raises BadCheckpoint if the template is malformed.
    """
    folder = open_folder(path)
    described = folder.json_if_any(directory.TOKENIZER_CONFIG)
    if folder.holds(directory.CHAT_TEMPLATE):  # this file has precedence, as in transformers
        source: object = folder.read(directory.CHAT_TEMPLATE, _LARGEST).decode("utf-8", "replace")
        where = folder.where(directory.CHAT_TEMPLATE)
    else:
        source, where = _chosen(described.get("chat_template"), path), folder.where(directory.TOKENIZER_CONFIG)
    if source is None:
        return None
    if not isinstance(source, str) or len(source) > _LARGEST:
        raise BadCheckpoint(
            f"The chat template in {where} is not a text of at most {_LARGEST:,} characters.", COPY_AGAIN
        )
    return ChatTemplate(source, _special_tokens(described), str(where))


def read_special_tokens(path: Path) -> dict[str, str]:
    """Returns the texts of a model's special tokens by their settings: {'bos_token': '<s>'}. Raises BadCheckpoint."""
    return _special_tokens(open_folder(path).json_if_any(directory.TOKENIZER_CONFIG))


def _special_tokens(described: dict[str, Any]) -> dict[str, str]:
    return {f"{name}_token": text for name in _SPECIAL if (text := _spelled(described.get(f"{name}_token")))}


def required_chat_template(path: Path) -> ChatTemplate:
    """Returns the chat template of a model. Raises UsageProblem if the model has no template."""
    if (template := read_chat_template(path)) is None:
        raise UsageProblem.naming(
            lambda named: (
                f"{directory.name_of(path)} has no chat template: it continues texts.",
                f"Leave out {named('chat')}, or use a model that was trained on conversations.",
            )
        )
    return template


def _chosen(templates: object, path: Path) -> object:
    """Returns the template for conversations if `templates` is a list of named templates, else `templates`."""
    if not isinstance(templates, list):
        return templates
    by_name = {entry.get("name"): entry.get("template") for entry in templates if isinstance(entry, dict)}
    if _DEFAULT in by_name:
        return by_name[_DEFAULT]
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    raise BadCheckpoint.naming(
        lambda named: (
            f"{path} has {len(by_name)} chat templates, none of them called {_DEFAULT!r}.",
            f"Leave out {named('chat')}.",
        )
    )


def _spelled(token: Any) -> str | None:
    """Returns the text of a special token in a setting: '<s>' -> '<s>', {'content': '<s>'} -> '<s>', None -> None."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
