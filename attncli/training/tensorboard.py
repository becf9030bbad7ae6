"""Writes the reports of a run as event files for TensorBoard, an optional dependency.

The files are beside the model directory, because each save replaces that directory.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attncli.errors import OutOfRoom, UsageProblem
from attncli.evaluation.score import Score
from attncli.training.reports import (
    EvalReport,
    HeadsReport,
    Plan,
    Report,
    Result,
    SampleReport,
    StepReport,
    TranslationsReport,
)

_PATTERN = "events.out.tfevents.*"
_FLUSH_SECONDS = 10  # a killed process loses the events of at most this time


def events_folder(target: Path) -> Path:
    """Returns the folder of a run's event files: checkpoints/NAME -> checkpoints/NAME.tensorboard."""
    return target.with_name(f"{target.name}.tensorboard")


class TensorBoardLog:
    """Writes the event files of a run. A context manager; `update` writes one report."""

    def __init__(self, target: Path, plan: Plan, resumed: int | None = None) -> None:
        """Opens the event files of a run, and removes the files of an earlier run in the same folder.

        Args:
            target: the model directory.
            plan: the plan of the run.
            resumed: the step at which a resumed run continues; events of later steps are discarded.

        Raises:
            UsageProblem: if the package tensorboard is not installed.
            OutOfRoom: if the folder cannot be written.
        """
        writer = _writer_class()
        self._plan = plan
        self.folder = events_folder(target)
        try:
            if resumed is None and self.folder.is_dir():
                for file in self.folder.glob(_PATTERN):
                    file.unlink()
            self.folder.mkdir(parents=True, exist_ok=True)
            purge = None if resumed is None else resumed + 1
            self._writer = writer(str(self.folder), purge_step=purge, flush_secs=_FLUSH_SECONDS)
        except OSError as problem:
            message = f"{self.folder} cannot be written: {problem.strerror}."
            raise OutOfRoom.naming(lambda named: (message, f"Choose another {named('out')}.")) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def update(self, report: Report) -> None:
        """Writes one report."""
        if isinstance(report, StepReport):
            self._write("train/nats_per_token", report.loss, report.step)
            self._write("train/bits_per_byte", self._plan.bits_per_byte(report.loss), report.step)
            self._write("train/learning_rate", report.lr, report.step)
            self._write("train/tokens_per_second", report.tokens_per_second, report.step)
        elif isinstance(report, EvalReport):
            self._score("validation", report.score, report.step)
        elif isinstance(report, HeadsReport):
            for best in report.best:
                self._write(f"heads/{best.kind}", best.score, report.step)
        elif isinstance(report, SampleReport):
            self._writer.add_text("sample", _verbatim(report.text), report.step)
        elif isinstance(report, TranslationsReport):
            lines = (f"{one.source} → {one.output}" for one in report.examples)
            self._writer.add_text("translations", _verbatim("\n".join(lines)), report.step)
        elif isinstance(report, Result) and report.finished and report.best is not None:
            self._score("final", report.best, report.step)

    def _score(self, part: str, score: Score, step: int) -> None:
        self._write(f"{part}/nats_per_token", score.per_token, step)
        self._write(f"{part}/bits_per_byte", score.bits_per_byte, step)

    def _write(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)


def _verbatim(text: str) -> str:
    """Returns a text as a Markdown code block, so that TensorBoard shows it unchanged."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('tensorboard')} needs the package tensorboard, which is not installed.",
                "Install it: pip install 'attncli[tensorboard]'",
            )
        ) from None
    return SummaryWriter
