"""Batch: the samples that a network continues together. A sample may join or leave between two steps.

A step reads the prompts of new samples and the last token of every older sample, and draws the next token of all of
them. Each sample has its own settings and its own random numbers. With an exact backend, it does not depend on the
other samples. Equal prompts are read once. If only one sample is running, a step may also read guesses of the next
tokens, made by `Lookup`. Guesses are accepted up to the first wrong one, so a step may yield several tokens.

When the context of a sample is full, the batch keeps the most recent half of its tokens, computes their keys and values
anew, and continues. For an encoder-decoder, the context contains tokens of the target only; when it is full, the text
ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from attncli.config import EngineConfig, SampleConfig
from attncli.generation.ending import SampleText
from attncli.generation.events import Event, PromptsRead, Reread, Token
from attncli.generation.lookup import Lookup
from attncli.generation.sampling import Seen, needs_seen, next_token, uniforms
from attncli.generation.token_details import TokenDetails, describe_tokens
from attncli.model.backend import Backend, Segment, threads_for
from attncli.text.tokenizer import Tokenizer

UNIFORMS_PER_DRAW = 256  # random numbers that a sample draws at once, for its next tokens
_PRODUCTS_PER_LOGIT = 128  # multiplications that take as long as drawing from a logit
_NO_DRAWS = torch.empty(0)


@dataclass(eq=False)
class RunningSample:
    """A sample that is being generated."""

    ids: list[int]  # the tokens in its context window: the prompt and the generated tokens
    text: SampleText
    config: SampleConfig
    stream: torch.Generator
    details: TokenDetails | None = None  # None: no Token events
    source: tuple[int, ...] = ()  # the tokens of its source text; empty if there is none
    slot: int = -1  # the index of its sequence in the cache
    read: int = 0  # how many of `ids` are in the cache
    generated: int = 0  # tokens
    lookup: Lookup = field(default_factory=Lookup)
    kind: tuple[SampleConfig, TokenDetails | None] | None = None  # samples of the same kind are drawn in one call
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

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """Samples with equal keys have the same logits."""
        return self.source, tuple(self.ids)


class Batch:
    """Continues the samples that have joined it, one step at a time."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer, slots: int, how: EngineConfig, *, positions: int = 1
    ) -> None:
        """At most `slots` samples run at the same time. `positions` is the expected length of a sample, in tokens."""
        self.running: list[RunningSample] = []
        self._backend, self._how = backend, how
        self._context = backend.config.context
        self._vocab_size = tokenizer.vocab_size  # the model's matrices may have more rows, as padding
        self._slots = slots
        self._free = list(range(slots))[::-1]
        self._cache = backend.new_cache(slots, positions)
        self._seen: Seen | None = None
        self._text_of = lru_cache(tokenizer.name)
        self._guesses = how.cached and (backend.exact if how.lookup is None else how.lookup)

    @property
    def free(self) -> int:
        """The number of samples that may join."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """The bytes of the keys and values."""
        return self._cache.nbytes

    def join(self, sample: RunningSample) -> None:
        """Adds a sample, which needs a free slot."""
        sample.slot = self._free.pop()
        kind = _drawn_as(sample.config), sample.details
        sample.kind = next((other.kind for other in self.running if other.kind == kind), kind)
        if needs_seen(sample.config):
            if self._seen is None:
                self._seen = Seen.of([[]] * self._slots, self._vocab_size, self._backend.device)
            self._seen.begin(sample.slot, [] if sample.source else sample.ids)
        self.running.append(sample)

    def leave(self, sample: RunningSample) -> None:
        """Removes a sample, finished or not. Does nothing if it has left."""
        if sample in self.running:
            self.running.remove(sample)
            self._free.append(sample.slot)

    def step(self) -> Iterator[Event]:
        """Runs one forward pass, and draws the next token of each sample whose prompt has been read.

        After correct guesses, draws several tokens. A finished sample leaves.
        """
        begun, drawn = time.perf_counter(), 0
        guesses = self._guess()
        logits, rows, samples = self._read(guesses)
        prompts = {sample.given for sample in samples if not sample.generated}
        for guess in (*guesses, None):
            ids, tokens = self._draw(logits, rows, samples)
            if prompts and not drawn:
                yield PromptsRead(sum(map(len, prompts)), time.perf_counter() - begun)
            for sample, id_, token in zip(samples, ids, tokens, strict=True):
                yield from self._take(sample, id_, token)
            drawn += len(samples)
            if guess is None or guess != ids[0] or samples[0].text.finished:
                break
            rows = [rows[0] + 1]  # only a single sample has guesses
        if self._guesses and len(self.running) == 1 and drawn and not prompts:
            self.running[0].lookup.measure(bool(guesses), drawn, time.perf_counter() - begun)
        self._free += [sample.slot for sample in self.running if sample.text.finished]
        self.running = [sample for sample in self.running if not sample.text.finished]

    def _read(self, guesses: Sequence[int]) -> tuple[Tensor, list[int], list[RunningSample]]:
        """Reads unread tokens and sources; equal prompts with equal sources are read once.

        Returns logits (rows, V), the samples that have read all their tokens, and the row of each of them. The rows of
        `guesses` follow that of the only sample.
        """
        segments: list[Segment] = []
        rows: list[int] = []
        samples: list[RunningSample] = []
        sources: dict[int, tuple[int, ...]] = {}
        first_with: dict[tuple[tuple[int, ...], ...], tuple[RunningSample, int]] = {}
        copies = []
        left = self._how.prompt_tokens if self._how.cached else None
        for sample in self.running:
            if not self._how.cached:
                sample.read = 0
            row, length = len(segments), len(sample.ids)
            taken = length - sample.read
            if taken > 1 or sample.read == 0 or not sample.generated:  # a prompt, or a context that is read again
                first, first_row = first_with.setdefault(sample.key, (sample, row))
                if first is not sample and sample.read == 0:
                    row, taken = first_row, 0  # copied as soon as the first one is read
                    if first.read == length:
                        copies.append((first.slot, sample.slot, length))
                        sample.read = length
                elif left is not None:
                    taken = min(taken, left)
                    left = max(left - taken - len(() if sample.read else sample.source), 0)
            if taken:
                if sample.source and sample.read == 0:
                    sources[sample.slot] = sample.source
                ids = sample.ids[sample.read : sample.read + taken]
                segments.append(Segment(sample.slot, sample.read, [*ids, *guesses], 1 + len(guesses)))
                sample.read += taken
            if sample.read == length:
                rows.append(row)
                samples.append(sample)
        if sources:
            self._backend.read_sources(self._cache, sources)
        logits = self._backend.read(self._cache, segments)
        for source, target, length in copies if self._how.cached else ():
            self._cache.copy(source, target, length)
        return logits[:, : self._vocab_size], rows, samples

    def _guess(self) -> list[int]:
        """Guesses the next tokens of a single sample. In a batch, each row of a guess would make a step slower."""
        if not self._guesses or len(self.running) != 1:
            return []
        (sample,) = self.running
        if not sample.generated or sample.read + 1 < len(sample.ids):
            return []
        most = min(self._context - len(sample.ids), sample.config.max_new_tokens - sample.generated - 1)
        return sample.lookup.guess(sample.ids, most)

    def _draw(
        self, logits: Tensor, rows: list[int], samples: list[RunningSample]
    ) -> tuple[list[int], list[Token | None]]:
        """Draws the next token of each sample from its row of logits; returns the ids, and the Token events.

        The last token that the limits allow is the forced end token, if the model has one. A sample without details has
        None instead of an event.
        """
        kinds: dict[int, list[int]] = {}
        for at, sample in enumerate(samples):
            kinds.setdefault(id(sample.kind), []).append(at)
        ids: list[int] = [0] * len(samples)
        tokens: list[Token | None] = [None] * len(samples)
        for members in kinds.values():
            drawn = self._draw_equal(logits, [rows[at] for at in members], [samples[at] for at in members])
            for at, id_, token in zip(members, *drawn, strict=True):
                ids[at], tokens[at] = id_, token
        return ids, tokens

    def _draw_equal(
        self, logits: Tensor, rows: list[int], samples: list[RunningSample]
    ) -> tuple[list[int], Sequence[Token | None]]:
        """Draws the next token of each of some samples that have equal settings for a draw."""
        config, details = samples[0].config, samples[0].details
        logits = logits if rows == list(range(len(logits))) else logits[rows]
        seen = None
        if self._seen is not None and needs_seen(config):
            seen = self._seen.of_rows([sample.slot for sample in samples])
        draws = _NO_DRAWS
        if config.temperature > 0:
            draws = torch.tensor([sample.uniform() for sample in samples], device=logits.device)
        with threads_for(logits.numel() * _PRODUCTS_PER_LOGIT):
            ids = next_token(logits, config, draws, seen)
        if config.forced_end is not None:
            ids[[self._is_last(sample) for sample in samples]] = config.forced_end
        if details is None:
            return ids.tolist(), [None] * len(samples)
        tokens = describe_tokens(logits, ids, config, details, self._text_of, seen)
        return ids.tolist(), [
            replace(token, sample=sample.text.sample) for token, sample in zip(tokens, samples, strict=True)
        ]

    def _is_last(self, sample: RunningSample) -> bool:
        """Whether any next token ends the sample."""
        full = len(sample.ids) == self._context and bool(sample.source)
        return full or sample.generated + 1 == sample.config.max_new_tokens

    def _take(self, sample: RunningSample, id_: int, token: Token | None) -> Iterator[Event]:
        """Adds a drawn token to its sample, and yields the events that follow from it.

        Ends the sample if its text is complete. If the context window is full, keeps the most recent half of its
        tokens, or ends the sample if it has a source.
        """
        last, new = self._is_last(sample), sample.text.push(id_)
        if token is not None:
            yield replace(token, characters=len(new))
        yield from sample.text.settle(new)
        sample.generated += 1
        if sample.text.finished:
            return
        if last:
            yield from sample.text.close("length")
            return
        full = len(sample.ids) == self._context
        if self._seen is not None and needs_seen(sample.config):
            self._seen.add(torch.tensor([id_]), [sample.slot])
        sample.ids.append(id_)
        sample.read = len(sample.ids) - 1
        if full:
            del sample.ids[: -max(self._context // 2, 1)]
            sample.read = 0
            sample.lookup.restart()
            yield Reread(len(sample.ids))


@lru_cache
def _drawn_as(config: SampleConfig) -> SampleConfig:
    """Returns the settings without those that do not change a draw, so that they are equal for samples of one kind."""
    return replace(config, seed=0, max_new_tokens=1, num_samples=1, stop=())
