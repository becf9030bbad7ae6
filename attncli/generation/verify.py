"""Checks on the user's machine that every way of computing a generation gives equal texts.

The samples are generated again alone, in a larger batch, without the KV cache, with guesses, with other numbers of
threads and with PyTorch. In addition, their ids are decoded at once instead of one by one. Every way is executed, none
is simulated. The module yields a `Check` for each way; it prints nothing and decides no exit code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attncli.config import EngineConfig, SampleConfig
from attncli.generation.ending import stop_at
from attncli.generation.engine import generate
from attncli.generation.events import Check, CheckName, Difference, Sample
from attncli.generation.samples import samples_of
from attncli.generation.sampling import sample_seed
from attncli.model.backend import Backend, Segment, SequenceCache
from attncli.model.native import round_to_int8
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer

_EXTRA_SAMPLES = 3  # samples added to each prompt for the larger batch
_TOKENS_PER_READ = 64  # tokens that the reference reads at once when logits are compared
# The largest allowed difference from PyTorch's logits, as a share of the largest logit, by the dtype of the cache. The
# largest differences measured over all families and the shipped model are 7e-7, 1.4e-3 and 1.2e-2. For comparison, an
# ignored attention window caused a difference of 9e-2.
_LOGIT_TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Original:
    """A generation to verify: its inputs and its samples, which are ordered by prompt."""

    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]
    config: SampleConfig
    end_ids: frozenset[int]
    samples: Sequence[Sample]
    sources: Sequence[Sequence[int]] | None = None  # for an encoder-decoder, one for each prompt

    def regenerate(self, backend: Backend, how: EngineConfig, extra: int = 0) -> list[Sample]:
        """Generates all samples again in one batch.

        The batch also contains `extra` more samples of each prompt, which are discarded.
        """
        count = self.config.num_samples
        config = replace(self.config, num_samples=count + extra)
        samples = self._generate(backend, range(len(self.prompts)), config, how)
        return [sample for number, sample in enumerate(samples) if number % (count + extra) < count]

    def regenerate_alone(self, backend: Backend, how: EngineConfig) -> list[Sample]:
        """Generates each sample again in a separate call, with the sample's own seed."""
        samples = []
        for prompt in range(len(self.prompts)):
            for number in range(self.config.num_samples):
                config = replace(self.config, num_samples=1, seed=sample_seed(self.config.seed, number))
                samples += self._generate(backend, [prompt], config, how)
        return samples

    def redecode(self) -> list[Sample]:
        """Returns the samples with text decoded from all ids at once, truncated at the first stop string."""
        return [
            replace(sample, text=self._decode(sample.ids, self.prompt_of(number)))
            for number, sample in enumerate(self.samples)
        ]

    def prompt_of(self, sample: int) -> Sequence[int]:
        """Returns the prompt of the sample with this number."""
        return self.prompts[sample // self.config.num_samples]

    def source_of(self, sample: int) -> Sequence[int] | None:
        """Returns the source of the sample with this number; None if there are no sources."""
        return None if self.sources is None else self.sources[sample // self.config.num_samples]

    def _generate(
        self, backend: Backend, numbers: Sequence[int], config: SampleConfig, how: EngineConfig
    ) -> list[Sample]:
        """Generates samples of the prompts with these numbers."""
        prompts = [self.prompts[number] for number in numbers]
        sources = None if self.sources is None else [self.sources[number] for number in numbers]
        how = replace(how, streamed=False)
        return samples_of(generate(backend, self.tokenizer, prompts, config, self.end_ids, how=how, sources=sources))

    def _decode(self, ids: Sequence[int], prompt: Sequence[int]) -> str:
        ended = bool(ids) and ids[-1] in self.end_ids
        hidden = frozenset[int]() if self.sources is None else self.tokenizer.special_ids
        shown = [id_ for id_ in (ids[:-1] if ended else ids) if id_ not in hidden]
        text = self.tokenizer.decode(shown, prompt)
        return text[: stop_at(text, self.config)]


def verify(
    original: Original, backend: Backend, pytorch: Backend, on_threads: Callable[[int], Backend] | None = None
) -> Iterator[Check]:
    """Generates the samples again in every way and yields a Check for each way.

    With an exact backend, every way except "pytorch" must give the original samples. With another backend, samples may
    differ, except in the check "decoded", which decodes all ids of a sample at once. `pytorch` is a backend with the
    same weights in float32; its logits must agree within a tolerance. `on_threads` returns the backend with a given
    number of threads. Pass None if the number of threads cannot be chosen.
    """
    count = original.config.num_samples
    batch = min((count + _EXTRA_SAMPLES) * len(original.prompts), EngineConfig.at_once)

    def check(name: CheckName, *repeats: Sequence[Sample], required: bool = backend.exact, **details: Any) -> Check:
        return _check(original, name, repeats, required, details)

    yield check("alone", original.regenerate_alone(backend, EngineConfig(lookup=False)))
    yield check("batch", original.regenerate(backend, EngineConfig(), _EXTRA_SAMPLES), batch=batch)
    yield check("uncached", original.regenerate(backend, EngineConfig(cached=False)))
    counting = _GuessCounter(backend)
    guessed = original.regenerate_alone(counting, EngineConfig(lookup=True))
    yield check("guesses", guessed, guesses=counting.guesses)
    yield check("decoded", original.redecode(), required=True)
    if on_threads is not None:
        counts = (1, max(2, torch.get_num_threads()))
        repeats = (original.regenerate(on_threads(threads), EngineConfig()) for threads in counts)
        yield check("threads", *repeats, threads=counts)
    by_pytorch = original.regenerate(pytorch, EngineConfig(lookup=False))
    difference, largest = compare_logits(original, backend, pytorch)
    tolerance = _LOGIT_TOLERANCE[backend.types.cache] * largest
    yield check("pytorch", by_pytorch, required=False, logit_difference=difference, logit_tolerance=tolerance)


def as_float32(model: Transformer, *, int8: bool = False) -> Transformer:
    """Returns a float32 copy of the model. With `int8`, the weights of the copy are rounded to int8 values.

    Returns the model itself if its weights are float32 and `int8` is false.
    """
    if not int8 and all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return model
    wide = copy.deepcopy(model).float()
    if int8:
        round_to_int8(wide)
    return wide


@torch.inference_mode()
def compare_logits(original: Original, backend: Backend, reference: Backend) -> tuple[float, float]:
    """Returns the largest absolute difference between the logits of two backends, and the largest logit of `reference`.

    Compares the logits that the tokens were drawn from. Both backends read the generated ids: `backend` reads one token
    at a time, as in generation, and `reference` reads many at once.
    """
    difference = magnitude = 0.0
    vocab_size = original.tokenizer.vocab_size
    for number, sample in enumerate(original.samples):
        windows = list(_windows(original.prompt_of(number), sample.ids, backend.config.context))
        source = original.source_of(number)
        pairs = zip(
            _rows(backend, windows, 1, source), _rows(reference, windows, _TOKENS_PER_READ, source), strict=True
        )
        for logits, expected in pairs:
            largest = float((logits - expected)[:vocab_size].abs().max())
            difference = max(difference, math.inf if math.isnan(largest) else largest)
            magnitude = max(magnitude, float(expected[:vocab_size].abs().max()))
    return difference, magnitude


def _windows(prompt: Sequence[int], ids: Sequence[int], context: int) -> Iterator[tuple[list[int], int]]:
    """Yields each context window that the network read to generate `ids`, and the number of tokens generated in it.

    ([1], [2, 3], 8) -> ([1, 2], 2). As in the engine, a full window is followed by a window that begins with the most
    recent half of its tokens.
    """
    window, drawn = list(prompt), 0
    while drawn < len(ids):
        count = min(context - len(window) + 1, len(ids) - drawn)
        read = [*window, *ids[drawn : drawn + count - 1]]
        yield read, count
        drawn += count
        window = [*read, ids[drawn - 1]][-max(context // 2, 1) :]


def _rows(
    backend: Backend, windows: Iterable[tuple[list[int], int]], step: int, source: Sequence[int] | None
) -> Iterator[Tensor]:
    """Yields the logits (V,) that each token was drawn from. After the prompt, reads `step` tokens at once."""
    cache = backend.new_cache(1)
    if source is not None:
        backend.read_sources(cache, {0: source})
    for tokens, count in windows:
        first = len(tokens) - count + 1
        for start, end in pairwise((0, *range(first, len(tokens), step), len(tokens))):
            segment = Segment(0, start, tokens[start:end], end - start if start else 1)
            yield from backend.read(cache, [segment]).float().cpu()


class _GuessCounter:
    """A backend that counts the guessed tokens that it reads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.config, self.device, self.exact = backend.config, backend.device, backend.exact
        self.types, self.description = backend.types, backend.description
        self.guesses = 0  # tokens

    def new_cache(self, sequences: int, positions: int = 1) -> SequenceCache:
        return self._backend.new_cache(sequences, positions)

    def read_sources(self, cache: Any, sources: Mapping[int, Sequence[int]]) -> None:
        self._backend.read_sources(cache, sources)

    def read(self, cache: Any, segments: Sequence[Segment]) -> Tensor:
        self.guesses += sum(segment.logit_count - 1 for segment in segments)
        return self._backend.read(cache, segments)


def _check(
    original: Original, name: CheckName, repeats: Sequence[Sequence[Sample]], required: bool, details: dict[str, Any]
) -> Check:
    """Returns the Check that compares the original samples with each repetition.

    `details` are further fields of the Check.
    """
    differences = [
        _difference(original, number, expected, actual)
        for repeat in repeats
        for number, (expected, actual) in enumerate(zip(original.samples, repeat, strict=True))
        if expected != actual
    ]
    return Check(
        name=name,
        required=required,
        samples=len(original.samples),
        tokens=sum(len(sample.ids) for sample in original.samples),
        differing=len({difference.sample for difference in differences}),
        difference=min(differences, key=lambda difference: difference.sample, default=None),
        **details,
    )


def _difference(original: Original, number: int, expected: Sample, actual: Sample) -> Difference:
    """Returns the Difference of two samples at the first position where their token ids differ.

    If only the texts differ, the position is that of the token that contains the first different character.
    """
    if expected.ids == actual.ids:
        common = _common_length(expected.text, actual.text)
        prompt, decode = original.prompt_of(number), original.tokenizer.decode
        ends = range(1, len(expected.ids) + 1)
        decoded = (decode(expected.ids[:end], prompt).rstrip("\N{REPLACEMENT CHARACTER}") for end in ends)
        at = next((at for at, text in enumerate(decoded) if len(text) > common), len(expected.ids))
    else:
        at = _common_length(expected.ids, actual.ids)
    ids = (sample.ids[at] if at < len(sample.ids) else None for sample in (expected, actual))
    return Difference(number, at, *ids)


def _common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Returns the length of the longest common prefix of two sequences."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
