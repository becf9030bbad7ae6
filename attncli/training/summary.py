"""Summarizes a finished run: loads its model, and calls the summary of its task."""

from __future__ import annotations

from pathlib import Path

import torch

from attncli.checkpoint.load import load_model
from attncli.errors import Naming
from attncli.training.curves import read_metrics
from attncli.training.job import Job
from attncli.training.reports import Result, RunSummary


def summarize(job: Job, target: Path, result: Result, naming: Naming = str) -> RunSummary:
    """Returns the summary of a finished run: loads its model from `target`, and judges the run.

    `naming` returns the name of a setting as the user writes it: lr -> --lr.
    """
    assert result.best is not None
    model, adapter = (target, None) if job.adaptation is None else (job.adaptation.base, target)
    loaded = load_model(model, torch.device(job.plan.device), torch.float32, adapter)
    return job.task.summarize(loaded, result, job.plan, read_metrics(target), naming)
