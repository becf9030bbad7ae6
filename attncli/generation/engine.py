"""From prompts to texts that stream.

Owns which tokens the network reads when: prompts, one token more, guesses in advance, and the recent half again where
the context is full; many texts at once, of which each is the same as alone. Yields events; prints nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from attncli.config import EngineConfig, ModelConfig, SampleConfig
from attncli.errors import BadInput
from attncli.generation.ending import SampleText
from attncli.generation.events import Event, PromptsRead, Reread, Token
from attncli.generation.lookup import Lookup
from attncli.generation.sampling import Seen, generators, needs_seen, next_token, uniforms
from attncli.generation.seeing import Watch, tokens
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.text.tokenizer import Tokenizer

_DRAWN_TOGETHER = 256  # random numbers of a sample, so that few calls draw them and a long text needs no more memory
_LONGEST_CHARACTER = 4  # bytes of UTF-8


def refuse_unreadable(config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
    """Raises BadInput for a prompt that is empty or longer than the context."""
    if not prompt:
        raise BadInput("The prompt has no tokens.", "Give at least one character, or leave the prompt out.")
    if len(prompt) > config.context:
        raise BadInput(
            f"The prompt has {len(prompt)} tokens, and the model reads at most {config.context}.",
            f"Give its end: the last {len(tokenizer.decode(last_that_fit(config, tokenizer, prompt)))} characters fit; "
            "--truncate takes them.",
        )


def last_that_fit(config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The end of a prompt that the context has room for, after what the tokenizer puts before a text.

    It begins with a whole character; all of a prompt that fits is kept.
    """
    if len(prompt) <= config.context:
        return list(prompt)
    opening = len(tokenizer.opening)
    first = len(prompt) - max(config.context - opening, 1)
    within = _LONGEST_CHARACTER - 1  # tokens at most that go on with a character
    while (
        within
        and first + 1 < len(prompt)
        and tokenizer.decode(prompt[first : first + _LONGEST_CHARACTER]).startswith("\ufffd")
    ):
        first, within = first + 1, within - 1
    return [*prompt[:opening], *prompt[first:]]


def generate(
    backend: Backend,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    end_ids: frozenset[int] | None = None,
    watch: Watch | None = None,
    how: EngineConfig | None = None,
) -> Iterator[Event]:
    """Continues prompts of at least one token each, every one `config.num_samples` times.

    Samples are numbered prompt by prompt. What is drawn for a prompt depends on the seed and on the number among its
    own samples. A text ends with any of `end_ids`; None is what the tokenizer calls the end of a document. With a
    `watch` there is a Token event for every token.

    Raises BadInput at once for a prompt that is empty or longer than the context.
    """
    for prompt in prompts:
        refuse_unreadable(backend.config, tokenizer, prompt)
    if end_ids is None:
        end_ids = frozenset() if tokenizer.end_of_text is None else frozenset({tokenizer.end_of_text})
    waiting: deque[_Sequence] = deque()
    for prompt in prompts:
        for stream in generators(config.seed, config.num_samples):
            sample = SampleText(len(waiting), tokenizer, config.stop, end_ids, prompt)
            waiting.append(_Sequence(len(waiting), list(prompt), sample, stream))
    return _Engine(backend, tokenizer, config, watch, how or EngineConfig()).run(waiting)


@dataclass
class _Sequence:
    """A text that is being made."""

    number: int
    ids: list[int]  # the prompt and what followed, from where the context last began anew
    text: SampleText
    stream: torch.Generator
    slot: int = -1  # its place in the cache
    read: int = 0  # of ids
    made: int = 0
    guesses: list[int] = field(default_factory=list)  # read in advance, after ids
    lookup: Lookup = field(default_factory=Lookup)
    _uniforms: list[float] = field(default_factory=list)

    def uniform(self) -> float:
        """The random number of its next token."""
        at = self.made % _DRAWN_TOGETHER
        if at == 0:
            self._uniforms = uniforms([self.stream], _DRAWN_TOGETHER)[0].tolist()
        return self._uniforms[at]


class _Engine:
    """The texts that are being made together."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer, config: SampleConfig, watch: Watch | None, how: EngineConfig
    ) -> None:
        self._backend, self._config, self._watch, self._how = backend, config, watch, how
        self._context = backend.config.context
        self._vocab_size = tokenizer.vocab_size  # a model may have more ids, without meaning, that fill its matrices
        self._active: list[_Sequence] = []
        self._seen: Seen | None = None
        self._no_draws = torch.empty(0)
        self._text_of = lru_cache(tokenizer.name)
        self._guesses = how.cached and (backend.exact if how.lookup is None else how.lookup)

    def run(self, waiting: deque[_Sequence]) -> Iterator[Event]:
        """Makes all texts; those that wait take the places of those that have ended."""
        slots = min(len(waiting), self._how.at_once)
        free = list(range(slots))[::-1]
        longest = max((len(sequence.ids) for sequence in waiting), default=0)
        cache = self._backend.new_cache(slots, min(longest + self._config.max_new_tokens, self._context))
        if needs_seen(self._config):
            self._seen = Seen.of([[]] * slots, self._vocab_size, self._backend.device)
        while waiting or self._active:
            while free and waiting:
                self._admit(waiting.popleft(), free.pop())
            yield from self._step(cache)
            free += [sequence.slot for sequence in self._active if sequence.text.finished]
            self._active = [sequence for sequence in self._active if not sequence.text.finished]

    def _admit(self, sequence: _Sequence, slot: int) -> None:
        sequence.slot = slot
        if self._seen is not None:
            self._seen.begin(slot, sequence.ids)
        self._active.append(sequence)

    def _step(self, cache: SequenceCache) -> Iterator[Event]:
        """Reads what is not read yet, and draws the next token of every text, or several where guesses were right."""
        begun = time.perf_counter()
        fresh = {tuple(sequence.ids) for sequence in self._active if not sequence.made}
        logits, rows = self._read(cache)
        drawing, made = list(self._active), 0
        for ahead in range(1 + max(len(sequence.guesses) for sequence in drawing)):
            ids = self._draw(logits, [rows[sequence.number] + ahead for sequence in drawing], drawing)
            told = self._tell(logits, rows, ahead, ids, drawing)
            if ahead == 0 and fresh:
                yield PromptsRead(sum(map(len, fresh)), time.perf_counter() - begun)
            going_on = []
            for sequence, id_ in zip(drawing, ids.tolist(), strict=True):
                yield from self._take(sequence, id_, told.get(sequence.number))
                made += 1
                guessed = ahead < len(sequence.guesses) and sequence.guesses[ahead] == id_
                if guessed and not sequence.text.finished:
                    going_on.append(sequence)
            drawing = going_on
            if not drawing:
                break
        if self._guesses and len(self._active) == 1 and not fresh:
            (sequence,) = self._active
            sequence.lookup.measure(bool(sequence.guesses), made, time.perf_counter() - begun)

    def _read(self, cache: SequenceCache) -> tuple[Tensor, dict[int, int]]:
        """Logits below one another, and the first row of each text; equal prompts are read once."""
        segments: list[Segment] = []
        rows: dict[int, int] = {}
        first_with: dict[tuple[int, ...], _Sequence] = {}
        copies, row = [], 0
        for sequence in self._active:
            if not self._how.cached:
                sequence.read = 0
            if sequence.read == 0:
                same = first_with.setdefault(tuple(sequence.ids), sequence)
                if same is not sequence:
                    rows[sequence.number] = rows[same.number]
                    copies.append((same.slot, sequence.slot, len(sequence.ids)))
                    sequence.read = len(sequence.ids)
                    continue
            sequence.guesses = self._guess(sequence)
            unread = [*sequence.ids[sequence.read :], *sequence.guesses]
            segments.append(Segment(sequence.slot, sequence.read, unread, 1 + len(sequence.guesses)))
            rows[sequence.number] = row
            row += 1 + len(sequence.guesses)
            sequence.read = len(sequence.ids)
        logits = self._backend.read(cache, segments)
        for source, target, length in copies if self._how.cached else ():
            cache.copy(source, target, length)
        return logits[:, : self._vocab_size], rows

    def _guess(self, sequence: _Sequence) -> list[int]:
        if not self._guesses or len(self._active) > 1 or not sequence.made:
            return []
        room = min(self._context - len(sequence.ids), self._config.max_new_tokens - sequence.made - 1)
        return sequence.lookup.guess(sequence.ids, room)

    def _draw(self, logits: Tensor, rows: list[int], drawing: list[_Sequence]) -> Tensor:
        """Ids (B,), one for each of the texts."""
        drawn = [] if self._config.temperature == 0 else [sequence.uniform() for sequence in drawing]
        draws = torch.tensor(drawn, device=logits.device) if drawn else self._no_draws
        return next_token(self._of(logits, rows), self._config, draws, self._seen_by(drawing))

    def _of(self, logits: Tensor, rows: list[int]) -> Tensor:
        return logits if len(rows) == len(logits) and rows == list(range(len(rows))) else logits[rows]

    def _seen_by(self, drawing: list[_Sequence]) -> Seen | None:
        return None if self._seen is None else self._seen.of_rows([sequence.slot for sequence in drawing])

    def _tell(
        self, logits: Tensor, rows: dict[int, int], ahead: int, ids: Tensor, drawing: list[_Sequence]
    ) -> dict[int, Token]:
        """What each token was drawn from, by the number of its text, where that is asked for."""
        if self._watch is None:
            return {}
        numbers = [sequence.number for sequence in drawing]
        chosen = self._of(logits, [rows[number] + ahead for number in numbers])
        seen = self._seen_by(drawing)
        told = tokens(chosen, ids, self._config, self._watch, self._text_of, seen)
        return {number: replace(token, sample=number) for number, token in zip(numbers, told, strict=True)}

    def _take(self, sequence: _Sequence, id_: int, token: Token | None) -> Iterator[Event]:
        """Adds a token to a text; ends the text, or begins its context anew, where that is due."""
        new = sequence.text.push(id_)
        if token is not None:
            yield replace(token, characters=len(new))
        yield from sequence.text.settle(new)
        sequence.made += 1
        if sequence.text.finished:
            return
        if sequence.made == self._config.max_new_tokens:
            yield from sequence.text.close("length")
            return
        if self._seen is not None:
            self._seen.add(torch.tensor([id_]), [sequence.slot])
        full = len(sequence.ids) == self._context
        sequence.ids.append(id_)
        sequence.read = len(sequence.ids) - 1
        if full:
            del sequence.ids[: -max(self._context // 2, 1)]
            sequence.read = 0
            sequence.lookup.restart()
            yield Reread(len(sequence.ids))
