"""Collects the events of a sample into the parts of its answer, which are final.

The text of an event is final. A token is final when its text is final, because a stop string removes its tokens from
the answer. A token without text of its own, such as the first half of a character, is final with the text after it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from attncli.generation.events import Finished, Reason, Text, Token
from attncli.serve.openai.prompts import ReadPrompt
from attncli.serve.openai.scored import ScoredToken

FinishReason = Literal["stop", "length"]
_REASONS: dict[Reason, FinishReason] = {"stop": "stop", "end": "stop", "length": "length"}


@dataclass(frozen=True)
class Delta:
    """The new text and tokens of a sample after one step."""

    index: int
    text: str
    tokens: tuple[ScoredToken, ...] = ()
    reason: FinishReason | None = None  # None: the sample goes on


@dataclass
class Choice:
    """The answer of one sample."""

    index: int
    prompt: ReadPrompt
    ends: bool = True  # whether the end token is one of the tokens of the answer
    generated: int = 0  # tokens, including those of a stop string
    _new: list[str] = field(default_factory=list)
    _pending: deque[tuple[ScoredToken, int]] = field(default_factory=deque)  # with the characters that it completes
    _final: int = 0  # characters of text
    _completed: int = 0  # characters that all tokens have completed
    _finished: Finished | None = None

    def echo(self, *, only: bool = False) -> Delta:
        """Returns the prompt, which begins the answer. With `only`, it is the whole answer."""
        self._final = self._completed = len(self.prompt.echo)
        return Delta(self.index, self.prompt.echo, self.prompt.tokens, "length" if only else None)

    def add(self, event: Text | Token | Finished) -> None:
        """Adds an event of the sample."""
        if isinstance(event, Text):
            self._new.append(event.text)
            self._final += len(event.text)
        elif isinstance(event, Token):
            self._pending.append((ScoredToken.of(event, self._completed), event.characters))
            self._completed += event.characters
        else:
            self._finished, self.generated = event, len(event.ids)

    def take(self) -> Delta | None:
        """Returns the final text and tokens since the last call; None if there are none."""
        text, end = "".join(self._new), self._finished
        self._new.clear()
        tokens = []
        while self._pending and self._is_final(*self._pending[0]):
            tokens.append(self._pending.popleft()[0])
        if not text and not tokens and end is None:
            return None
        return Delta(self.index, text, tuple(tokens), None if end is None else _REASONS[end.reason])

    def _is_final(self, token: ScoredToken, characters: int) -> bool:
        """Whether a token belongs to the text for certain."""
        if self._finished is None:
            return token.start < self._final and token.start + characters <= self._final
        if self._finished.reason == "stop":
            return token.start < self._final
        return self.ends or self._finished.reason != "end" or len(self._pending) > 1
