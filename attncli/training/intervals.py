"""When a run evaluates, reports and saves. No torch, no clock: pure functions of steps and seconds.

A checkpoint is saved when a run begins, after every evaluation, at a report when the last save is `SAVE_SECONDS` old
(`recipe`), when the run is stopped, and at its end. The loop asks here what is due after each step.
"""

from __future__ import annotations

from attncli.training import recipe
from attncli.training.reports import Plan


def evaluation_is_due(step: int, steps: int, plan: Plan) -> bool:
    """Whether the model is evaluated after this step; the evaluation after the last step is the final one."""
    return step % plan.eval_every == 0 and step != steps


def report_is_due(step: int, steps: int, plan: Plan, *, evaluating: bool, stopping: bool) -> bool:
    """Whether the training loss is reported after this step: every few steps, and before an evaluation or the end."""
    return step % plan.report_every == 0 or step == steps or evaluating or stopping


def save_is_due(*, evaluated: bool, reported: bool, seconds_since_save: float) -> bool:
    """Whether a run that goes on saves a checkpoint after this step."""
    return evaluated or (reported and seconds_since_save >= recipe.SAVE_SECONDS)
