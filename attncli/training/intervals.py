"""Decides when a run evaluates, reports and saves. Pure functions of steps and seconds; no torch, no clock.

After each step, the loop calls these functions to decide what to do. A run saves a checkpoint when it begins, after
every evaluation, when it is stopped, and at its end. It also saves at a report if the last save is at least
`recipe.SAVE_SECONDS` old.
"""

from __future__ import annotations

from attncli.training import recipe
from attncli.training.reports import Plan


def evaluation_is_due(step: int, steps: int, plan: Plan) -> bool:
    """Whether to evaluate the model after this step. False for the last step, since the final evaluation follows it."""
    return step % plan.eval_every == 0 and step != steps


def report_is_due(step: int, steps: int, plan: Plan, *, evaluating: bool, stopping: bool) -> bool:
    """Whether to report the training loss after this step: every few steps, before an evaluation, and at the end."""
    return step % plan.report_every == 0 or step == steps or evaluating or stopping


def save_is_due(*, evaluated: bool, reported: bool, seconds_since_save: float) -> bool:
    """Whether to save a checkpoint after this step, if the run continues."""
    return evaluated or (reported and seconds_since_save >= recipe.SAVE_SECONDS)
