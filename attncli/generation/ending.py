"""Decodes the ids of a sample one by one, yields text as soon as it is final, and finds the end of the text.

A text ends at a stop string, at an end token or at the token limit. A stop string may span several tokens. So text that
could begin a stop string is held back until further tokens show whether it does. While a text is not streamed, its text
is held back as well, and if no stop string can end it, its ids are decoded later, together. Needs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attncli.config import SampleConfig
from attncli.generation.events import Event, Finished, Reason, Text
from attncli.text.tokenizer import DecodeStream, Tokenizer


class SampleText:
    """The text of one sample during its generation."""

    def __init__(
        self,
        sample: int,
        tokenizer: Tokenizer,
        config: SampleConfig,
        end_ids: frozenset[int],
        prompt: Sequence[int] = (),
        hidden: frozenset[int] = frozenset(),
        *,
        streamed: bool = True,
    ) -> None:
        """`hidden` are ids without text, such as the special tokens of a translation."""
        self.finished = False
        self.sample = sample  # its number in events
        self.streamed = streamed  # whether text is yielded before the end of the sample; may change between two tokens
        self._ids: list[int] = []
        self._stream: DecodeStream = tokenizer.stream(prompt)
        self._end_ids, self._hidden = end_ids, end_ids | hidden
        self._config = config
        self._held = ""

    def push(self, id_: int) -> str:
        """Adds the next id and returns the text that it completes. The caller then passes this text to `settle`.

        Returns no text as long as ids are decoded later.
        """
        self._ids.append(id_)
        if id_ in self._hidden:
            return ""
        if self.streamed or self._config.stop:
            return self._stream.push(id_)
        self._stream.add(id_)
        return ""

    def settle(self, new: str) -> Iterator[Event]:
        """Yields the text that `new` makes final, and Finished if the text has ended."""
        if self._ids[-1] in self._end_ids:
            yield from self.close("end")
            return
        if not new:
            return
        self._held += new
        if (at := stop_at(self._held, self._config)) is not None:
            yield from self._finish(self._held[:at], "stop")
            return
        ready = len(self._held) - self._could_begin_stop()
        if ready and self.streamed:
            yield Text(self.sample, self._held[:ready])
            self._held = self._held[ready:]

    def close(self, reason: Reason) -> Iterator[Event]:
        """Ends the sample and yields the text that was held back."""
        self._held += self._stream.flush()
        at = stop_at(self._held, self._config)
        yield from self._finish(self._held if at is None else self._held[:at], reason if at is None else "stop")

    def _finish(self, rest: str, reason: Reason) -> Iterator[Event]:
        self.finished = True
        if rest:
            yield Text(self.sample, rest)
        yield Finished(self.sample, reason, tuple(self._ids))

    def _could_begin_stop(self) -> int:
        """Returns the length of the longest end of the held text that is the beginning of a stop string.

        The held text 'xab' and the stop string 'abc' -> 2.
        """
        stops = self._config.stop
        return max((n for stop in stops for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)


def stop_at(text: str, config: SampleConfig) -> int | None:
    """Returns the index of the first stop string in a text; None if there is none."""
    return min((at for stop in config.stop if (at := text.find(stop)) >= 0), default=None)
