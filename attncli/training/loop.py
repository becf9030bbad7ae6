"""The training loop: steps, evaluations and saves, until the steps or the time are used up.

Owns the run's state and what of it goes to disk. Yields reports, prints nothing. Every step is a pure function of the
seed and the step, so a resumed run on the CPU ends with the weights of an uninterrupted one, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from attncli.checkpoint.store import Checkpoint
from attncli.errors import Diverged
from attncli.model.device import DTYPES
from attncli.model.transformer import Transformer, initialize
from attncli.text.corpus import Corpus, batch
from attncli.training.evaluate import evaluate
from attncli.training.optimizer import load_optimizer_tensors, make_optimizer
from attncli.training.plan import CLOSING_SECONDS, sampled_windows
from attncli.training.reports import EvalReport, Plan, Report, Result, SaveReport, Score, StepReport
from attncli.training.saver import Run, Saver, figures, weights_of
from attncli.training.schedule import Schedule
from attncli.training.step import train_step

_TOLERATED = 0.02  # a smaller change of the steps left is not worth a revision


def train(
    corpus: Corpus,
    plan: Plan,
    target: Path,
    *,
    facts: dict[str, Any],
    resume: Checkpoint | None = None,
    started: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Report]:
    """Trains a model and keeps it at `target`, which the caller has locked.

    Args:
        corpus: the text.
        plan: what to do; of a resumed run, the plan of its beginning.
        target: the model directory, written at the start, at every evaluation, and at the end.
        facts: what `run.json` shall say beside the plan and the results (JSON values).
        resume: what `read_resumable` gave.
        started: when the clock of the deadline began, by time.monotonic(); now, when not given.
        stop: asked after every step; true saves and ends the run.

    Yields:
        A report for every few steps, evaluation and save; last a Result.

    Raises:
        Diverged: when the loss is not finite; what was saved before stays.
        OutOfRoom: when a save does not fit.
    """
    clock = _Clock(time.monotonic() if started is None else started, plan)
    run = _begin(plan, resume)
    clock.before = run.seconds_before
    with Saver(target, corpus, plan, facts) as saver:
        if resume is None:
            saver.save(run, "running", clock.spent())  # an unwritable place is found out now
            yield from map(SaveReport, saver.safe())
        meter = _Meter(plan)
        while run.step < run.schedule.steps:
            lr = run.schedule.lr(run.step)
            meter.add(_take_step(run, corpus, plan, lr))
            stopping, last = stop(), run.step == run.schedule.steps
            due = run.step % plan.eval_every == 0 and not last
            if run.step % plan.report_every == 0 or due or last or stopping:
                report = meter.report(run, lr, clock.spent())
                run.train_loss = report.loss
                run.metrics.append({"kind": "step", **asdict(report)})
                yield report
                run.schedule = clock.revise(run.schedule, run.step)
            if due:
                yield _evaluate(run, corpus, plan, clock)
            if stopping:
                saver.save(run, "stopped", clock.spent())
            elif due:
                saver.save_beside(run, clock.spent())
                meter.restart()
            yield from map(SaveReport, saver.safe())
            if stopping:
                yield _result(run, plan, clock, run.best, finished=False)
                return
        yield from _finish(run, corpus, plan, clock, saver)


def _take_step(run: Run, corpus: Corpus, plan: Plan, lr: float) -> float:
    """The next step, and its loss."""
    rows = batch(
        corpus.train.ids, seed=plan.seed, step=run.step, batch_size=plan.batch_size, context=plan.model.context
    )
    ids = torch.from_numpy(rows).to(plan.device)
    loss = train_step(run.model, run.optimizer, ids, step=run.step, seed=plan.seed, lr=lr, dtype=DTYPES[plan.dtype])
    run.step += 1
    return loss


class _Meter:
    """The mean loss and the speed since the last report."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.restart()

    def restart(self) -> None:
        """Begins anew: what came before, or took time beside the steps, does not count."""
        self._losses: list[float] = []
        self._began = time.monotonic()

    def add(self, loss: float) -> None:
        """Takes the loss of one step."""
        self._losses.append(loss)

    def report(self, run: Run, lr: float, seconds: float) -> StepReport:
        """The steps since the last report, of which there is at least one."""
        mean = sum(self._losses) / len(self._losses)
        rate = len(self._losses) * self._plan.tokens_per_step / (time.monotonic() - self._began)
        self.restart()
        return StepReport(run.step, run.schedule.steps, mean, lr, rate, seconds)


def _begin(plan: Plan, resume: Checkpoint | None) -> Run:
    """A new run, or the one that a state describes."""
    model = Transformer(plan.model, plan.dropout)
    initialize(model, torch.Generator().manual_seed(plan.seed))
    model.to(plan.device).train()
    optimizer = make_optimizer(model, plan.weight_decay)
    if resume is None:
        return Run(model, optimizer, plan.schedule)
    assert resume.state is not None
    tensors, facts = resume.state.tensors, resume.state.facts
    model.load_state_dict({name: tensors[f"weights.{name}"] for name in model.state_dict()})
    prefix = "optimizer."
    load_optimizer_tensors(optimizer, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return Run(
        model,
        optimizer,
        replace(plan.schedule, marks=tuple((step, steps) for step, steps in facts["schedule"])),
        step=facts["step"],
        best_step=facts["best_step"],
        best=Score(**facts["best"]) if facts["best"] else None,
        best_weights=resume.weights,
        metrics=list(resume.metrics),
        train_loss=facts["train_loss"],
        seconds_before=facts["seconds"],
    )


def _evaluate(run: Run, corpus: Corpus, plan: Plan, clock: _Clock) -> EvalReport:
    """Scores an even sample of the validation part, and keeps the weights when they are the best so far."""
    windows = sampled_windows(plan)
    score = evaluate(run.model, corpus.val, windows=windows, dtype=DTYPES[plan.dtype])
    if not math.isfinite(score.nats):
        raise Diverged(
            f"Training diverged at step {run.step}: the validation loss is {score.per_token:.4g}.",
            "Nothing saved was overwritten. Try a smaller --lr.",
        )
    best = run.best is None or score.per_token < run.best.per_token
    if best:
        run.best, run.best_step, run.best_weights = score, run.step, weights_of(run.model)
    report = EvalReport(run.step, score, best, clock.spent())
    run.metrics.append({"kind": "eval", "step": run.step, "best": best, "seconds": report.seconds, **figures(score)})
    return report


def _finish(run: Run, corpus: Corpus, plan: Plan, clock: _Clock, saver: Saver) -> Iterator[Report]:
    """The last evaluation, the score of the best weights on all of the validation part, and the last save."""
    last = _evaluate(run, corpus, plan, clock)
    yield last
    if last.best and last.score.scored == len(corpus.val) - 1 and plan.dtype == "float32":
        whole = last.score
    else:  # in float32, as any other program would
        run.model.load_state_dict(run.best_weights)
        whole = evaluate(run.model, corpus.val)
    run.metrics.append({"kind": "final", "step": run.best_step, **figures(whole)})
    result = _result(run, plan, clock, whole, finished=True)
    saver.save(run, "finished", clock.spent(), result)
    yield from map(SaveReport, saver.safe())
    yield replace(result, seconds=clock.spent())


def _result(run: Run, plan: Plan, clock: _Clock, best: Score | None, *, finished: bool) -> Result:
    tokens = run.step * plan.tokens_per_step
    return Result(finished, run.step, run.schedule.steps, run.best_step, best, run.train_loss, tokens, clock.spent())


class _Clock:
    """Time spent, and the number of steps that the time left allows."""

    def __init__(self, started: float, plan: Plan) -> None:
        self.before = 0.0
        self._started = started
        self._plan = plan
        self._first: tuple[float, int] | None = None  # when the first revision was made, and at which step

    def spent(self) -> float:
        """Seconds since the run began, the earlier parts of a resumed one included."""
        return self.before + time.monotonic() - self._started

    def revise(self, schedule: Schedule, step: int) -> Schedule:
        """The schedule, its end moved to the deadline when there is one and the estimate was off."""
        deadline = self._plan.seconds
        if deadline is None:
            return schedule
        now = self.spent()
        if self._first is None:
            self._first = (now, step)
            return schedule
        seconds, first = self._first
        per_step = (now - seconds) / (step - first)  # evaluations and saves included
        left = deadline - now - CLOSING_SECONDS - self._plan.closing_evaluation_seconds
        steps = max(int(left / per_step), 0)
        expected = schedule.steps - step
        return schedule if abs(steps - expected) <= _TOLERATED * expected else schedule.revised(step, step + steps)
