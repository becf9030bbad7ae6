"""Translates validation sources greedily, at each evaluation and after the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attncli.checkpoint.load import LoadedModel
from attncli.config import EngineConfig, SampleConfig
from attncli.generation.defaults import longest_translation, settings_for
from attncli.generation.engine import generate
from attncli.generation.events import Event
from attncli.generation.loading import backend_for
from attncli.generation.samples import samples_of
from attncli.model.backend import Backend
from attncli.model.transformer import Transformer
from attncli.text.pair_tokens import PairTokens
from attncli.text.tokenizer import Tokenizer
from attncli.training import recipe
from attncli.training.reports import Plan, Translation, TranslationsReport
from attncli.training.tasks.base import Sampler

_HOW = EngineConfig(streamed=False)


def translation_sampler(val: PairTokens, tokenizer: Tokenizer, start: int, plan: Plan) -> Sampler | None:
    """Returns a function that translates a few validation sources with a model, or None for a very short run."""
    if plan.seconds is not None and plan.seconds * recipe.SAMPLE_TOKENS_PER_SECOND < recipe.FEWEST_SAMPLE_TOKENS:
        return None
    chosen = shown_pairs(val)

    def sample(model: Transformer, step: int) -> TranslationsReport:
        return TranslationsReport(step, translations(model, val, chosen, tokenizer, start))

    return sample


def shown_pairs(val: PairTokens) -> list[int]:
    """Returns the indices of a few pairs with different sources, spread over the validation part.

    Sources of a few words are preferred, since their translations fit a line.
    """
    count = recipe.SHOWN_TRANSLATIONS
    sizes = val.pairs.source.sizes.tolist()
    fitting = [at for at, size in enumerate(sizes) if 10 < size <= recipe.LONGEST_SHOWN_SOURCE]
    fitting = fitting or list(range(len(val)))
    chosen: dict[str, int] = {}
    for number in range(count):
        at = fitting[(2 * number + 1) * len(fitting) // (2 * count)]
        chosen.setdefault(val.pairs[at].source, at)
    return list(chosen.values())


def translations(
    model: Transformer, val: PairTokens, chosen: Sequence[int], tokenizer: Tokenizer, start: int
) -> tuple[Translation, ...]:
    """Translates the sources of the chosen pairs, and returns them with the targets as references."""
    outputs = greedy(model, [val.source[at].tolist() for at in chosen], tokenizer, start)
    pairs = [val.pairs[at] for at in chosen]
    return tuple(Translation(pair.source, text, pair.target) for pair, text in zip(pairs, outputs, strict=True))


def greedy(model: Transformer, sources: Sequence[Sequence[int]], tokenizer: Tokenizer, start: int) -> list[str]:
    """Returns the greedy translations of source texts, which are given as ids."""
    config = SampleConfig(temperature=0, max_new_tokens=_longest(sources, model.config.context - 1))
    return _texts(generate(backend_for(model), tokenizer, [[start]] * len(sources), config, how=_HOW, sources=sources))


def translate(loaded: LoadedModel, backend: Backend, texts: Sequence[str], beams: int = 1) -> list[str]:
    """Returns the translations of texts: greedy, or with beam search. A text longer than the context is truncated."""
    tokenizer, context = loaded.tokenizer, backend.config.context
    most = context - len(tokenizer.opening) - len(tokenizer.closing)
    ids = [[*tokenizer.opening, *found[:most], *tokenizer.closing] for found in tokenizer.encode_batch(list(texts))]
    prompts, sources = loaded.inputs(ids)
    config = SampleConfig(temperature=0, max_new_tokens=_longest(ids, context - len(prompts[0])), beams=beams)
    config = settings_for(loaded, config, ("temperature", "beams"))
    return _texts(generate(backend, tokenizer, prompts, config, loaded.end_ids, how=_HOW, sources=sources))


def _longest(sources: Sequence[Sequence[int]], room: int) -> int:
    """Returns the largest number of tokens of a translation, given the sources' ids, and the `room` in the context."""
    return longest_translation(max(map(len, sources)), room)


def _texts(events: Iterable[Event]) -> list[str]:
    """Returns the text of each sample, in the order of the samples."""
    return [sample.text for sample in samples_of(events)]
