"""Computes the learning rate of every step, as a pure function of the step. No torch, no clock.

In a timed run, the number of steps is an estimate, which is revised as the run measures its steps. The schedule records
every revision, so a resumed run computes the same rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attncli.config import require


def require_marks(marks: tuple[tuple[int, int], ...]) -> None:
    """Raises UsageProblem if the marks of a schedule are invalid.

    Each mark has a step, and the total number of steps from this step on. The steps of the marks must ascend from 0,
    and no total may be below the step of its mark.
    """
    firsts = [step for step, _ in marks]
    ordered = firsts[:1] == [0] and firsts == sorted(firsts) and all(step <= steps for step, steps in marks)
    require(ordered, "marks of the schedule", marks, "ascending steps from 0, each with a total number of steps")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then linear decay, which would reach zero one step after the last step.

    Each mark is a total number of steps: (the step from which it applies, the total). The first mark is (0, the total
    of the plan); each later mark is a revision.
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
        """The total number of steps, according to the last revision."""
        return self.marks[-1][1]

    def progress(self, step: int) -> float:
        """Returns the progress of the run at a step, from 0 to 1.

        After a revision, progress is faster or slower, but it does not jump.
        """
        done = 0.0
        ends = [*(start for start, _ in self.marks[1:]), step]
        for (start, total), end in zip(self.marks, ends, strict=True):
            covered = min(step, end) - start
            if covered > 0:
                done += (1 - done) * min(covered / max(total - start, 1), 1.0)
        return done

    def lr(self, step: int) -> float:
        """Returns the learning rate of a step. The first step has the number 0."""
        return self.peak * min(1.0, (step + 1) / self.warmup) * (1 - self.progress(step))

    def revised(self, step: int, steps: int) -> Schedule:
        """Returns a copy of this schedule whose total number of steps changes to `steps` at `step`."""
        return replace(self, marks=(*self.marks, (step, max(steps, step))))
