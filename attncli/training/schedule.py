"""The learning rate of every step, and how far along training is: a pure function of the step.

No torch, no clock. When a run has a deadline, the number of steps is an estimate that is revised as the run measures
itself; each revision is recorded in the schedule, so that a resumed run computes the same rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attncli.config import require


def require_marks(marks: tuple[tuple[int, int], ...]) -> None:
    """Raises UsageProblem unless the marks of a schedule begin at step 0, go up, and never end before they begin."""
    firsts = [step for step, _ in marks]
    ordered = firsts[:1] == [0] and firsts == sorted(firsts) and all(step <= steps for step, steps in marks)
    require(ordered, "marks of the schedule", marks, "steps that go up from 0, each with a number of steps in all")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then linear decay that would reach zero one step after the last.

    `marks` holds (step, steps in all as expected from that step on); the first is (0, the plan's estimate).
    """

    peak: float
    warmup: int  # steps
    marks: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        require(self.peak > 0, "peak", self.peak, "above 0")
        require(self.warmup >= 1, "warmup", self.warmup, "at least 1")
        require_marks(self.marks)

    @property
    def steps(self) -> int:
        """Steps in all, as expected now."""
        return self.marks[-1][1]

    def progress(self, step: int) -> float:
        """How far along a step is, 0 to 1: continuous, also where the number of steps was revised."""
        done = 0.0
        ends = [*(start for start, _ in self.marks[1:]), step]
        for (start, total), end in zip(self.marks, ends, strict=True):
            covered = min(step, end) - start
            if covered > 0:
                done += (1 - done) * min(covered / max(total - start, 1), 1.0)
        return done

    def lr(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.peak * min(1.0, (step + 1) / self.warmup) * (1 - self.progress(step))

    def revised(self, step: int, steps: int) -> Schedule:
        """The same schedule with a new estimate of the number of steps, from `step` on."""
        return replace(self, marks=(*self.marks, (step, max(steps, step))))
