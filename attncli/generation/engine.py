"""Generates texts from prompts, many samples in a batch, and streams them as events.

The engine decides which tokens the network reads at each step. A step prefills the prompts of new samples, reads the
last token of every older sample, and draws the next token of all samples. If only one sample is active, a step may also
read guesses of the next tokens, made by `Lookup`. Guesses are accepted up to the first wrong one, so a step may yield
several tokens. Equal prompts are read once. When a quarter of the slots in the cache are free, waiting samples get
them. When a sample's context is full, the engine keeps the most recent half of its tokens, computes their keys and
values anew, and continues. With an exact backend, a sample does not depend on the batch. The engine yields events and
prints nothing.

For an encoder-decoder, each prompt has a source, which is encoded once. The context contains tokens of the target only.
When it is full, the text ends.
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
from attncli.generation.beams import search
from attncli.generation.ending import SampleText
from attncli.generation.events import Event, PromptsRead, Reread, Token
from attncli.generation.lookup import Lookup
from attncli.generation.sampling import Seen, generators, needs_seen, next_token, uniforms
from attncli.generation.token_details import TokenDetails, describe_tokens
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.text.tokenizer import Tokenizer

UNIFORMS_PER_DRAW = 256  # random numbers that a sample draws at once, for its next tokens
_LONGEST_CHARACTER = 4  # bytes of UTF-8
_ADMITTED_SHARE = 4  # waiting samples enter when 1/4 of the slots are free: reading many prompts at once is faster


def refuse_unreadable(
    config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int], *, target: bool = False
) -> None:
    """Raises BadInput for a prompt that is empty or longer than the context.

    For a model with an encoder, the prompt is the text that the encoder reads. With `target`, it is the beginning of
    a translation.
    """
    if not prompt:
        raise BadInput("The prompt has no tokens.", "Give at least one character, or leave the prompt out.")
    if target and len(prompt) > config.context:
        raise BadInput(
            f"The beginning of the translation has {len(prompt)} tokens, and the model reads at most {config.context}.",
            "Give a shorter one.",
        )
    if len(prompt) > config.context:
        what, fitting = "text" if config.encoder_layers else "prompt", last_that_fit(config, tokenizer, prompt)
        kept = fitting[: len(fitting) - len(tokenizer.closing)] if config.encoder_layers else fitting
        raise BadInput(
            f"The {what} has {len(prompt)} tokens, and the model reads at most {config.context}.",
            f"Give its end: the last {len(tokenizer.decode(kept))} characters fit.",
        )


def last_that_fit(config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """Truncates a prompt to the context: keeps the tokens that open every text, and as many final tokens as fit.

    The kept final tokens begin with a complete character. A prompt that fits is returned unchanged.
    """
    if len(prompt) <= config.context:
        return list(prompt)
    opening = len(tokenizer.opening)
    first = len(prompt) - max(config.context - opening, 1)
    within = _LONGEST_CHARACTER - 1  # of the kept tokens, at most this many continue a cut character
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
    sources: Sequence[Sequence[int]] | None = None,
) -> Iterator[Event]:
    """Generates `config.num_samples` samples of each prompt and yields their events.

    Samples are numbered prompt by prompt. A sample depends only on its prompt, the seed and its index among the
    prompt's samples. A text ends at any of `end_ids`, by default at the tokenizer's end-of-text token. With `details`,
    yields a Token event for each token.

    An encoder-decoder needs `sources`, one for each prompt. A prompt is then the beginning of the target, and special
    tokens that the model generates have no text.

    With `config.beams` above 1, beam search finds the texts instead (`beams.search`).

    Raises BadInput, before the first event, for a prompt or a source that is empty or longer than the context.
    """
    for prompt in prompts:
        refuse_unreadable(backend.config, tokenizer, prompt, target=sources is not None)
    for source in sources or ():
        refuse_unreadable(backend.config, tokenizer, source)
    if end_ids is None:
        end_ids = frozenset() if tokenizer.end_of_text is None else frozenset({tokenizer.end_of_text})
    if config.beams > 1:
        return search(backend, tokenizer, prompts, config, end_ids, details, how, sources)
    hidden = frozenset[int]() if sources is None else tokenizer.special_ids
    how = how or EngineConfig()
    streamed = how.streamed or details is not None
    waiting: deque[_Sequence] = deque()
    for prompt, source in zip(prompts, [()] * len(prompts) if sources is None else sources, strict=True):
        for stream in generators(config.seed, config.num_samples):
            text = SampleText(len(waiting), tokenizer, config, end_ids, prompt, hidden, streamed=streamed)
            waiting.append(_Sequence(len(waiting), list(prompt), text, stream, tuple(source)))
    return _Engine(backend, tokenizer, config, details, how).run(waiting)


@dataclass
class _Sequence:
    """A sample that is being generated."""

    number: int
    ids: list[int]  # the tokens in its context window: the prompt and the generated tokens
    text: SampleText
    stream: torch.Generator
    source: tuple[int, ...] = ()  # the tokens of its source text; empty if there is none
    slot: int = -1  # the index of its sequence in the cache
    read: int = 0  # how many of `ids` are in the cache
    generated: int = 0  # tokens
    lookup: Lookup = field(default_factory=Lookup)
    _uniforms: list[float] = field(default_factory=list)

    def uniform(self) -> float:
        """Returns the uniform random number that draws the next token."""
        at = self.generated % UNIFORMS_PER_DRAW
        if at == 0:
            self._uniforms = uniforms([self.stream], UNIFORMS_PER_DRAW)[0].tolist()
        return self._uniforms[at]

    @property
    def given(self) -> tuple[int, ...]:
        """The tokens of its source if it has one, else of its context window."""
        return self.source or tuple(self.ids)


class _Engine:
    """Generates a batch of active samples, while further samples wait for a slot in the cache."""

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
        self._vocab_size = tokenizer.vocab_size  # the model's matrices may have more rows, as padding
        self._active: list[_Sequence] = []
        self._seen: Seen | None = None
        self._no_draws = torch.empty(0)
        self._text_of = lru_cache(tokenizer.name)
        self._guesses = how.cached and (backend.exact if how.lookup is None else how.lookup)

    def run(self, waiting: deque[_Sequence]) -> Iterator[Event]:
        """Generates all samples. A waiting sample gets the slot of a finished sample."""
        slots = min(len(waiting), self._how.at_once)
        free = list(range(slots))[::-1]
        longest = max((len(sequence.ids) for sequence in waiting), default=0)
        cache = self._backend.new_cache(slots, min(longest + self._config.max_new_tokens, self._context))
        if needs_seen(self._config):
            self._seen = Seen.of([[]] * slots, self._vocab_size, self._backend.device)
        while waiting or self._active:
            if len(free) * _ADMITTED_SHARE >= slots:
                while free and waiting:
                    self._admit(waiting.popleft(), free.pop())
            yield from self._step(cache)
            free += [sequence.slot for sequence in self._active if sequence.text.finished]
            self._active = [sequence for sequence in self._active if not sequence.text.finished]

    def _admit(self, sequence: _Sequence, slot: int) -> None:
        sequence.slot = slot
        if self._seen is not None:
            self._seen.begin(slot, [] if sequence.source else sequence.ids)
        self._active.append(sequence)

    def _step(self, cache: SequenceCache) -> Iterator[Event]:
        """Runs one forward pass and draws the next token of each sample, or several tokens after correct guesses."""
        begun, drawn = time.perf_counter(), 0
        prompts = {sequence.given for sequence in self._active if not sequence.generated}
        guesses = self._guess()
        logits, rows = self._read(cache, guesses)
        for guess in (*guesses, None):
            ids = self._draw(logits, rows)
            tokens = self._describe(logits, rows, ids)
            if prompts and not drawn:
                yield PromptsRead(sum(map(len, prompts)), time.perf_counter() - begun)
            for sequence, id_, token in zip(self._active, ids.tolist(), tokens, strict=True):
                yield from self._take(sequence, id_, token)
            drawn += len(self._active)
            if guess is None or guess != id_ or self._active[0].text.finished:
                break
            rows = [rows[0] + 1]  # only a single sample has guesses
        if self._guesses and len(self._active) == 1 and not prompts:
            self._active[0].lookup.measure(bool(guesses), drawn, time.perf_counter() - begun)

    def _read(self, cache: SequenceCache, guesses: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Reads all unread tokens and sources; equal prompts with equal sources are read once.

        Returns logits (rows, V), and the row of each active sample. The rows of `guesses` follow that of the only one.
        """
        segments: list[Segment] = []
        rows: list[int] = []
        sources: dict[int, tuple[int, ...]] = {}
        first_with: dict[tuple[tuple[int, ...], ...], tuple[_Sequence, int]] = {}
        copies = []
        for sequence in self._active:
            if not self._how.cached:
                sequence.read = 0
            length = len(sequence.ids)
            if sequence.read == 0:
                first, row = first_with.setdefault((sequence.source, tuple(sequence.ids)), (sequence, len(segments)))
                if first is not sequence:
                    rows.append(row)
                    copies.append((first.slot, sequence.slot, length))
                    sequence.read = length
                    continue
                if sequence.source:
                    sources[sequence.slot] = sequence.source
            rows.append(len(segments))
            unread = [*sequence.ids[sequence.read :], *guesses]
            segments.append(Segment(sequence.slot, sequence.read, unread, 1 + len(guesses)))
            sequence.read = length
        if sources:
            self._backend.read_sources(cache, sources)
        logits = self._backend.read(cache, segments)
        for source, target, length in copies if self._how.cached else ():
            cache.copy(source, target, length)
        return logits[:, : self._vocab_size], rows

    def _guess(self) -> list[int]:
        """Guesses the next tokens of a single sample. In a batch, each row of a guess would make a step slower."""
        if not self._guesses or len(self._active) > 1:
            return []
        (sequence,) = self._active
        if not sequence.generated:
            return []
        most = min(self._context - len(sequence.ids), self._config.max_new_tokens - sequence.generated - 1)
        return sequence.lookup.guess(sequence.ids, most)

    def _draw(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Draws the next token of each sample from its row of logits; returns ids (B,).

        The last token that the limits allow is the forced end token, if the model has one.
        """
        drawn = [] if self._config.temperature == 0 else [sequence.uniform() for sequence in self._active]
        draws = torch.tensor(drawn, device=logits.device) if drawn else self._no_draws
        ids = next_token(self._of(logits, rows), self._config, draws, self._seen_now())
        if self._config.forced_end is not None:
            ids[[self._is_last(sequence) for sequence in self._active]] = self._config.forced_end
        return ids

    def _is_last(self, sequence: _Sequence) -> bool:
        """Whether any next token ends the sample."""
        full = len(sequence.ids) == self._context and bool(sequence.source)
        return full or sequence.generated + 1 == self._config.max_new_tokens

    def _of(self, logits: Tensor, rows: list[int]) -> Tensor:
        return logits if rows == list(range(len(logits))) else logits[rows]

    def _seen_now(self) -> Seen | None:
        return None if self._seen is None else self._seen.of_rows([sequence.slot for sequence in self._active])

    def _describe(self, logits: Tensor, rows: list[int], ids: Tensor) -> Sequence[Token | None]:
        """Returns the Token event of the drawn token of each sample; None if no details are requested."""
        if self._details is None:
            return [None] * len(rows)
        tokens = describe_tokens(
            self._of(logits, rows), ids, self._config, self._details, self._text_of, self._seen_now()
        )
        numbers = [sequence.number for sequence in self._active]
        return [replace(token, sample=number) for number, token in zip(numbers, tokens, strict=True)]

    def _take(self, sequence: _Sequence, id_: int, token: Token | None) -> Iterator[Event]:
        """Adds a drawn token to its sample, and yields the events that follow from it.

        Ends the sample if its text is complete. If the context window is full, keeps the most recent half of its
        tokens, or ends the sample if it has a source.
        """
        last, new = self._is_last(sequence), sequence.text.push(id_)
        if token is not None:
            yield replace(token, characters=len(new))
        yield from sequence.text.settle(new)
        sequence.generated += 1
        if sequence.text.finished:
            return
        if last:
            yield from sequence.text.close("length")
            return
        full = len(sequence.ids) == self._context
        if self._seen is not None:
            self._seen.add(torch.tensor([id_]), [sequence.slot])
        sequence.ids.append(id_)
        sequence.read = len(sequence.ids) - 1
        if full:
            del sequence.ids[: -max(self._context // 2, 1)]
            sequence.read = 0
            sequence.lookup.restart()
            yield Reread(len(sequence.ids))
