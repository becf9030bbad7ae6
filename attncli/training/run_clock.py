"""The time that a run has spent, and the number of steps that the time left allows."""

from __future__ import annotations

import time

from attncli.training import recipe
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule


class RunClock:
    """Counts the seconds of a run, and revises the schedule of a timed one by how long its steps take."""

    def __init__(self, plan: Plan, started: float | None = None, seconds_before: float = 0.0) -> None:
        """`started` is when the run began, by time.monotonic(), now by default; a resumed one had `seconds_before`."""
        self._plan = plan
        self._started = time.monotonic() if started is None else started
        self._before = seconds_before
        self._first: tuple[float, int] | None = None  # when the first revision was made, and at which step

    def spent(self) -> float:
        """Seconds since the run began, the earlier parts of a resumed run included."""
        return self._before + time.monotonic() - self._started

    def revise(self, schedule: Schedule, step: int) -> Schedule:
        """The schedule with its end moved to the deadline, when there is one and the estimate was off by enough."""
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
        per_step = (now - seconds) / (step - first)  # evaluations and saves included
        left = deadline - now - self._plan.closing_seconds
        steps = max(int(left / per_step), 0)
        if self._plan.most_steps is not None:
            steps = min(steps, self._plan.most_steps - step)
        expected = schedule.steps - step
        tolerated = abs(steps - expected) <= recipe.TOLERATED_CHANGE * expected
        return schedule if tolerated else schedule.revised(step, step + steps)
