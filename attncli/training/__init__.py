"""Training: the plan, the schedule, the optimizer, the loop. `train` yields reports and draws nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncli.training.loop import train
    from attncli.training.plan import make_plan

__all__ = ["make_plan", "train"]


def __getattr__(name: str) -> Any:
    """Imports torch only when the trainer itself is asked for; the reports next door need none."""
    if name == "train":
        from attncli.training.loop import train

        return train
    if name == "make_plan":
        from attncli.training.plan import make_plan

        return make_plan
    raise AttributeError(name)
