"""Summarizes a finished run on pairs: its score, BLEU and chrF2 beside a baseline, examples, a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from attncli.checkpoint.load import LoadedModel
from attncli.errors import Naming
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.translation import references_of
from attncli.evaluation.translation_judgement import judge_translations
from attncli.generation.loading import backend_for
from attncli.text.pair_corpus import PairCorpus
from attncli.training import recipe
from attncli.training.diagnosis import course_of, diagnose
from attncli.training.reports import Plan, Result, RunSummary
from attncli.training.translations import shown_pairs, translate, translations


def summarize_pairs(
    corpus: PairCorpus,
    loaded: LoadedModel,
    result: Result,
    plan: Plan,
    metrics: Iterable[Mapping[str, Any]],
    naming: Naming = str,
) -> RunSummary:
    """Returns the summary of a finished run on pairs. Takes the arguments of `Task.summarize`."""
    assert result.best is not None
    val = corpus.val
    examples = translations(loaded.model, val, shown_pairs(val), loaded.tokenizer, loaded.start_of_text)
    return RunSummary(
        result,
        share=val.share_of(result.best.scored),
        prompt=examples[0].source,
        sample="",
        judgement=Judgement(result.best, diagnosis=diagnose(course_of(result, plan, metrics), naming)),
        sample_tokens=0,
        examples=examples,
        translation=judge_translations(
            partial(translate, loaded, backend_for(loaded.model)),
            references_of(val.pairs),
            list(corpus.train.pairs),
            recipe.MOST_TRANSLATED,
            None if plan.seconds is None else translating_seconds(plan.seconds),
        ),
    )


def translating_seconds(seconds: float) -> float:
    """Returns the seconds that may be spent on translating validation sources after a run of `seconds`."""
    return min(recipe.TRANSLATING_SHARE * seconds, recipe.TRANSLATING_SECONDS)
