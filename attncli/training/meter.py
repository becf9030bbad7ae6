"""Measures the mean loss of the steps since the last report, and their speed in tokens per second."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch
from torch import Tensor

from attncli.training.reports import Plan, StepReport
from attncli.training.run import Run, diverged


class Meter:
    """Collects the losses and gradient norms of steps. Only `report` waits for the device to compute them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.restart()

    @property
    def steps(self) -> int:
        """The number of steps since the last report."""
        return len(self._outcomes)

    def restart(self) -> None:
        """Discards the collected losses and restarts the clock, to leave out the time of evaluations and saves."""
        self._outcomes: list[Tensor] = []
        self._began = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Adds the loss and the gradient norm of one step."""
        self._outcomes.append(torch.stack((loss, norm.to(loss.dtype))))

    def report(self, run: Run, seconds: float) -> StepReport:
        """Returns the report of the collected steps, at least one, and adds the report to the run's metrics.

        Raises Diverged if a loss or a gradient is not finite.
        """
        outcomes = torch.stack(self._outcomes).cpu()
        finite = outcomes.isfinite().all(1)
        if not finite.all():
            at = int(finite.logical_not().nonzero()[0])
            loss, norm = outcomes[at].tolist()
            raise diverged(run.step - len(outcomes) + at + 1, f"loss {loss:.4g}, gradient norm {norm:.4g}")
        rate = len(outcomes) * self._plan.tokens_per_step / (time.monotonic() - self._began)
        self.restart()
        lr = run.schedule.lr(run.step - 1)
        run.train_loss = float(outcomes[:, 0].mean())
        made = StepReport(run.step, run.schedule.steps, run.train_loss, lr, rate, seconds)
        run.metrics.append({"kind": "step", **asdict(made)})
        return made
