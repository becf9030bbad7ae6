"""Evaluates a run: scores the validation part and the attention heads, and generates a sample.

An evaluation changes neither the weights nor the random numbers of later steps. It adds its scores to the run's
metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

from attncli.evaluation.score import Score
from attncli.model.device import DTYPES
from attncli.training.head_scores import HeadScorer
from attncli.training.reports import EvalReport, HeadsReport, Plan, SampleReport, TranslationsReport
from attncli.training.run import Run, diverged, load_trained, weights_of
from attncli.training.tasks.base import Sampler, Task


def evaluate_run(run: Run, task: Task, plan: Plan, seconds: Callable[[], float]) -> EvalReport:
    """Scores an evenly spread sample of the validation part, and returns the report.

    If the score is the best so far, copies the weights. `seconds` is a function that returns the time spent on the run
    so far. Raises Diverged if the score is not finite.
    """
    score = task.evaluate(run.trainee.working, task.units_during(plan), plan.context)
    if not math.isfinite(score.nats):
        raise diverged(run.step, f"the validation loss is {score.per_token:.4g}")
    best = run.best is None or score.per_token < run.best.per_token
    if best:
        run.best, run.best_step, run.best_weights = score, run.step, weights_of(run.model)
    report = EvalReport(run.step, score, best, seconds())
    run.metrics.append({"kind": "eval", "step": run.step, "best": best, "seconds": report.seconds, **score.figures()})
    return report


def is_evaluated(run: Run) -> bool:
    """Whether the metrics contain an evaluation of the current step.

    They do if the run is resumed after a stop in `final_score`, which follows the last evaluation.
    """
    return any(line["kind"] == "eval" and line["step"] == run.step for line in run.metrics)


def sample_run(run: Run, sample: Sampler) -> SampleReport | TranslationsReport:
    """Generates a sample with the model's current weights."""
    run.model.eval()
    report = sample(run.model, run.step)
    run.model.train()
    return report


def score_heads(run: Run, scorer: HeadScorer, seconds: Callable[[], float]) -> HeadsReport:
    """Scores the attention heads of the model with its current weights."""
    run.model.eval()
    best, scores = scorer(run.model)
    run.model.train()
    report = HeadsReport(run.step, best, scores, seconds())
    named = {one.kind: {name: value for name, value in asdict(one).items() if name != "kind"} for one in best}
    line = {"kind": "heads", "step": run.step, "seconds": report.seconds, "best": named, "scores": scores}
    run.metrics.append(line)
    return report


def final_score(run: Run, task: Task, plan: Plan, stop: Callable[[], bool]) -> Score | None:
    """Scores the best weights on the whole validation part, or on as many windows as the plan has time for.

    The weights are rounded to the dtype of the save, and the network computes in float32. If `stop` interrupts the
    evaluation, returns None and leaves the run unchanged.
    """
    assert run.best is not None
    unchanged = plan.dtype == plan.save_dtype == "float32" and plan.context == plan.model.context
    if unchanged and run.best_step == run.step and task.is_whole(run.best):
        return run.best  # the last evaluation scored these weights on the whole part
    last, kept = weights_of(run.model), run.best_weights
    run.best_weights = {name: tensor.to(DTYPES[plan.save_dtype]) for name, tensor in kept.items()}
    load_trained(run.model, run.best_weights)

    def check(_scored: int) -> None:
        if stop():
            raise _Stopped

    try:
        return task.evaluate(run.model, plan.closing_windows, progress=check)
    except _Stopped:
        load_trained(run.model, last)
        run.best_weights = kept
        return None


class _Stopped(Exception):
    """Raised during an evaluation to end it."""
