"""The judgement of a finished run: its score beside baselines, the share of a sample that was copied, a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attncli.evaluation.baselines import measure
from attncli.evaluation.excerpt import COUNTED_TOKENS, SCORED_BYTES, TRAIN_BYTES, counted_of, first_of, last_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.memorization import measure_memorization
from attncli.text.corpus import Corpus
from attncli.training.diagnosis import Course, curves, diagnose
from attncli.training.reports import Plan, Result

# Of a run's time: with so much training text gzip and xz take about 2 % of it, and with so much the 5-gram model.
_BYTES_PER_SECOND, COUNTED_PER_SECOND = 16_000, 16_000  # tokens
_MOST_COUNTED = 6_000_000  # tokens, which take about a gigabyte
_UNSEEN_TOKENS = 2000  # of the validation part, for comparison with a sample


def counted_tokens(seconds: float | None) -> int:
    """How many tokens of training text the 5-gram model is given after a run of that time, or of no set time."""
    return COUNTED_TOKENS if seconds is None else min(int(seconds * COUNTED_PER_SECOND), _MOST_COUNTED)


def judge(
    result: Result, plan: Plan, corpus: Corpus, metrics: Iterable[Mapping[str, Any]], sample: Sequence[int]
) -> Judgement:
    """All of it for a run that has finished.

    Args:
        result: of the run.
        plan: of the run; its time bounds how much text the yardsticks are given.
        corpus: its text.
        metrics: the lines of its metrics.jsonl.
        sample: ids that the finished model generated, without a prompt.
    """
    assert result.best is not None
    most = TRAIN_BYTES if plan.seconds is None else min(int(plan.seconds * _BYTES_PER_SECOND), TRAIN_BYTES)
    tokenizer = corpus.tokenizer
    scored = first_of(corpus.val, tokenizer, most * SCORED_BYTES // TRAIN_BYTES)
    counted = counted_of(corpus.train, counted_tokens(plan.seconds))
    yardsticks = measure(scored, tokenizer.vocab_size, last_of(corpus.train, tokenizer, most), counted)
    ids, unseen = np.asarray(sample, corpus.train.ids.dtype), corpus.val.ids[:_UNSEEN_TOKENS]
    train, val = curves(metrics)
    course = Course(
        train=train,
        val=val,
        vocab_size=plan.model.vocab_size,
        dropout=plan.dropout,
        epochs=result.tokens / plan.train_tokens,
        train_tokens=plan.train_tokens,
        timed=plan.seconds is not None,
        capped=plan.most_steps is not None and result.step >= plan.most_steps,
    )
    memorization = measure_memorization(ids, corpus.train.ids, tokenizer, unseen)
    return Judgement(result.best, yardsticks, memorization, diagnose(course))
