"""Summarizes a finished run on pairs: its score, example translations, a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attncli.checkpoint.load import LoadedModel
from attncli.errors import Naming
from attncli.evaluation.judgement import Judgement
from attncli.text.pair_corpus import PairCorpus
from attncli.training.diagnosis import course_of, diagnose
from attncli.training.reports import Plan, Result, RunSummary
from attncli.training.translations import shown_pairs, translations


def summarize_pairs(
    corpus: PairCorpus,
    loaded: LoadedModel,
    result: Result,
    plan: Plan,
    metrics: Iterable[Mapping[str, Any]],
    naming: Naming = str,
) -> RunSummary:
    """Returns the summary of a finished run on pairs. The arguments are those of `Task.summarize`."""
    assert result.best is not None
    val = corpus.val
    chosen = shown_pairs(val)
    examples = translations(loaded.model, val, chosen, loaded.tokenizer, loaded.start_of_text)
    return RunSummary(
        result,
        share=result.best.scored / val.to_score,
        prompt=examples[0].source,
        sample="",
        judgement=Judgement(result.best, diagnosis=diagnose(course_of(result, plan, metrics), naming)),
        sample_tokens=0,
        examples=examples,
    )
