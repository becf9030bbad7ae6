"""`attncli train`: prepares a run, draws it while it trains, and prints a summary.

PyTorch takes seconds to import. `run` therefore locks the directory first, and only then calls a function of
`attncli.training`, which imports PyTorch.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import typer

from attncli import training
from attncli.checkpoint.catalog import MODELS_FOLDER
from attncli.checkpoint.target import claimed, refuse_taken, target_directory
from attncli.cli import clock
from attncli.cli.compiling import begin_compiling
from attncli.cli.options import option_name, option_names
from attncli.cli.process import keep_freed_memory
from attncli.cli.shared import ModelSource
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import AttnError
from attncli.render.console import messages, output, print_json, print_note, show
from attncli.render.escape import one_line
from attncli.render.evaluation import judgement_document, judgement_screen
from attncli.render.training import TrainingScreen, plan_table, reading_progress, result_document, summary
from attncli.render.translation import translation_document, translation_screen
from attncli.stopping import StopRequests
from attncli.text.files import refuse_missing
from attncli.text.names import listed
from attncli.text.pair_inputs import InputKind
from attncli.training.curves import RunCurves, curves_from_lines
from attncli.training.reports import Result, RunSummary, SaveReport, plan_document
from attncli.training.tensorboard import TensorBoardLog

if TYPE_CHECKING:
    from attncli.training.job import Job


@dataclass(frozen=True)
class TrainArguments:
    """The arguments of `attncli train` that are not fields of CorpusConfig or TrainConfig."""

    files: tuple[str, ...]
    kind: InputKind | None  # None: recognized by the files
    val_file: str | None
    start: str | None  # the model to fine-tune
    resume: bool
    force: bool
    watch_heads: bool


def directory_of(arguments: TrainArguments, name: str | None, out: Path | None) -> Path:
    """Returns the directory for the model. Raises BadInput if a file is missing, before PyTorch is imported.

    Also makes this process keep freed memory, which speeds up training.
    """
    refuse_missing([*arguments.files, *([arguments.val_file] if arguments.val_file is not None else [])])
    keep_freed_memory()
    return target_directory(arguments.files, name, out, resume=arguments.resume)


def run(
    arguments: TrainArguments, target: Path, text: CorpusConfig, pinned: TrainConfig, json: bool, tensorboard: bool
) -> None:
    """Trains a model and draws the run. Prints the summary, or after a signal the command that resumes the run."""
    with claimed(target, resume=arguments.resume, force=arguments.force):
        begin_compiling(pinned.device, "training")
        job = _job(arguments, target, text, pinned)
        _note(job)
        log = _train(job, target, tensorboard, json)
    if log is not None:
        print_note(f"to view the events: tensorboard --logdir {shlex.quote(str(log.folder))}")


def show_plan(arguments: TrainArguments, target: Path, text: CorpusConfig, pinned: TrainConfig, json: bool) -> None:
    """Prints the plan of a run without training, and a note if the run would be refused."""
    job = _job(arguments, target, text, pinned)
    _note(job)
    try:
        refuse_taken(target, arguments.force)
    except AttnError as problem:
        problem.spell(option_name)
        print_note(f"the run itself would be refused: {problem.message} {problem.hint}")
    if json:
        print_json(plan_document(job.plan))
    else:
        show(output(), plan_table(job.plan, str(target), _described(job)))


def _job(arguments: TrainArguments, target: Path, text: CorpusConfig, pinned: TrainConfig) -> Job:
    """Returns the job of a new or resumed run, and shows a progress bar while the text is read."""
    files, val_file, watch = arguments.files, arguments.val_file, arguments.watch_heads
    with reading_progress(messages()) as progress:
        if arguments.resume:
            return training.resume_job(
                target, files, val_file, pinned.device, progress, kind=arguments.kind, watch_heads=watch
            )
        start = None
        if arguments.start is not None:
            from attncli.cli.loading import load

            start = load(ModelSource(model=arguments.start, device="cpu"))
        spent = monotonic() - clock.started
        return training.new_job(
            files, val_file, text, pinned, spent, start, progress, kind=arguments.kind, watch_heads=watch
        )


def _note(job: Job) -> None:
    for note in job.notes:
        print_note(note)


def _described(job: Job) -> str:
    return f"{listed(job.corpus.sources)}: {job.task.amounts}"


def _train(job: Job, target: Path, tensorboard: bool, json: bool) -> TensorBoardLog | None:
    """Trains a model, draws every report and prints the summary. Returns the TensorBoard log, if there is one."""
    console = messages()
    planned = plan_table(job.plan, str(target), _described(job), job.resumed_at)
    show(console, planned)
    result: Result | None = None
    saved = job.resume is not None
    with ExitStack() as opened:
        log = opened.enter_context(TensorBoardLog(target, job.plan, job.resumed_at)) if tensorboard else None
        stop = opened.enter_context(StopRequests())
        screen = opened.enter_context(TrainingScreen(console, job.plan, _curves_so_far(job, target), planned))
        # The time of a new run counts from the start of this command; a resumed run adds it to the time already spent.
        for report in training.run_job(job, target, started=clock.started, stop=lambda: bool(stop)):
            screen.update(report)
            if log is not None:
                log.update(report)
            result = report if isinstance(report, Result) else result
            saved = saved or isinstance(report, SaveReport)
    assert result is not None
    if not result.finished:
        _say_how_to_resume(result, target, saved)
        raise typer.Exit(128 + stop.received[0])
    summarized = training.summarize(job, target, result, option_names(TrainConfig))
    _show_summary(summarized, job, target, json)
    return log


def _curves_so_far(job: Job, target: Path) -> RunCurves | None:
    """Returns the loss curves of a resumed run up to the step where it stopped; None without measurements."""
    metrics = job.resume.metrics if job.resume is not None else ()
    return curves_from_lines(target.name, str(target), metrics) if metrics else None


def _say_how_to_resume(result: Result, target: Path, saved: bool) -> None:
    console, steps = messages(), f"step {result.step:,} of {result.steps:,}"
    with suppress(OSError):  # after SIGHUP the terminal may be gone
        if saved:
            console.print(f"Stopped at {steps}; everything is saved. To resume:")
            console.print(one_line(f"  attncli train --resume {_option_naming(target)}"), soft_wrap=True)
        else:
            console.print(f"Stopped at {steps}, before the first evaluation: nothing is saved.")
            console.print(one_line(f"{target} is unchanged."), soft_wrap=True)


def _show_summary(found: RunSummary, job: Job, target: Path, json: bool) -> None:
    """Prints the scores and the sample on standard output, and two commands to try on standard error."""
    if json:
        document = result_document(found.result, found.share, str(target), found.sample, found.examples)
        scores = found.translation and translation_document(found.translation)
        print_json(document | judgement_document(found.judgement) | {"translation": scores})
        return
    console = output()
    show(console, summary(found.result, job.plan, found.share, str(target), found.sample, found.examples))
    if found.translation is not None:
        show(console, translation_screen(found.translation))
        console.print()
    show(console, judgement_screen(found.judgement, console.width, share=found.share, shown=found.sample_tokens))
    model = f"{'-m' if job.adaptation is None else '--adapter'} {_named(target)}"  # an adapter names its model
    console = messages()
    console.print()
    console.print("Try next:", style="bold")
    for command in ("generate", "explain"):
        console.print(one_line(f"  attncli {command} {model} {shlex.quote(found.prompt)}"), soft_wrap=True)


def _named(target: Path) -> str:
    """Returns the name of a directory in a command: checkpoints/mine -> 'mine'."""
    return shlex.quote(target.name if target.parent == MODELS_FOLDER else str(target))


def _option_naming(target: Path) -> str:
    """Returns the option of `train` for a directory: checkpoints/mine -> '--name mine'; any other -> '--out DIR'."""
    return f"--name {target.name}" if target.parent == MODELS_FOLDER else f"--out {shlex.quote(str(target))}"
