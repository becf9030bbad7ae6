"""Measures the time of a run, and computes how many steps fit into the remaining time."""

from __future__ import annotations

import time

from attncli.training import recipe
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule


class RunClock:
    """Counts the seconds of a run, and revises the schedule of a timed run from the measured time of its steps."""

    def __init__(self, plan: Plan, started: float | None = None, seconds_before: float = 0.0) -> None:
        """`started` is the time.monotonic() at which the run began or was resumed, by default now.

        `seconds_before` is the time that a resumed run had spent before it was resumed.
        """
        self._plan = plan
        self._started = time.monotonic() if started is None else started
        self._before = seconds_before
        self._first: tuple[float, int] | None = None  # the seconds and the step of the first revision

    def spent(self) -> float:
        """Returns the seconds that the run has spent, including the time before it was resumed."""
        return self._before + time.monotonic() - self._started

    def revise(self, schedule: Schedule, step: int) -> Schedule:
        """Returns the schedule, with another number of steps if a timed run would end too early or too late."""
        deadline = self._plan.seconds
        if deadline is None:
            return schedule
        now = self.spent()
        if self._first is None:
            self._first = (now, step)
            return schedule
        if step == schedule.steps:
            return schedule  # the learning rate has decayed to zero
        seconds, first = self._first
        per_step = (now - seconds) / (step - first)  # includes evaluations and saves
        left = deadline - now - self._plan.closing_seconds
        steps = max(int(left / per_step), 0)
        if self._plan.most_steps is not None:
            steps = min(steps, self._plan.most_steps - step)
        expected = schedule.steps - step
        tolerated = abs(steps - expected) <= recipe.TOLERATED_CHANGE * expected
        return schedule if tolerated else schedule.revised(step, step + steps)
