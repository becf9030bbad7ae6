"""The training loop: steps, evaluations and saves, until the steps or the time are used up.

Owns the order of things; what a run is and its saves are next door, in `saver`. Yields reports, prints nothing. Every
step is a pure function of the seed and the step, so a resumed run on the CPU ends with the weights of an uninterrupted
one, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attncli.checkpoint import directory
from attncli.checkpoint.store import Borders, Checkpoint
from attncli.errors import BadCheckpoint, Diverged
from attncli.evaluation.evaluate import evaluate
from attncli.evaluation.score import Score
from attncli.model.device import DTYPES, dtype_name
from attncli.model.transformer import Transformer, initialize
from attncli.records import record_from_json
from attncli.text.corpus import Corpus, batch
from attncli.training import recipe
from attncli.training.budget import evaluation_windows
from attncli.training.head_scores import HeadScorer
from attncli.training.reports import (
    EvalReport,
    HeadsReport,
    Plan,
    Report,
    Result,
    RunState,
    SampleReport,
    SaveReport,
    StepReport,
)
from attncli.training.samples import Sampler
from attncli.training.saver import OPTIMIZER_PREFIX, WEIGHTS_PREFIX, Run, Saver, weights_of
from attncli.training.schedule import Schedule
from attncli.training.step import Trainee

_OTHER_RUN = "The state is damaged, or of another run. Train again, or copy the directory again from its source."


def train(
    corpus: Corpus,
    plan: Plan,
    target: Path,
    *,
    facts: dict[str, Any],
    initial: dict[str, Tensor] | None = None,
    borders: Borders | None = None,
    resume: Checkpoint | None = None,
    started: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    sample: Sampler | None = None,
    score_heads: HeadScorer | None = None,
) -> Iterator[Report]:
    """Trains a model and keeps it at `target`, which the caller has locked.

    Args:
        corpus: the text.
        plan: what to do; of a resumed run, the plan of its beginning.
        target: the model directory, written at the start, at every evaluation, and at the end; what is there when a
            new run begins is replaced when that has its first score.
        facts: what `run.json` shall say beside the plan and the results (JSON values).
        initial: the weights to begin with, by our names; drawn from the seed when not given.
        borders: what begins and ends a text to the model that gave these weights.
        resume: what `read_resumable` gave; its state is used up, so that its memory is free while the run goes on.
        started: when the clock of the deadline began, by time.monotonic(); now, when not given.
        stop: asked after every step and between the parts of one; true saves and ends the run.
        sample: writes a little text with the model at every evaluation.
        score_heads: scores the model's attention heads at every evaluation.

    Yields:
        A report for every few steps, evaluation, score of the heads, sample and save; last a Result.

    Raises:
        Diverged: when the loss or the gradient is not finite; what was saved before stays.
        OutOfRoom: when a save does not fit.
    """
    clock = _Clock(time.monotonic() if started is None else started, plan)
    run = _begin(plan, initial, resume)
    clock.before = run.seconds_before
    if resume is not None:
        borders = Borders(resume.start_of_text, resume.end_ids)
    with Saver(target, corpus, plan, facts, borders) as saver:
        if resume is None:
            saver.begin(run, clock.spent())
            yield from map(SaveReport, saver.safe())
        meter = _Meter(plan)
        while run.step < run.schedule.steps:
            outcome = _take_step(run, corpus, plan, stop)
            if outcome is not None:
                meter.add(*outcome)
            stopping, last = outcome is None or stop(), run.step == run.schedule.steps
            due = run.step % plan.eval_every == 0 and not last and outcome is not None
            if meter.steps and (run.step % plan.report_every == 0 or due or last or stopping):
                yield meter.report(run, clock.spent())
                run.schedule = clock.revise(run.schedule, run.step)
            if due:
                yield from _evaluations(run, corpus, plan, clock, score_heads)
            if due and sample is not None:
                yield _sample(run, sample)
            if stopping:
                saver.save(run, "stopped", clock.spent())
            elif due or (not meter.steps and clock.spent() - saver.saved_at >= recipe.SAVE_SECONDS):
                saver.save_beside(run, clock.spent())
                meter.restart()
            yield from map(SaveReport, saver.safe())
            if stopping:
                yield _result(run, plan, clock, run.best, finished=False)
                return
        yield from _finish(run, corpus, plan, clock, saver, stop, score_heads)


def _take_step(run: Run, corpus: Corpus, plan: Plan, stop: Callable[[], bool]) -> tuple[Tensor, Tensor] | None:
    """The next step: its loss and the norm of its gradient, or None when it was given up in the middle."""
    rows = torch.from_numpy(
        batch(corpus.train.ids, seed=plan.seed, step=run.step, batch_size=plan.batch_size, context=plan.context)
    )
    if plan.device.startswith("cuda"):
        rows = rows.pin_memory()
    lr = run.schedule.lr(run.step)
    outcome = run.trainee.step(
        rows.to(plan.device, non_blocking=True),
        step=run.step,
        seed=plan.seed,
        lr=lr,
        adam_lr=plan.adam_lr * lr / run.schedule.peak,
        parts=plan.grad_accum,
        stop=stop,
    )
    if outcome is not None:
        run.step += 1
    return outcome


class _Meter:
    """The mean loss and the speed since the last report. Only a report waits for the device."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.restart()

    @property
    def steps(self) -> int:
        """Steps since the last report."""
        return len(self._outcomes)

    def restart(self) -> None:
        """Begins anew: what came before, or took time beside the steps, does not count."""
        self._outcomes: list[Tensor] = []
        self._began = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Takes the loss and the norm of the gradient of one step."""
        self._outcomes.append(torch.stack((loss, norm.to(loss.dtype))))

    def report(self, run: Run, seconds: float) -> StepReport:
        """The steps since the last report, of which there is at least one, on the run's record too. Raises Diverged."""
        outcomes = torch.stack(self._outcomes).cpu()
        finite = outcomes.isfinite().all(1)
        if not finite.all():
            at = int(finite.logical_not().nonzero()[0])
            raise Diverged(
                f"Training diverged at step {run.step - len(outcomes) + at + 1}: "
                f"loss {outcomes[at, 0]:.4g}, gradient norm {outcomes[at, 1]:.4g}.",
                "What was saved before stays. Try a smaller --lr.",
            )
        rate = len(outcomes) * self._plan.tokens_per_step / (time.monotonic() - self._began)
        self.restart()
        lr = run.schedule.lr(run.step - 1)
        run.train_loss = float(outcomes[:, 0].mean())
        made = StepReport(run.step, run.schedule.steps, run.train_loss, lr, rate, seconds)
        run.metrics.append({"kind": "step", **asdict(made)})
        return made


def _begin(plan: Plan, initial: dict[str, Tensor] | None, resume: Checkpoint | None) -> Run:
    """A new run, or the one that a state describes."""
    if plan.threads < torch.get_num_threads():
        torch.set_num_threads(plan.threads)
    model = Transformer(plan.model, plan.dropout)
    model.checkpoint_activations = plan.checkpoint_activations
    tensors = {}
    if resume is not None:
        assert resume.state is not None
        tensors = resume.state.tensors
        expected = {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
        _refuse_misfits(expected, {name: t for name, t in tensors.items() if name.startswith(WEIGHTS_PREFIX)})
        initial = {name: tensors.pop(f"{WEIGHTS_PREFIX}{name}") for name in model.state_dict()}
    if initial is None:
        initialize(model, torch.Generator().manual_seed(plan.seed))
    else:
        model.load_state_dict(initial)
    model.to(plan.device).train()
    dtype = DTYPES[plan.dtype]
    trainee = Trainee(model, plan.optimizer, plan.weight_decay, dtype, compiled=plan.compiled, context=plan.context)
    if resume is None:
        return Run(trainee, plan.schedule)
    assert resume.state is not None
    facts = record_from_json(RunState, resume.state.facts, directory.STATE_FACTS)
    optimizer = {f"{OPTIMIZER_PREFIX}{name}": tensor for name, tensor in trainee.optimizer.tensors().items()}
    _refuse_misfits(optimizer, tensors)
    trainee.optimizer.load({name.removeprefix(OPTIMIZER_PREFIX): tensor for name, tensor in tensors.items()})
    tensors.clear()
    return Run(
        trainee,
        replace(plan.schedule, marks=facts.schedule),
        step=facts.step,
        best_step=facts.best_step,
        best=facts.best,
        best_weights=resume.weights if facts.best else {},
        metrics=list(resume.metrics),
        train_loss=facts.train_loss,
        seconds_before=facts.seconds,
    )


def _refuse_misfits(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Holds the tensors of a state to those of the run it is to continue. Raises BadCheckpoint."""
    for name in sorted(expected.keys() ^ found.keys()):
        does = "lacks" if name in expected else "holds"
        raise BadCheckpoint(f"{directory.STATE_TENSORS} {does} {ascii(name)[:80]}.", _OTHER_RUN)
    for name, tensor in expected.items():
        kinds = [f"{dtype_name(one.dtype)} {list(one.shape)}" for one in (found[name], tensor)]
        if kinds[0] != kinds[1]:
            raise BadCheckpoint(f"{directory.STATE_TENSORS}: {name} is {kinds[0]}, not {kinds[1]}.", _OTHER_RUN)
        if not bool(found[name].isfinite().all()) or (tensor.ndim == 0 and int(found[name]) < 0):
            raise BadCheckpoint(f"{directory.STATE_TENSORS}: {name} holds a value that cannot be.", _OTHER_RUN)


def _evaluations(
    run: Run, corpus: Corpus, plan: Plan, clock: _Clock, score_heads: HeadScorer | None
) -> Iterator[Report]:
    """The score on the validation part, and what the heads do where they are watched: both of them, or neither."""
    yield _evaluate(run, corpus, plan, clock)
    if score_heads is not None:
        yield _score_heads(run, score_heads, clock)


def _evaluate(run: Run, corpus: Corpus, plan: Plan, clock: _Clock) -> EvalReport:
    """Scores an even sample of the validation part, and keeps the weights when they are the best so far."""
    score = evaluate(run.trainee.working, corpus.val, windows=evaluation_windows(plan), context=plan.context)
    if not math.isfinite(score.nats):
        raise Diverged(
            f"Training diverged at step {run.step}: the validation loss is {score.per_token:.4g}.",
            "What was saved before stays. Try a smaller --lr.",
        )
    best = run.best is None or score.per_token < run.best.per_token
    if best:
        run.best, run.best_step, run.best_weights = score, run.step, weights_of(run.model)
    report = EvalReport(run.step, score, best, clock.spent())
    run.metrics.append({"kind": "eval", "step": run.step, "best": best, "seconds": report.seconds, **score.figures()})
    return report


def _sample(run: Run, sample: Sampler) -> SampleReport:
    """What the model writes now. The random numbers of the steps do not notice."""
    run.model.eval()
    text, prompt_characters = sample(run.model)
    run.model.train()
    return SampleReport(run.step, text, prompt_characters)


def _score_heads(run: Run, score_heads: HeadScorer, clock: _Clock) -> HeadsReport:
    """What the heads do now, on the run's record too. The random numbers of the steps do not notice."""
    run.model.eval()
    best, scores = score_heads(run.model)
    run.model.train()
    report = HeadsReport(run.step, best, scores, clock.spent())
    named = {one.kind: {name: value for name, value in asdict(one).items() if name != "kind"} for one in best}
    line = {"kind": "heads", "step": run.step, "seconds": report.seconds, "best": named, "scores": scores}
    run.metrics.append(line)
    return report


def _finish(
    run: Run,
    corpus: Corpus,
    plan: Plan,
    clock: _Clock,
    saver: Saver,
    stop: Callable[[], bool],
    score_heads: HeadScorer | None,
) -> Iterator[Report]:
    """The last evaluation, the score of the best weights on all of the validation part, and the last save."""
    if not any(line["kind"] == "eval" and line["step"] == run.step for line in run.metrics):  # else stopped after it
        yield from _evaluations(run, corpus, plan, clock, score_heads)
    assert run.best is not None
    whole: Score | None = run.best
    same = plan.dtype == plan.save_dtype == "float32" and plan.context == plan.model.context
    if not same or run.best_step != run.step or run.best.scored < len(corpus.val) - 1:
        whole = _score_of_best(run, corpus, plan, stop)
    if whole is None:
        saver.save(run, "stopped", clock.spent())
        yield from map(SaveReport, saver.safe())
        yield _result(run, plan, clock, run.best, finished=False)
        return
    run.metrics.append({"kind": "final", "step": run.best_step, **whole.figures()})
    result = _result(run, plan, clock, whole, finished=True)
    saver.save(run, "finished", clock.spent(), result)
    yield from map(SaveReport, saver.safe())
    yield replace(result, seconds=clock.spent())


def _score_of_best(run: Run, corpus: Corpus, plan: Plan, stop: Callable[[], bool]) -> Score | None:
    """The best weights, as they will be saved, scored in float32; None when stopped, with the run as it was."""
    last, kept = weights_of(run.model), run.best_weights
    run.best_weights = {name: tensor.to(DTYPES[plan.save_dtype]) for name, tensor in kept.items()}
    run.model.load_state_dict(run.best_weights)

    def heed(_scored: int) -> None:
        if stop():
            raise _Stopped

    try:
        return evaluate(run.model, corpus.val, windows=plan.closing_windows, progress=heed)
    except _Stopped:
        run.model.load_state_dict(last)
        run.best_weights = kept
        return None


class _Stopped(Exception):
    """In the middle of an evaluation."""


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
        left = deadline - now - self._plan.closing_seconds
        if step == schedule.steps:
            return schedule  # the rate has come down to nothing
        steps = max(int(left / per_step), 0)
        if self._plan.most_steps is not None:
            steps = min(steps, self._plan.most_steps - step)
        expected = schedule.steps - step
        tolerated = abs(steps - expected) <= recipe.TOLERATED_CHANGE * expected
        return schedule if tolerated else schedule.revised(step, step + steps)
