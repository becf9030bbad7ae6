"""A training run on the screen: the plan, the progress, the summary.

On a terminal a live bar; elsewhere plain lines. Everything but the summary goes to standard error.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from attncli.render.escape import one_line, visible
from attncli.render.numbers import count, duration, size
from attncli.training.reports import EvalReport, Plan, Report, Result, Score, StepReport


def plan_table(plan: Plan, name: str, corpus: str, resumed: int | None = None) -> RenderableType:
    """What will happen, and why: printed before the first step, or when a run is resumed at one."""
    model, reasons = plan.model, plan.reasons
    length = f"{plan.schedule.steps:,} steps of {plan.tokens_per_step:,} tokens"
    if plan.seconds is not None:
        length = f"{duration(plan.seconds)}: about {length}"
    rows = [
        ("text", one_line(corpus), ""),
        (
            "model",
            f"{count(plan.parameters)} parameters: {model.layers} layers x {model.heads} heads, width {model.width}",
            "size",
        ),
        ("tokens", f"vocabulary {model.vocab_size:,}, context {model.context}", "context"),
        ("training", f"{length}, {plan.epochs:.1f} epochs", "steps"),
        (
            "recipe",
            f"AdamW, learning rate {plan.schedule.peak:.2g}, dropout {plan.dropout:g}, seed {plan.seed}",
            "dropout",
        ),
        (
            "machine",
            f"{plan.device}, {plan.dtype}, about {plan.step_seconds * 1e3:.0f} ms a step, {size(plan.memory_bytes)}",
            "",
        ),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text, key in rows:
        shown = Text(text)
        if key in reasons:
            shown.append(f"  ({reasons[key]})", style="dim")
        table.add_row(label, shown)
    goes_on = "" if resumed is None else f", going on at step {resumed:,}"
    return Group(Text(f"Training {one_line(name)}{goes_on}", style="bold"), table)


class TrainingScreen:
    """Draws reports as they come. A context manager; `update` takes each report."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._last: StepReport | None = None
        self._score: Score | None = None
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._progress = Progress(
            *_columns(console.width), console=console, disable=not self._live, refresh_per_second=4
        )
        self._task = self._progress.add_task("", total=None, rate="", nats="", bits="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.update(self._task, left="")
        self._progress.stop()

    def update(self, report: Report) -> None:
        """Shows one report."""
        if isinstance(report, StepReport):
            self._last = report
            self._progress.update(
                self._task,
                total=report.steps,
                completed=report.step,
                rate=f"{count(report.tokens_per_second)} tok/s",
                left=f"{duration(self._seconds_left(report))} left",
            )
        elif isinstance(report, EvalReport):
            self._score = report.score
            if not self._live:
                self._console.print(Text(self._line(report)), soft_wrap=True)
        nats, bits = self._losses()
        self._progress.update(self._task, nats=nats, bits=bits)

    def _losses(self) -> tuple[str, str]:
        """The losses so far: 'train 3.193 val 3.385', and 'nats/token (1.887 2.164 bits/byte)'."""
        nats, bits = [], []
        if self._last is not None:
            nats.append(f"train {self._last.loss:.3f}")
            bits.append(f"{self._plan.bits_per_byte(self._last.loss):.3f}")
        if self._score is not None:
            nats.append(f"val {self._score.per_token:.3f}")
            bits.append(f"{self._score.bits_per_byte:.3f}")
        return " ".join(nats), f"nats/token ({' '.join(bits)} bits/byte)" if bits else ""

    def _seconds_left(self, report: StepReport) -> float:
        if self._plan.seconds is not None:
            return max(self._plan.seconds - report.seconds, 0.0)
        return (report.steps - report.step) * self._plan.tokens_per_step / report.tokens_per_second

    def _line(self, report: EvalReport) -> str:
        step, score = self._last, report.score
        steps = step.steps if step is not None else self._plan.schedule.steps
        parts = [f"step {report.step}/{steps}", duration(report.seconds)]
        if step is not None:
            parts.append(f"train {step.loss:.3f} ({self._plan.bits_per_byte(step.loss):.3f})")
        parts.append(f"val {score.per_token:.3f} nats/token ({score.bits_per_byte:.3f} bits/byte)")
        if step is not None:
            parts.append(f"{count(step.tokens_per_second)} tok/s")
        return "  ".join([*parts, *(["best"] if report.best else [])])


class _Steps(ProgressColumn):
    """'120/1830', or nothing before the first report."""

    def render(self, task: Task) -> Text:
        """The cell."""
        return Text(f"{int(task.completed)}/{int(task.total)}" if task.total else "", style="dim")


def _columns(width: int) -> list[ProgressColumn]:
    """As much as fits."""
    nats, left = TextColumn("{task.fields[nats]}", style="bold"), TextColumn("{task.fields[left]}")
    bits, rate = TextColumn("{task.fields[bits]}"), TextColumn("{task.fields[rate]}", style="dim")
    if width < 60:
        return [nats, left]
    if width < 80:
        return [BarColumn(8), _Steps(), nats, left]
    if width < 100:
        return [BarColumn(8), nats, bits, left]
    return [BarColumn(14), _Steps(), nats, bits, rate, left]


def score_text(score: Score) -> str:
    """The four figures of a score."""
    return (
        f"{score.per_token:.3f} nats per token (perplexity {score.perplexity:.1f}) · "
        f"{score.bits_per_byte:.3f} bits per byte · {score.per_character:.3f} nats per character"
    )


def summary(result: Result, plan: Plan, path: str, sample: str) -> RenderableType:
    """What came out: the score, where it is, what it writes."""
    assert result.best is not None
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("validation", Text(score_text(result.best)))
    best = "" if result.best_step == result.step else f"; the best weights are those of step {result.best_step:,}"
    trained = f"{result.step:,} steps, {count(result.tokens)} tokens, {result.tokens / plan.train_tokens:.1f} epochs"
    table.add_row("training", Text(f"{trained} in {duration(result.seconds)}{best}"))
    table.add_row("saved", Text(one_line(path)))
    return Group(table, Text(), Text("A sample", style="bold"), Text(visible(sample).strip("\n")), Text())


def result_document(result: Result, path: str, sample: str) -> dict[str, Any]:
    """The summary for programs."""
    assert result.best is not None
    return {
        "path": path,
        "finished": result.finished,
        "steps": result.step,
        "best_step": result.best_step,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "train_nats_per_token": result.train_loss,
        "validation": {
            "nats_per_token": result.best.per_token,
            "nats_per_character": result.best.per_character,
            "bits_per_byte": result.best.bits_per_byte,
            "perplexity": result.best.perplexity,
        },
        "sample": sample,
    }
