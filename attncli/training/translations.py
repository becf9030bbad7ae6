"""Translates validation sources greedily, at each evaluation and after the run."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.checkpoint.load import LoadedModel
from attncli.model.backend import Segment, TorchBackend
from attncli.model.transformer import Transformer
from attncli.text.pair_tokens import PairTokens
from attncli.text.tokenizer import Tokenizer
from attncli.training import recipe
from attncli.training.reports import Plan, Translation, TranslationsReport
from attncli.training.tasks.base import Sampler

_LONGEST_TIMES, _LONGEST_PLUS = 2, 10  # a translation of S source tokens has at most 2 S + 10 tokens


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
    """Returns the translations of the chosen pairs' sources, with the pairs' targets as references."""
    outputs = greedy(model, [val.source[at].tolist() for at in chosen], tokenizer, start)
    return tuple(
        Translation(val.pairs[at].source, text, val.pairs[at].target) for at, text in zip(chosen, outputs, strict=True)
    )


def greedy(model: Transformer, sources: Sequence[Sequence[int]], tokenizer: Tokenizer, start: int) -> list[str]:
    """Returns the greedy translations of source texts, which are given as ids. All are translated in one batch."""
    backend, end = TorchBackend(model), tokenizer.end_of_text
    cache = backend.new_cache(len(sources))
    backend.read_sources(cache, dict(enumerate(sources)))
    longest = [min(_LONGEST_TIMES * len(ids) + _LONGEST_PLUS, model.config.context) for ids in sources]
    outputs: list[list[int]] = [[] for _ in sources]
    last, active = [start] * len(sources), list(range(len(sources)))
    for position in range(max(longest)):
        logits = backend.read(cache, [Segment(number, position, [last[number]]) for number in active])
        for number, id_ in zip(active, logits.argmax(-1).tolist(), strict=True):
            last[number] = id_
            if id_ != end:
                outputs[number].append(id_)
        active = [number for number in active if last[number] != end and len(outputs[number]) < longest[number]]
        if not active:
            break
    return [tokenizer.decode([id_ for id_ in ids if id_ < tokenizer.vocab_size]) for ids in outputs]


def translate(loaded: LoadedModel, sources: Sequence[str]) -> list[str]:
    """Returns the greedy translations of source texts. Longer sources than the context are cut."""
    tokenizer = loaded.tokenizer
    opening, closing = tokenizer.opening, tokenizer.closing
    most = loaded.model.config.context - len(opening) - len(closing)
    ids = [[*opening, *found[:most], *closing] for found in tokenizer.encode_batch(list(sources))]
    return greedy(loaded.model, ids, tokenizer, loaded.start_of_text)
