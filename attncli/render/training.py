"""The screens of a training run: the plan, the progress as plain lines, the summary.

Only the summary goes to standard output. The display that a terminal shows during the run is in `live`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from attncli.evaluation.score import Score
from attncli.render.escape import fit, one_line, visible
from attncli.render.live import LiveDisplay, best_heads
from attncli.render.numbers import count, duration, plural, precise_duration, size
from attncli.render.progress_bar import passing_bar
from attncli.text.progress import Listener, Progress
from attncli.training.curves import RunCurves
from attncli.training.reports import (
    EvalReport,
    HeadsReport,
    Plan,
    Report,
    Result,
    SampleReport,
    StepReport,
    Translation,
    TranslationsReport,
)

_SAMPLE_CELLS = 70  # the most cells of a sample that is printed as one line
_NO_WORDS = "(empty)"  # stands for a translation without text


def plan_table(plan: Plan, name: str, corpus: str, resumed: int | None = None) -> RenderableType:
    """Returns the plan with its reasons; `resumed` is the step at which a resumed run continues."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, facts, *keys in _plan_rows(plan, one_line(corpus)):
        shown = Text(facts)
        if reasons := dict.fromkeys(plan.reasons[key] for key in keys if key in plan.reasons):
            shown.append(f"  ({'; '.join(reasons)})", style="dim")
        table.add_row(label, shown)
    goes_on = "" if resumed is None else f", going on at step {resumed:,}"
    return Group(Text(f"Training {one_line(name)}{goes_on}", style="bold"), table)


def _plan_rows(plan: Plan, corpus: str) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the plan: a label, facts, and the settings whose reasons are shown in the row."""
    model = plan.model
    tokens = plan.schedule.steps * plan.tokens_per_step
    length = f"{plan.schedule.steps:,} steps, {count(tokens)} tokens, {plan.epochs:.1f} epochs"
    if plan.seconds is not None:
        most = "at most " if plan.schedule.steps == plan.most_steps else ""
        length = f"{most}{duration(plan.seconds)}: about {length}"
    else:  # the step was measured uncompiled
        seconds = plan.schedule.steps * plan.step_seconds + plan.closing_seconds
        length = f"{'up to' if plan.compiled else 'about'} {duration(seconds)}: {length}"
    layers = plural(model.layers, "layer")
    if plan.translates:
        layers = f"{model.encoder_layers} + {layers} of encoder and decoder"
    shape = f"{layers} x {plural(model.heads, 'head')}, width {model.width}"
    parts = f", in {plan.grad_accum} parts" if plan.grad_accum > 1 else ""
    recomputed = ", activations computed twice" if plan.checkpoint_activations else ""
    rates = f"AdamW at {plan.adam_lr:.2g}"
    if plan.optimizer == "muon":
        rates = f"Muon at {plan.schedule.peak:.2g} on matrices, {rates} on the rest"
    saved = "" if plan.save_dtype == "float32" else f", saved in {plan.save_dtype}"
    smoothed = f", label smoothing {plan.label_smoothing:g}" if plan.label_smoothing else ""
    kept = f"weight decay {plan.weight_decay:.2g}, dropout {plan.dropout:g}{smoothed}, seed {plan.seed}"
    compiled = ", compiled" if plan.compiled else ""
    yield "pairs" if plan.translates else "text", corpus
    yield "model", f"{count(plan.parameters)} parameters: {shape}", "size"
    if plan.lora is not None and plan.trained_parameters is not None:
        divisor = "sqrt(rank)" if plan.lora.rslora else "rank"
        where = "all matrices of the layers" if plan.lora.targets == "all" else "the matrices of attention"
        scaled = f"rank {plan.lora.rank}, alpha {plan.lora.alpha:g}, scaled by alpha / {divisor}"
        yield "adapters", f"{count(plan.trained_parameters)} parameters are trained: LoRA on {where}, {scaled}"
    yield "tokens", f"vocabulary {model.vocab_size:,}", "vocab_size"
    yield "training", f"{length}, {tokens / plan.parameters:.1f} tokens per parameter", "steps"
    batch = f"{plan.batch_size} windows of {plan.context} tokens"
    if plan.translates:
        batch = f"{plan.batch_size:,} tokens of both sides, padding included, of pairs of at most {plan.context} a side"
    yield "step", f"{batch}{parts}{recomputed}", "context", "grad_accum"
    yield "rates", rates, "lr", "optimizer"
    yield "recipe", kept, "weight_decay", "dropout"
    threads = f", {plural(plan.threads, 'thread')}" if plan.device == "cpu" else ""
    yield "machine", f"{plan.device}, {plan.dtype}{threads}{compiled}{saved}", "dtype", "threads", "compiled"
    yield "needs", f"about {precise_duration(plan.step_seconds)} a step, {size(plan.memory_bytes)} of memory"


class TrainingScreen:
    """Shows the reports of a run: in a live display on a terminal, otherwise as one line per evaluation and sample.

    A context manager; `update` takes each report. `before` are the curves of a resumed run up to its resumption.
    `above` was printed before the display, and is printed again when the screen is cleared because the terminal shrank.
    """

    def __init__(
        self, console: Console, plan: Plan, before: RunCurves | None = None, above: RenderableType | None = None
    ) -> None:
        self._console, self._plan = console, plan
        self._last: StepReport | None = None
        live = console.is_terminal and not console.is_dumb_terminal
        self._display = LiveDisplay(console, plan, before, above) if live else None

    def __enter__(self) -> Self:
        if self._display is not None:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def update(self, report: Report) -> None:
        """Shows one report."""
        if self._display is not None:
            self._display.update(report)
        elif isinstance(report, StepReport):
            self._last = report
        elif isinstance(report, EvalReport):
            self._console.print(Text(self._line(report)), soft_wrap=True)
        elif isinstance(report, HeadsReport):
            self._console.print(Text(f"  heads   {', '.join(best_heads(report))}"), soft_wrap=True)
        elif isinstance(report, SampleReport):
            written = fit(one_line(report.text), _SAMPLE_CELLS)
            self._console.print(Text(f"  writes  {written}"), soft_wrap=True)
        elif isinstance(report, TranslationsReport):
            for one in report.examples:
                self._console.print(Text(f"  translates  {fit(translation_text(one), _SAMPLE_CELLS)}"), soft_wrap=True)

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


def score_text(score: Score) -> str:
    """Returns the four figures of a score."""
    return (
        f"{score.per_token:.3f} nats per token (perplexity {score.perplexity:.1f}) · "
        f"{score.bits_per_byte:.3f} bits per byte · {score.per_character:.3f} nats per character"
    )


def translation_text(found: Translation) -> str:
    """Returns a translation as one line: 'A dog runs. → Ein Hund rennt.'."""
    return one_line(f"{found.source} → {found.output or _NO_WORDS}")


def summary(
    result: Result, plan: Plan, share: float, path: str, sample: str, examples: Sequence[Translation] = ()
) -> RenderableType:
    """Returns the summary: the validation score, the run, the path, and a sample or examples of translations.

    `share` is the share of the validation part that was scored.
    """
    assert result.best is not None
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("validation", Text(score_text(result.best) + (f" · on {share:.0%} of it" if share < 1 else "")))
    best = "" if result.best_step == result.step else f"; the best weights are those of step {result.best_step:,}"
    trained = f"{result.step:,} steps, {count(result.tokens)} tokens, {result.tokens / plan.train_tokens:.1f} epochs"
    table.add_row("training", Text(f"{trained} in {duration(result.seconds)}{best}"))
    table.add_row("saved", Text(one_line(path)))
    if examples:
        return Group(
            table, Text(), Text("Translations of validation sources", style="bold"), _examples(examples), Text()
        )
    return Group(table, Text(), Text("A sample", style="bold"), Text(visible(sample).strip("\n")), Text())


def _examples(examples: Sequence[Translation]) -> RenderableType:
    """Returns each source, the model's translation and the reference."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for example in examples:
        for label, text in (("source", example.source), ("model", example.output), ("reference", example.reference)):
            table.add_row(label, Text(one_line(text) or _NO_WORDS))
    return table


@contextmanager
def reading_progress(console: Console) -> Iterator[Listener]:
    """Shows a progress bar on a terminal while the text is read and tokenized; yields the function that updates it."""
    columns = TextColumn("{task.fields[stage]}"), BarColumn(20), TextColumn("{task.fields[done]}")
    with passing_bar(console, *columns) as bar:
        task = bar.add_task("", total=None, stage="reading", done="")

        def show(progress: Progress) -> None:
            of = "" if progress.total is None else f" of {size(progress.total)}"
            done = size(progress.done) + of if progress.done or of else ""
            bar.update(task, total=progress.total, completed=progress.done, stage=progress.stage, done=done)

        yield show


def result_document(
    result: Result, share: float, path: str, sample: str, examples: Sequence[Translation] = ()
) -> dict[str, Any]:
    """Returns the summary as a JSON-ready dictionary."""
    assert result.best is not None
    return {
        "path": path,
        "finished": result.finished,
        "steps": result.step,
        "best_step": result.best_step,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "train_nats_per_token": result.train_loss,
        "validation": result.best.figures(),
        "validation_share": share,
        "sample": None if examples else sample,
        "examples": [asdict(example) for example in examples] or None,
    }
