"""The training loop: takes steps, evaluates and saves, until all steps are taken or the time is over.

After each step, `intervals` decides what to do next. Every step is a pure function of the weights, the seed and the
number of the step. So on a CPU, a resumed run and an uninterrupted run end with bit-identical weights. Yields reports;
prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.save import Borders, Checkpoint
from attncli.evaluation.score import Score
from attncli.training.evaluations import evaluate_run, final_score, is_evaluated, sample_run, score_heads
from attncli.training.head_scores import HeadScorer
from attncli.training.intervals import evaluation_is_due, report_is_due, save_is_due
from attncli.training.meter import Meter
from attncli.training.reports import Plan, Report, Result, SaveReport
from attncli.training.run import Run, begin_run, threads_of
from attncli.training.run_clock import RunClock
from attncli.training.saver import Saver
from attncli.training.tasks.base import Sampler, Task
from attncli.training.tasks.registry import TrainingCorpus, task_of


def train(
    corpus: TrainingCorpus,
    plan: Plan,
    target: Path,
    *,
    facts: dict[str, Any],
    initial: dict[str, Tensor] | None = None,
    borders: Borders | None = None,
    resume: Checkpoint | None = None,
    adaptation: Adaptation | None = None,
    started: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    sample: Sampler | None = None,
    head_scorer: HeadScorer | None = None,
) -> Iterator[Report]:
    """Trains a model and saves it at `target`, which the caller has locked. Yields reports; the last is a Result.

    Args:
        corpus: the text or the pairs, as tokens.
        plan: the settings of the run; a resumed run needs its original plan.
        target: the directory of the model.
        facts: JSON values for run.json.
        initial: the first weights, by default drawn from the seed.
        borders: the start token and the end tokens of the model to fine-tune.
        resume: the saved state of a stopped run, from `read_resumable`; the tensors are removed from the state.
        adaptation: the adapters to train, and the model that they change.
        started: the time.monotonic() at which the run began or was resumed, by default now.
        stop: is called after every step and micro-batch; if it returns true, the run is saved and ends.
        sample: generates text or translations with the model at every evaluation.
        head_scorer: scores the attention heads of the model at every evaluation.

    Raises Diverged if a loss or gradient is not finite, and OutOfRoom if a save does not fit; earlier saves are kept.
    """
    if resume is not None:
        borders, adaptation = resume.borders, resume.adaptation
    task = task_of(corpus, None if borders is None else borders.start_of_text).within(plan.context)
    with threads_of(plan):
        run = begin_run(plan, initial, resume, adaptation)
        clock = RunClock(plan, started, run.seconds_before)
        with Saver(target, task, plan, facts, borders, adaptation) as saver:
            if resume is None:
                saver.begin(run, clock.spent())
                yield from map(SaveReport, saver.safe())
            yield from _Loop(run, task, plan, clock, saver, stop, sample, head_scorer).reports()


@dataclass(frozen=True)
class _Loop:
    """The training loop of one run."""

    run: Run
    task: Task
    plan: Plan
    clock: RunClock
    saver: Saver
    stop: Callable[[], bool]
    sample: Sampler | None
    head_scorer: HeadScorer | None

    def reports(self) -> Iterator[Report]:
        """Takes the remaining steps, then finishes the run; yields the reports."""
        run, plan, clock, saver = self.run, self.plan, self.clock, self.saver
        meter = Meter(plan)
        while run.step < (steps := run.schedule.steps):
            outcome = self._step()
            if outcome is not None:
                meter.add(*outcome)
            stopping = outcome is None or self.stop()
            evaluating = outcome is not None and evaluation_is_due(run.step, steps, plan)
            if meter.steps and report_is_due(run.step, steps, plan, evaluating=evaluating, stopping=stopping):
                yield meter.report(run, clock.spent())
                run.schedule = clock.revise(run.schedule, run.step)
            if evaluating:
                yield from self._evaluations(sampling=True)
            if stopping:
                yield from self._end_early()
                return
            since = clock.spent() - saver.saved_at
            if save_is_due(evaluated=evaluating, reported=not meter.steps, seconds_since_save=since):
                saver.save_beside(run, clock.spent())
                meter.restart()
            yield from map(SaveReport, saver.safe())
        yield from self._finish()

    def _step(self) -> tuple[Tensor, Tensor] | None:
        """Takes the next step. Returns its loss and gradient norm, or None if it was stopped between micro-batches."""
        run, plan = self.run, self.plan
        batch = self.task.batch(run.step, plan.seed, plan.context, plan.batch_size)
        lr = run.schedule.lr(run.step)
        outcome = run.trainee.step(
            batch.to(plan.device),
            step=run.step,
            seed=plan.seed,
            lr=lr,
            adam_lr=plan.adam_lr * lr / run.schedule.peak,
            parts=plan.grad_accum,
            stop=self.stop,
        )
        if outcome is not None:
            run.step += 1
        return outcome

    def _evaluations(self, *, sampling: bool = False) -> Iterator[Report]:
        """Scores the validation part and, if requested, the attention heads; if `sampling`, also generates a sample."""
        yield evaluate_run(self.run, self.task, self.plan, self.clock.spent)
        if self.head_scorer is not None:
            yield score_heads(self.run, self.head_scorer, self.clock.spent)
        if sampling and self.sample is not None:
            yield sample_run(self.run, self.sample)

    def _end_early(self) -> Iterator[Report]:
        """Saves a stopped run with its state for resuming."""
        self.saver.save(self.run, "stopped", self.clock.spent())
        yield from map(SaveReport, self.saver.safe())
        yield self._result(self.run.best, finished=False)

    def _finish(self) -> Iterator[Report]:
        """Evaluates the last weights, computes the final score of the best weights, and makes the last save."""
        run, saver = self.run, self.saver
        if not is_evaluated(run):
            yield from self._evaluations()
        score = final_score(run, self.task, self.plan, self.stop)
        if score is None:
            yield from self._end_early()
            return
        run.metrics.append({"kind": "final", "step": run.best_step, **score.figures()})
        result = self._result(score, finished=True)
        saver.save(run, "finished", self.clock.spent(), result)
        yield from map(SaveReport, saver.safe())
        yield replace(result, seconds=self.clock.spent())

    def _result(self, best: Score | None, *, finished: bool) -> Result:
        run, tokens = self.run, self.run.step * self.plan.tokens_per_step
        steps, seconds = run.schedule.steps, self.clock.spent()
        return Result(finished, run.step, steps, run.best_step, best, run.train_loss, tokens, seconds)
