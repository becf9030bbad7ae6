"""Whether texts are the same in whichever way they are made, checked on the machine that made them.

Owns the ways: alone and in a larger batch, without the cache, with guesses, as decoded at once, on other numbers of
threads, and as PyTorch does it. Every one is really gone. Yields what was found; judges and prints nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attncli.config import EngineConfig, SampleConfig
from attncli.generation.engine import generate
from attncli.generation.events import Check, CheckName, Difference, Event, Finished, Made, Text
from attncli.generation.sampling import sample_seed
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.model.native import round_to_int8
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer

_MORE = 3  # samples of a larger batch
_AT_ONCE = 64  # tokens that PyTorch reads together when logits are compared
# How far logits may be from PyTorch's, as a share of the largest of them, by the type of the activations. Measured over
# all families and the model that ships: at most 7e-7, 1.4e-3 and 1.2e-2; a window that was ignored gave 9e-2.
_LOGIT_TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}


class Kept:
    """What a generation makes, from its events."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._ids: dict[int, tuple[int, ...]] = {}

    def of(self, events: Iterable[Event]) -> Iterator[Event]:
        """The same events."""
        for event in events:
            if isinstance(event, Text):
                self._texts.setdefault(event.sample, []).append(event.text)
            elif isinstance(event, Finished):
                self._ids[event.sample] = event.ids
            yield event

    @property
    def made(self) -> list[Made]:
        """The samples that are complete, in order."""
        return [Made(self._ids[sample], "".join(self._texts.get(sample, ()))) for sample in sorted(self._ids)]


@dataclass(frozen=True)
class Generation:
    """What was generated, and from what: `config.num_samples` texts for every prompt, as `generate` numbers them."""

    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]
    config: SampleConfig
    end_ids: frozenset[int]
    made: Sequence[Made]

    def again(self, backend: Backend, how: EngineConfig, more: int = 0) -> list[Made]:
        """All samples made together, beside so many `more` for every prompt."""
        count = self.config.num_samples
        made = self._made(backend, self.prompts, replace(self.config, num_samples=count + more), how)
        return [one for at, one in enumerate(made) if at % (count + more) < count]

    def each_alone(self, backend: Backend, how: EngineConfig) -> list[Made]:
        """The samples made one after another."""
        made = []
        for prompt in self.prompts:
            for sample in range(self.config.num_samples):
                config = replace(self.config, num_samples=1, seed=sample_seed(self.config.seed, sample))
                made += self._made(backend, [prompt], config, how)
        return made

    def decoded(self) -> list[Made]:
        """The samples as their ids are decoded at once, up to the first stop string."""
        return [replace(made, text=self._decoded(made.ids, self.prompt_of(at))) for at, made in enumerate(self.made)]

    def prompt_of(self, sample: int) -> Sequence[int]:
        """The text that a sample continues."""
        return self.prompts[sample // self.config.num_samples]

    def _made(
        self, backend: Backend, prompts: Sequence[Sequence[int]], config: SampleConfig, how: EngineConfig
    ) -> list[Made]:
        kept = Kept()
        for _ in kept.of(generate(backend, self.tokenizer, prompts, config, self.end_ids, how=how)):
            pass
        return kept.made

    def _decoded(self, ids: Sequence[int], prompt: Sequence[int]) -> str:
        ended = bool(ids) and ids[-1] in self.end_ids
        text = self.tokenizer.decode(ids[:-1] if ended else ids, prompt)
        return text[: min((at for stop in self.config.stop if (at := text.find(stop)) >= 0), default=len(text))]


def verify(
    generation: Generation, backend: Backend, pytorch: Backend, on_threads: Callable[[int], Backend] | None = None
) -> Iterator[Check]:
    """Makes the samples again in every way, and compares; the backend need not have been what made them first.

    What must be the same is that of an exact backend, and the decoding of any. `pytorch` has the same weights as
    float32; `on_threads` gives the backend with another number of threads, where it has any.
    """
    count = generation.config.num_samples
    batch = min((count + _MORE) * len(generation.prompts), EngineConfig.at_once)

    def check(name: CheckName, *found: Sequence[Made], required: bool = backend.exact, **more: Any) -> Check:
        return _check(generation, name, found, required, more)

    yield check("alone", generation.each_alone(backend, EngineConfig(lookup=False)))
    yield check("batch", generation.again(backend, EngineConfig(), _MORE), batch=batch)
    yield check("uncached", generation.again(backend, EngineConfig(cached=False)))
    counting = _Counting(backend)
    guessed = generation.each_alone(counting, EngineConfig(lookup=True))
    yield check("guesses", guessed, guesses=counting.guesses)
    yield check("decoded", generation.decoded(), required=True)
    if on_threads is not None:
        counts = (1, max(2, torch.get_num_threads()))
        found = (generation.again(on_threads(threads), EngineConfig()) for threads in counts)
        yield check("threads", *found, threads=counts)
    theirs = generation.again(pytorch, EngineConfig(lookup=False))
    difference, largest = compare_logits(generation, backend, pytorch)
    tolerance = _LOGIT_TOLERANCE[backend.types.cache] * largest
    yield check("pytorch", theirs, required=False, logit_difference=difference, logit_tolerance=tolerance)


def as_float32(model: Transformer, *, int8: bool = False) -> Transformer:
    """A model of the same weights as float32, rounded to what `int8` leaves of them first; itself where it is that."""
    if not int8 and all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return model
    wide = copy.deepcopy(model).float()
    if int8:
        round_to_int8(wide)
    return wide


@torch.inference_mode()
def compare_logits(generation: Generation, one: Backend, other: Backend) -> tuple[float, float]:
    """The largest absolute difference of any logit that a token was drawn from, and the largest logit of `other`.

    Both read what was generated: `one` a token at a time, as a text is made; `other` many at once.
    """
    largest = magnitude = 0.0
    vocab_size = generation.tokenizer.vocab_size
    for at, made in enumerate(generation.made):
        prompt = generation.prompts[at // generation.config.num_samples]
        windows = list(_windows(prompt, made.ids, one.config.context))
        pairs = zip(_rows(one, windows, 1), _rows(other, windows, _AT_ONCE), strict=True)
        for ours, theirs in pairs:
            difference = float((ours - theirs)[:vocab_size].abs().max())
            largest = max(largest, math.inf if math.isnan(difference) else difference)
            magnitude = max(magnitude, float(theirs[:vocab_size].abs().max()))
    return largest, magnitude


def _windows(prompt: Sequence[int], ids: Sequence[int], context: int) -> Iterator[tuple[list[int], int]]:
    """What was read while ids were drawn, and after how many of its last tokens one was.

    ([1], [2, 3], 8) -> ([1, 2], 2). Where the context is full, the recent half is read again, as the engine does.
    """
    window, drawn = list(prompt), 0
    while drawn < len(ids):
        count = min(context - len(window) + 1, len(ids) - drawn)
        read = [*window, *ids[drawn : drawn + count - 1]]
        yield read, count
        drawn += count
        window = [*read, ids[drawn - 1]][-max(context // 2, 1) :]


def _rows(backend: Backend, windows: Iterable[tuple[list[int], int]], at_once: int) -> Iterator[Tensor]:
    """The logits (V) that each token was drawn from; after a prompt, so many tokens are read together."""
    cache = backend.new_cache(1)
    for tokens, count in windows:
        first = len(tokens) - count + 1
        for start, end in pairwise((0, *range(first, len(tokens), at_once), len(tokens))):
            segment = Segment(0, start, tokens[start:end], end - start if start else 1)
            yield from backend.read(cache, [segment]).float().cpu()


class _Counting:
    """A backend, and how many tokens it was given in advance."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.config, self.device, self.exact = backend.config, backend.device, backend.exact
        self.types, self.description = backend.types, backend.description
        self.guesses = 0

    def new_cache(self, sequences: int, positions: int = 1) -> SequenceCache:
        return self._backend.new_cache(sequences, positions)

    def read(self, cache: Any, segments: Sequence[Segment]) -> Tensor:
        self.guesses += sum(segment.logit_count - 1 for segment in segments)
        return self._backend.read(cache, segments)


def _check(
    generation: Generation, name: CheckName, found: Sequence[Sequence[Made]], required: bool, more: dict[str, Any]
) -> Check:
    expected = generation.made
    differences = [
        _difference(generation, sample, one, other)
        for found_once in found
        for sample, (one, other) in enumerate(zip(expected, found_once, strict=True))
        if one != other
    ]
    return Check(
        name=name,
        required=required,
        samples=len(expected),
        tokens=sum(len(made.ids) for made in expected),
        differing=len({difference.sample for difference in differences}),
        difference=min(differences, key=lambda difference: difference.sample, default=None),
        **more,
    )


def _difference(generation: Generation, sample: int, one: Made, other: Made) -> Difference:
    """The first token that differs; of equal tokens the one in whose text the texts part."""
    if one.ids == other.ids:
        same = _equal(one.text, other.text)
        prompt, decode = generation.prompt_of(sample), generation.tokenizer.decode
        whole = (
            decode(one.ids[:end], prompt).rstrip("\N{REPLACEMENT CHARACTER}") for end in range(1, len(one.ids) + 1)
        )
        at = next((at for at, text in enumerate(whole) if len(text) > same), len(one.ids))
    else:
        at = _equal(one.ids, other.ids)
    expected, found = (ids[at] if at < len(ids) else None for ids in (one.ids, other.ids))
    return Difference(sample, at, expected, found)


def _equal(one: Sequence[object], other: Sequence[object]) -> int:
    """How many elements two sequences begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
