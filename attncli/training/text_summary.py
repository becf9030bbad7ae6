"""Summarizes a finished run on a text: its score with baselines, the copied share of a sample, a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attncli.checkpoint.load import LoadedModel
from attncli.errors import Naming
from attncli.evaluation.baselines import measure
from attncli.evaluation.excerpt import SCORED_BYTES, TRAIN_BYTES, counted_of, first_of, last_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.memorization import measure_memorization
from attncli.text.corpus import Corpus
from attncli.training import recipe
from attncli.training.budget import counted_tokens
from attncli.training.diagnosis import course_of, diagnose
from attncli.training.reports import Plan, Result, RunSummary
from attncli.training.samples import final_sample, first_words

_UNSEEN_TOKENS = 2000  # tokens of the validation part to compare with a sample


def summarize_text(
    corpus: Corpus,
    loaded: LoadedModel,
    result: Result,
    plan: Plan,
    metrics: Iterable[Mapping[str, Any]],
    naming: Naming = str,
) -> RunSummary:
    """Returns the summary of a finished run on a text: generates a sample, and judges the run.

    Takes the arguments of `Task.summarize`.
    """
    assert result.best is not None
    ids = final_sample(loaded, plan)
    return RunSummary(
        result,
        share=corpus.val.share_of(result.best.scored),
        prompt=first_words(corpus),
        sample=loaded.tokenizer.decode(ids[: recipe.SAMPLE_TOKENS]),
        judgement=judge(result, plan, corpus, metrics, ids, naming),
        sample_tokens=recipe.SAMPLE_TOKENS,
    )


def judge(
    result: Result,
    plan: Plan,
    corpus: Corpus,
    metrics: Iterable[Mapping[str, Any]],
    sample: Sequence[int],
    naming: Naming = str,
) -> Judgement:
    """Returns the judgment of a finished run: the baselines, the memorization and the diagnosis.

    Args:
        result: the result of the run.
        plan: the plan of the run; a shorter run lets the baselines read less text.
        corpus: the text of the run.
        metrics: the lines of the run's metrics.jsonl.
        sample: ids that the finished model generated without a prompt.
        naming: returns the name of a setting as the user writes it: lr -> --lr.
    """
    assert result.best is not None
    most = TRAIN_BYTES
    if plan.seconds is not None:
        most = min(int(plan.seconds * recipe.COMPRESSED_BYTES_PER_SECOND), TRAIN_BYTES)
    tokenizer = corpus.tokenizer
    scored = first_of(corpus.val, tokenizer, most * SCORED_BYTES // TRAIN_BYTES)
    counted = counted_of(corpus.train, counted_tokens(plan.seconds))
    baselines = measure(scored, tokenizer.vocab_size, last_of(corpus.train, tokenizer, most), counted)
    ids, unseen = np.asarray(sample, corpus.train.ids.dtype), corpus.val.ids[:_UNSEEN_TOKENS]
    memorization = measure_memorization(ids, corpus.train.ids, tokenizer, unseen)
    return Judgement(result.best, baselines, memorization, diagnose(course_of(result, plan, metrics), naming))
