"""Reads the prompts of a request in the model thread: their ids, their text, and with echo their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from attncli.checkpoint.load import LoadedModel
from attncli.generation.defaults import target_and_source
from attncli.generation.engine import refuse_unreadable
from attncli.serve.models import ServedModel
from attncli.serve.openai.completion_fields import CompletionFields, Prompt
from attncli.serve.openai.fields import refused_field, require
from attncli.serve.openai.scored import ScoredToken, score_prompt


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the model reads it."""

    ids: tuple[int, ...]
    source: tuple[int, ...] = ()  # of a model that translates: the text that it reads; `ids` begins the translation
    echo: str = ""  # the text of the prompt, if the answer repeats it
    tokens: tuple[ScoredToken, ...] = ()  # those of `echo`, if the answer has log-probabilities

    @property
    def count(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.source or self.ids)


def read_prompt(served: ServedModel, prompt: Prompt, given: CompletionFields) -> ReadPrompt:
    """Returns a prompt as the model reads it. Raises Refusal or BadInput for one that it cannot read."""
    loaded = served.loaded
    loaded.refuse_encoder("continues no text")
    if given.echo and loaded.translates:
        raise refused_field("echo", f"{loaded.name} translates, so there is no prompt to repeat.", "Leave echo out.")
    ids = _ids(served, prompt)
    served.refuse_tokens(len(ids), "prompt")
    refuse_unreadable(loaded.model.config, loaded.tokenizer, ids)
    start, source = target_and_source(loaded, ids, None)
    if not given.echo:
        return ReadPrompt(tuple(start), tuple(source or ()))
    text, starts = _text_and_starts(loaded, prompt, ids)
    tokens = () if given.logprobs is None else tuple(score_prompt(loaded, ids, starts, given.logprobs))
    return ReadPrompt(tuple(ids), echo=text, tokens=tokens)


def _ids(served: ServedModel, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        served.refuse_characters(prompt, field="prompt")
        return served.loaded.prompt(prompt)
    last = served.loaded.tokenizer.vocab_size - 1
    for id_ in prompt:
        require(0 <= id_ <= last, "prompt", id_, f"ids from 0 to {last:,}")
    return list(prompt)


def _text_and_starts(loaded: LoadedModel, prompt: Prompt, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Returns the text of a prompt, and the index in it of the first character of each of its tokens."""
    if isinstance(prompt, str):
        pieces = loaded.pieces(prompt)
        if [piece.id for piece in pieces] == ids:
            return prompt, _starts([len(piece.completed) if piece.of_text else 0 for piece in pieces])
        return prompt, [0] * len(ids)  # an empty prompt is the token that begins a text
    stream = loaded.tokenizer.stream()
    new = [stream.push(id_) for id_ in ids]
    return "".join([*new, stream.flush()]), _starts(list(map(len, new)))


def _starts(lengths: Sequence[int]) -> list[int]:
    """Returns where each of several consecutive parts begins: lengths [2, 3, 1] -> [0, 2, 5]."""
    return list(accumulate([0, *lengths[:-1]]))
