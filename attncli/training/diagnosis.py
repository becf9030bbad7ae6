"""Writes the diagnosis of a run: one to three sentences with figures that say what happened and what to try next.

The diagnosis is a pure function of the loss curves and a few facts about the run. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attncli.errors import Naming
from attncli.training.reports import Plan, Result

Point = tuple[int, float]  # a step, and nats per token

_SENTENCES = 3
_NOTICEABLE = 0.01  # a smaller relative change of a validation loss is noise
_HARDLY_FELL = 0.05  # a loss hardly fell if it fell by less than this share of the first loss
_NEAR_GUESSING = 0.8  # a loss is near guessing if it is above this share of the loss of a uniform guess
_GAP = 0.15  # a gap between training and validation loss is reported if it is a larger share of the validation loss
_LATE = 0.75  # a loss was still falling at the end if it fell after this share of the steps
_LITTLE_TEXT = 50_000  # a text with fewer tokens is called small
_DROPOUTS = (0.1, 0.2, 0.3)
_SMOOTHED_REPORTS = (
    20  # reports whose losses are averaged in a run on pairs: the loss of a batch depends on the length of its pairs
)


@dataclass(frozen=True, kw_only=True)
class Course:
    """The facts about a run from which the diagnosis is written. Losses are in nats per token; steps ascend."""

    train: tuple[Point, ...]
    val: tuple[Point, ...]
    vocab_size: int
    dropout: float
    epochs: float  # how many times the run saw the training part
    train_tokens: int
    timed: bool  # whether the length of the run was given as a time
    capped: bool = False  # whether a timed run ended early, because it reached the largest number of epochs
    pairs: bool = False  # whether the run trained on pairs of sentences

    @property
    def material(self) -> str:
        """The kind of corpus that the run trained on, in a word: 'text' or 'pairs'."""
        return "pairs" if self.pairs else "text"


def curves(metrics: Iterable[Mapping[str, Any]]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Returns the training curve and the validation curve from the lines of metrics.jsonl."""
    lines = list(metrics)
    train = tuple((line["step"], line["loss"]) for line in lines if line.get("kind") == "step")
    val = tuple((line["step"], line["nats_per_token"]) for line in lines if line.get("kind") == "eval")
    return train, val


def smoothed(points: Sequence[Point], count: int) -> tuple[Point, ...]:
    """Returns a curve with the mean of the last `count` losses at every point; the first points have fewer losses."""
    losses = [loss for _, loss in points]
    return tuple(
        (step, sum(losses[max(end - count, 0) : end]) / min(end, count)) for end, (step, _) in enumerate(points, 1)
    )


def course_of(result: Result, plan: Plan, metrics: Iterable[Mapping[str, Any]]) -> Course:
    """Returns the facts about a finished run. `metrics` are the lines of its metrics.jsonl."""
    train, val = curves(metrics)
    return Course(
        train=smoothed(train, _SMOOTHED_REPORTS) if plan.translates else train,
        val=val,
        vocab_size=plan.model.vocab_size,
        dropout=plan.dropout,
        epochs=result.tokens / plan.train_tokens,
        train_tokens=plan.train_tokens,
        timed=plan.seconds is not None,
        capped=plan.most_steps is not None and result.step >= plan.most_steps,
        pairs=plan.translates,
    )


def diagnose(course: Course, naming: Naming = str) -> tuple[str, ...]:
    """Returns one to three sentences about a run, the most important first.

    `naming` returns the name of a setting as the user writes it: lr -> --lr.
    """
    main = _learned_nothing(course, naming) or _overfit(course, naming)
    said = [main] if main is not None else [_gap(course, naming), _still_falling(course, naming)]
    said += [_little_text(course)]
    return tuple(sentence for sentence in said if sentence is not None)[:_SENTENCES] or (_level(course, naming),)


def _learned_nothing(course: Course, naming: Naming) -> str | None:
    """Returns a diagnosis if the training loss rose, or if it hardly fell and is near the loss of a uniform guess.

    Otherwise returns None.
    """
    if len(course.train) < 2:
        return None
    first, last, guessing = course.train[0][1], course.train[-1][1], math.log(course.vocab_size)
    if last > (1 + _HARDLY_FELL) * first:
        return f"The training loss rose, from {first:.2f} to {last:.2f} nats per token: try a smaller {naming('lr')}."
    if last < (1 - _HARDLY_FELL) * first or last < _NEAR_GUESSING * guessing:
        return None
    return (
        f"The training loss hardly fell, from {first:.2f} to {last:.2f} nats per token, where guessing has "
        f"{guessing:.2f}: give it {_more(course, naming)}, or try another {naming('lr')}."
    )


def _overfit(course: Course, naming: Naming) -> str | None:
    """Returns a diagnosis if the validation loss rose after its best step, also as it is printed; otherwise None."""
    if len(course.val) < 2:
        return None
    (step, best), (_, last) = min(course.val, key=lambda point: point[1]), course.val[-1]
    if last <= (1 + _NOTICEABLE) * best or f"{last:.2f}" == f"{best:.2f}":
        return None
    rose = f"Validation rose since step {step:,}, from {best:.2f} to {last:.2f} nats per token"
    kept = f"the weights of step {step:,} were kept"
    then = _at(course.train, step)
    now = course.train[-1][1] if course.train else None
    if then is None or now is None:
        return f"{rose}; {kept}."
    if now > then:
        return f"{rose}, and so did the training loss; {kept}. A smaller {naming('lr')} may help."
    course_of_it = f"fell from {then:.2f} to {now:.2f}" if now < then else "did not change"
    return f"{rose}, while the training loss {course_of_it}; {kept}. {_against_copying(course, naming)}"


def _gap(course: Course, naming: Naming) -> str | None:
    """Returns a diagnosis if the training loss ended far below the validation loss; otherwise None."""
    if not course.train or not course.val:
        return None
    train, val = course.train[-1][1], course.val[-1][1]
    if train > (1 - _GAP) * val:
        return None
    far = f"The training loss, {train:.2f}, ended far below the validation loss, {val:.2f} nats per token"
    if course.epochs <= 1:  # nothing was seen twice
        if course.pairs:
            return (
                f"{far}, though hardly any pairs were seen twice: the validation pairs are unlike the training pairs."
            )
        return f"{far}, though hardly any text was seen twice: the validation text is unlike the training text."
    return f"{far}, after {course.epochs:.1f} passes over the {course.material}. {_against_copying(course, naming)}"


def _still_falling(course: Course, naming: Naming) -> str | None:
    """Returns a diagnosis if the validation loss was still falling at the end; otherwise None."""
    if len(course.val) < 2 or course.capped:
        return None
    (step, before), (_, last) = _earlier(course.val), course.val[-1]
    if last >= (1 - _NOTICEABLE) * before:
        return None
    when = "when the time ran out" if course.timed else "when the run ended"
    fell = f"from {before:.2f} at step {step:,} to {last:.2f} nats per token"
    return f"Validation was still falling {when}, {fell}: {_more(course, naming)} should lower it further."


def _little_text(course: Course) -> str | None:
    if course.train_tokens >= _LITTLE_TEXT:
        return None
    if course.pairs:
        return f"The pairs are few, {course.train_tokens:,} target tokens to train on: more pairs would help most."
    return f"The text is small, {course.train_tokens:,} tokens to train on: more text would help most."


def _level(course: Course, naming: Naming) -> str:
    """Returns the diagnosis that the validation loss leveled off, for a run with no other diagnosis."""
    if not course.val:
        return f"The validation part was not scored: give it {_more(course, naming)}."
    last = course.val[-1][1]
    if len(course.val) == 1:
        step = course.val[0][0]
        return f"Validation was scored once, {last:.2f} nats per token at step {step:,}: too little to see a trend."
    return (
        f"Validation leveled off at {last:.2f} nats per token, within {_NOTICEABLE:.0%} of the loss at step "
        f"{_earlier(course.val)[0]:,}: more {course.material} or a larger {naming('size')} may lower it."
    )


def _earlier(val: Sequence[Point]) -> Point:
    """Returns the last point in the first three quarters of the steps, or the first point if all points are later."""
    return next((point for point in reversed(val) if point[0] <= _LATE * val[-1][0]), val[0])


def _at(train: Sequence[Point], step: int) -> float | None:
    """Returns the training loss of the last report at or before a step; None if there is none."""
    return next((loss for at, loss in reversed(train) if at <= step), None)


def _against_copying(course: Course, naming: Naming) -> str:
    dropout = next((value for value in _DROPOUTS if value > course.dropout), None)
    change = f"a smaller {naming('size')}" if dropout is None else f"{naming('dropout')} {dropout:g}"
    return f"More {course.material} or {change} should help."


def _more(course: Course, naming: Naming) -> str:
    return f"more {naming('seconds')}" if course.timed else "a longer run"
