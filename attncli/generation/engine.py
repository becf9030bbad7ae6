"""Generates texts from prompts: many samples in a batch, streamed as events.

The engine decides which tokens the network reads at each step. A step prefills the prompts of new samples, or decodes:
each active sample reads its last token and, where `Lookup` guesses the next ones, the guesses too. A guess is accepted
while the drawn token equals it, so one step may yield several tokens. Equal prompts are read once. A finished sample
gives its slot in the cache to a waiting one. When the context is full, a sample reads its recent half again and
continues from there. A sample is the same alone and in a batch if the backend is exact. Yields events; prints nothing.
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
from attncli.generation.token_details import TokenDetails, describe_tokens
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.text.tokenizer import Tokenizer

_UNIFORMS_PER_DRAW = 256  # random numbers of a sample that are drawn, and held, at once
_LONGEST_CHARACTER = 4  # in bytes of UTF-8


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
    """The prompt, truncated at its beginning to fit the context. Keeps the tokens that open every text.

    What remains begins with a whole character.
    """
    if len(prompt) <= config.context:
        return list(prompt)
    opening = len(tokenizer.opening)
    first = len(prompt) - max(config.context - opening, 1)
    within = _LONGEST_CHARACTER - 1  # the most tokens that can continue a character
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
    details: TokenDetails | None = None,
    how: EngineConfig | None = None,
) -> Iterator[Event]:
    """Continues every prompt `config.num_samples` times.

    Samples are numbered prompt by prompt. A sample depends on its prompt, the seed and its number among the samples of
    the prompt, and on no other prompt. A text ends at any of `end_ids`; None stands for the tokenizer's end-of-text
    token. With `details` there is a Token event for every token.

    Raises BadInput, before the first event, for a prompt that is empty or longer than the context.
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
    return _Engine(backend, tokenizer, config, details, how or EngineConfig()).run(waiting)


@dataclass
class _Sequence:
    """A sample that is being generated."""

    number: int
    ids: list[int]  # the tokens in its context window: the prompt and what followed
    text: SampleText
    stream: torch.Generator
    slot: int = -1  # its sequence in the cache
    read: int = 0  # how many of `ids` the cache has
    generated: int = 0  # tokens
    guesses: list[int] = field(default_factory=list)  # of the tokens after `ids`, read with the last step
    lookup: Lookup = field(default_factory=Lookup)
    _uniforms: list[float] = field(default_factory=list)

    def uniform(self) -> float:
        """The random number of its next token."""
        at = self.generated % _UNIFORMS_PER_DRAW
        if at == 0:
            self._uniforms = uniforms([self.stream], _UNIFORMS_PER_DRAW)[0].tolist()
        return self._uniforms[at]


class _Engine:
    """One generation: the samples of a batch, and those that wait for a slot in it."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: SampleConfig,
        details: TokenDetails | None,
        how: EngineConfig,
    ) -> None:
        self._backend, self._config, self._details, self._how = backend, config, details, how
        self._context = backend.config.context
        self._vocab_size = tokenizer.vocab_size  # a model's matrices may be padded with ids that are no tokens
        self._active: list[_Sequence] = []
        self._seen: Seen | None = None
        self._no_draws = torch.empty(0)
        self._text_of = lru_cache(tokenizer.name)
        self._guesses = how.cached and (backend.exact if how.lookup is None else how.lookup)

    def run(self, waiting: deque[_Sequence]) -> Iterator[Event]:
        """Generates all samples; a waiting sample takes the slot of a finished one."""
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
        """One forward pass, then draws the next token of every sample, or several where guesses were right."""
        begun = time.perf_counter()
        prompts = {tuple(sequence.ids) for sequence in self._active if not sequence.generated}
        logits, rows = self._read(cache)
        drawing, drawn = list(self._active), 0
        for ahead in range(1 + max(len(sequence.guesses) for sequence in drawing)):
            ids = self._draw(logits, [rows[sequence.number] + ahead for sequence in drawing], drawing)
            tokens = self._describe(logits, rows, ahead, ids, drawing)
            if ahead == 0 and prompts:
                yield PromptsRead(sum(map(len, prompts)), time.perf_counter() - begun)
            continuing = []
            for sequence, id_ in zip(drawing, ids.tolist(), strict=True):
                yield from self._take(sequence, id_, tokens.get(sequence.number))
                drawn += 1
                accepted = ahead < len(sequence.guesses) and sequence.guesses[ahead] == id_
                if accepted and not sequence.text.finished:
                    continuing.append(sequence)
            drawing = continuing
            if not drawing:
                break
        if self._guesses and len(self._active) == 1 and not prompts:
            (sequence,) = self._active
            sequence.lookup.measure(bool(sequence.guesses), drawn, time.perf_counter() - begun)

    def _read(self, cache: SequenceCache) -> tuple[Tensor, dict[int, int]]:
        """Reads the unread tokens -> logits (rows, V), and each sample's first row. Equal prompts are read once."""
        segments: list[Segment] = []
        rows: dict[int, int] = {}
        first_with: dict[tuple[int, ...], _Sequence] = {}
        copies, row = [], 0
        for sequence in self._active:
            if not self._how.cached:
                sequence.read = 0
            if sequence.read == 0:
                first = first_with.setdefault(tuple(sequence.ids), sequence)
                if first is not sequence:
                    rows[sequence.number] = rows[first.number]
                    copies.append((first.slot, sequence.slot, len(sequence.ids)))
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
        """Guesses of the next tokens; none in a batch, where a step costs more for every row."""
        if not self._guesses or len(self._active) > 1 or not sequence.generated:
            return []
        most = min(self._context - len(sequence.ids), self._config.max_new_tokens - sequence.generated - 1)
        return sequence.lookup.guess(sequence.ids, most)

    def _draw(self, logits: Tensor, rows: list[int], drawing: list[_Sequence]) -> Tensor:
        """Draws the next token of some samples from their rows of logits -> ids (B,)."""
        drawn = [] if self._config.temperature == 0 else [sequence.uniform() for sequence in drawing]
        draws = torch.tensor(drawn, device=logits.device) if drawn else self._no_draws
        return next_token(self._of(logits, rows), self._config, draws, self._seen_by(drawing))

    def _of(self, logits: Tensor, rows: list[int]) -> Tensor:
        return logits if len(rows) == len(logits) and rows == list(range(len(rows))) else logits[rows]

    def _seen_by(self, drawing: list[_Sequence]) -> Seen | None:
        return None if self._seen is None else self._seen.of_rows([sequence.slot for sequence in drawing])

    def _describe(
        self, logits: Tensor, rows: dict[int, int], ahead: int, ids: Tensor, drawing: list[_Sequence]
    ) -> dict[int, Token]:
        """A Token event for each drawn token, by the number of its sample; empty if no details were asked for."""
        if self._details is None:
            return {}
        numbers = [sequence.number for sequence in drawing]
        chosen = self._of(logits, [rows[number] + ahead for number in numbers])
        seen = self._seen_by(drawing)
        tokens = describe_tokens(chosen, ids, self._config, self._details, self._text_of, seen)
        return {number: replace(token, sample=number) for number, token in zip(numbers, tokens, strict=True)}

    def _take(self, sequence: _Sequence, id_: int, token: Token | None) -> Iterator[Event]:
        """Adds a drawn token to its sample. Ends the sample, or moves its context window, where that is due."""
        new = sequence.text.push(id_)
        if token is not None:
            yield replace(token, characters=len(new))
        yield from sequence.text.settle(new)
        sequence.generated += 1
        if sequence.text.finished:
            return
        if sequence.generated == self._config.max_new_tokens:
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
