"""Beam search: finds a probable text by extending the N most probable prefixes, the beams, at each step.

A step reads the last token of every beam, adds the log-probabilities of all next tokens to the scores of the beams, and
keeps the N best prefixes. A prefix that is complete becomes a hypothesis, with the score

    sum of the log-probabilities of its tokens / number of its tokens ** length penalty.

A search ends when it has N hypotheses and its best beam, scored as if it ended now, is no better than the worst
hypothesis. These are the rules of `generate(num_beams=N, early_stopping=False)` in transformers. As in transformers,
the end token that a model forces at the limit of the length adds nothing to a score. Several texts are searched in a
batch.
A beam continues the cached sequence of its parent; only a second beam with this parent needs a copy.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from attncli.config import EngineConfig, SampleConfig
from attncli.generation.ending import SampleText
from attncli.generation.events import Event, PromptsRead, Token
from attncli.generation.sampling import add_bias
from attncli.generation.token_details import TokenDetails, describe_tokens
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Beam:
    """The prefix of a text, which the search extends."""

    slot: int  # the index of the beam's sequence in the cache
    ids: tuple[int, ...]  # the generated tokens
    score: float  # the sum of the log-probabilities of `ids`


@dataclass(frozen=True)
class Hypothesis:
    """A complete text, with its score."""

    ids: tuple[int, ...]
    score: float


@dataclass
class _Search:
    """The search for the text of one prompt."""

    number: int
    prompt: tuple[int, ...]
    source: tuple[int, ...]  # empty if there is none
    slots: range  # its sequences in the cache
    beams: list[Beam]
    hypotheses: list[Hypothesis] = field(default_factory=list)  # the best hypotheses, the highest score first
    done: bool = False

    def segments(self, cached: bool) -> list[Segment]:
        """Returns the unread tokens of each beam; without a cache, all tokens of each beam."""
        whole = [(beam.slot, [*self.prompt, *beam.ids]) for beam in self.beams]
        if not cached or not self.beams[0].ids:
            return [Segment(slot, 0, ids) for slot, ids in whole]
        return [Segment(slot, len(ids) - 1, ids[-1:]) for slot, ids in whole]


def search(
    backend: Backend,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    end_ids: frozenset[int],
    details: TokenDetails | None = None,
    how: EngineConfig | None = None,
    sources: Sequence[Sequence[int]] | None = None,
) -> Iterator[Event]:
    """Searches for the texts of prompts with `config.beams` beams and yields their events.

    The samples of a prompt are its `config.num_samples` best hypotheses, the best first. Takes the arguments of
    `engine.generate`, which has checked them.
    """
    return _Searcher(backend, tokenizer, config, end_ids, details, how or EngineConfig()).run(
        [tuple(prompt) for prompt in prompts], [tuple(source) for source in sources or ()]
    )


class _Searcher:
    """Searches for the texts of a batch of prompts, while further prompts wait for sequences of the cache."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: SampleConfig,
        end_ids: frozenset[int],
        details: TokenDetails | None,
        how: EngineConfig,
    ) -> None:
        self._backend, self._tokenizer, self._config = backend, tokenizer, config
        self._end_ids, self._details, self._cached = end_ids, details, how.cached
        self._at_once = max(how.at_once // config.beams, 1)
        self._vocab_size = tokenizer.vocab_size
        self._candidates = max(2, 1 + len(end_ids)) * config.beams  # enough candidates for all beams, even if some end

    @torch.inference_mode()
    def run(self, prompts: Sequence[tuple[int, ...]], sources: Sequence[tuple[int, ...]]) -> Iterator[Event]:
        """Searches all texts. A waiting prompt gets the sequences of a finished search."""
        beams, context = self._config.beams, self._backend.config.context
        groups = min(len(prompts), self._at_once)
        longest = max(map(len, prompts), default=0) + self._config.max_new_tokens
        cache = self._backend.new_cache(groups * beams, min(longest, context))
        free, active = [range(at * beams, (at + 1) * beams) for at in range(groups)][::-1], list[_Search]()
        waiting = deque(enumerate(prompts))
        while waiting or active:
            begun, new = time.perf_counter(), []
            while free and waiting:
                number, prompt = waiting.popleft()
                slots = free.pop()
                source = sources[number] if sources else ()
                new.append(_Search(number, prompt, source, slots, [Beam(slots.start, (), 0.0)]))
            active += new
            self._step(cache, active, new)
            if new:
                given = {search.source or search.prompt for search in new}
                yield PromptsRead(sum(map(len, given)), time.perf_counter() - begun)
            for search in active:
                if search.done:
                    free.append(search.slots)
                    yield from self._texts(search)
            active = [search for search in active if not search.done]

    def _step(self, cache: SequenceCache, active: Sequence[_Search], new: Sequence[_Search]) -> None:
        """Extends the beams of all searches by a token."""
        if sources := {search.slots.start: search.source for search in new if search.source}:
            self._backend.read_sources(cache, sources)
        segments = [segment for search in active for segment in search.segments(self._cached)]
        values, tokens = self._best(self._backend.read(cache, segments))
        row = 0
        for search in active:
            found = [
                (beam.score + value, parent, token)
                for parent, beam in enumerate(search.beams)
                for value, token in zip(values[row + parent], tokens[row + parent], strict=True)
                if value > -math.inf
            ]
            row += len(search.beams)
            if self._config.forced_end is not None and self._is_last(search):
                found = [(beam.score, at, self._config.forced_end) for at, beam in enumerate(search.beams)]
            found.sort(key=lambda candidate: -candidate[0])
            self._extend(cache, search, found[: self._candidates])

    def _best(self, logits: Tensor) -> tuple[list[list[float]], list[list[int]]]:
        """Returns the log-probabilities and the ids of the most probable next tokens of each beam."""
        logs = logits[:, : self._vocab_size].float().log_softmax(-1)
        if self._config.logit_bias:
            logs = add_bias(logs, self._config.logit_bias)
        best, tokens = logs.topk(min(self._candidates, self._vocab_size))
        return best.tolist(), tokens.tolist()

    def _extend(self, cache: SequenceCache, search: _Search, found: Sequence[tuple[float, int, int]]) -> None:
        """Chooses the next beams from candidates (score, beam, token), the best first, and adds hypotheses."""
        parents = search.beams
        length = len(parents[0].ids) + 1
        counted = length + (len(search.prompt) - 1 if search.source else 0)  # tokens after the decoder's start
        last = self._is_last(search)
        going_on: list[tuple[float, int, int]] = []
        if not found:  # every token is banned, or its probability is not a number: the beams end as they are
            search.hypotheses += [
                Hypothesis(beam.ids, self._rated(beam.score, max(counted - 1, 1))) for beam in parents
            ]
        for rank, (score, parent, token) in enumerate(found):
            if last or token in self._end_ids:
                if rank < self._config.beams:
                    ids = (*parents[parent].ids, token)
                    search.hypotheses.append(Hypothesis(ids, self._rated(score, counted)))
            elif len(going_on) < self._config.beams:
                going_on.append((score, parent, token))
        search.hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
        del search.hypotheses[self._config.beams :]
        full = len(search.hypotheses) == self._config.beams
        search.done = not going_on or (full and self._rated(going_on[0][0], counted) <= search.hypotheses[-1].score)
        if not search.done:
            self._move(cache, search, going_on)

    def _is_last(self, search: _Search) -> bool:
        """Whether any next token ends the texts of the search."""
        length = len(search.beams[0].ids) + 1
        return length == self._config.max_new_tokens or len(search.prompt) + length > self._backend.config.context

    def _move(self, cache: SequenceCache, search: _Search, chosen: Sequence[tuple[float, int, int]]) -> None:
        """Makes the chosen candidates the beams. Each continues its parent's sequence, or a copy of that sequence."""
        parents = search.beams
        kept = {parents[parent].slot for _, parent, _ in chosen}
        free = [slot for slot in search.slots if slot not in kept]
        length = len(search.prompt) + len(parents[0].ids)
        beams = []
        for score, parent, token in chosen:
            slot = parents[parent].slot
            if slot in kept:
                kept.remove(slot)
            else:
                slot = free.pop()
                cache.copy(parents[parent].slot, slot, length)
            beams.append(Beam(slot, (*parents[parent].ids, token), score))
        search.beams = sorted(beams, key=lambda beam: beam.slot)  # consecutive rows of the cache need no copy

    def _rated(self, score: float, length: int) -> float:
        """Returns the score of a hypothesis with the length penalty."""
        return score / math.pow(length, self._config.length_penalty)

    def _texts(self, search: _Search) -> Iterator[Event]:
        """Yields the events of the best hypotheses of a search."""
        hidden = self._tokenizer.special_ids if search.source else frozenset[int]()
        for rank in range(self._config.num_samples):
            hypothesis = search.hypotheses[min(rank, len(search.hypotheses) - 1)]
            sample = search.number * self._config.num_samples + rank
            tokens = [] if self._details is None or not hypothesis.ids else self._described(search, hypothesis)
            text = SampleText(
                sample, self._tokenizer, self._config, self._end_ids, search.prompt, hidden, streamed=bool(tokens)
            )
            for at, id_ in enumerate(hypothesis.ids):
                new = text.push(id_)
                if tokens:
                    yield replace(tokens[at], sample=sample, characters=len(new))
                yield from text.settle(new)
                if text.finished:
                    break
            if not text.finished:
                yield from text.close("length")

    def _described(self, search: _Search, hypothesis: Hypothesis) -> list[Token]:
        """Returns the Token events of a hypothesis, whose logits are recomputed."""
        assert self._details is not None
        ids, cache = hypothesis.ids, self._backend.new_cache(1)
        if search.source:
            self._backend.read_sources(cache, {0: search.source})
        logits = self._backend.read(cache, [Segment(0, 0, [*search.prompt, *ids[:-1]], len(ids))])
        name = lru_cache(self._tokenizer.name)
        known = logits[:, : self._vocab_size]
        return describe_tokens(known, torch.tensor(ids, device=known.device), self._config, self._details, name, None)
