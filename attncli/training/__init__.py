"""Training: plans a run, trains and saves a model, and judges the result. Yields reports and prints nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncli.training.job import new_job, run_job
    from attncli.training.loop import train
    from attncli.training.plan import make_plan
    from attncli.training.resume import resume_job
    from attncli.training.summary import summarize

__all__ = ["make_plan", "new_job", "resume_job", "run_job", "summarize", "train"]


_HOMES = {
    "make_plan": "plan",
    "new_job": "job",
    "resume_job": "resume",
    "run_job": "job",
    "summarize": "summary",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    """Imports a function of this package, and with it PyTorch, when the function is first used."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
