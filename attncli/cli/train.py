"""`attncli train`."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli import clock
from attncli.cli.completing import model_names, one_of
from attncli.cli.help import MORE, Rare
from attncli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    SeedOption,
    choice,
    count,
    draw_seed,
    parse_seconds,
    unset,
)
from attncli.config import (
    DEFAULT_TRAINING_SECONDS,
    OPTIMIZER_KINDS,
    SIZES,
    TOKENIZER_KINDS,
    TRAIN_DTYPES,
    CorpusConfig,
    SampleConfig,
    TrainConfig,
)
from attncli.errors import AttnError, BadCheckpoint, UsageProblem
from attncli.paths import exists, is_folder, is_link, look, real, resolved, unwritable

if TYPE_CHECKING:
    from attncli.model.transformer import Transformer
    from attncli.text.corpus import Corpus
    from attncli.training.curves import RunCurves
    from attncli.training.job import Job
    from attncli.training.loop import Watcher
    from attncli.training.reports import Plan, Result
    from attncli.training.tensorboard import TensorBoardLog

_SAMPLE_TOKENS, _SHORTEST_SAMPLE, _SAMPLE_TOKENS_PER_SECOND = 80, 10, 1 / 3
_METERED_TOKENS, _METERED_TOKENS_PER_SECOND = 400, 3  # of the sample that is compared with the training text
_OPENING = 200  # characters of the text in which its first words are looked for
_WATCHED_TOKENS, _WATCHED_TEXTS = 24, 2  # at an evaluation: a small part of the time that takes
_FORCE = "Replace a model of the same name; an edited README.md stays."
_FILES = "Text files, directories, or - for standard input. One named n times is seen n times as often."
_TIME = f"How long in all, such as 90s, 5m or 1h. Unset: {DEFAULT_TRAINING_SECONDS / 60:.0f}m."
_SIZE = f"{', '.join(SIZES)}, or LAYERSxWIDTH such as 6x384. Unset: by time and machine."
_VAL = "The share at the end of the text that is kept for validation."


_TIME_PANEL, _MODEL_PANEL, _RECIPE_PANEL = "How long (one of these)", "The model", "How it learns"
_TEXT_PANEL, _PLACE_PANEL = "The text", "Where it goes"


# fmt: off
def train(
    context_: typer.Context,
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help=_FILES, show_default=False)] = None,
    time: Annotated[float | None, unset("--time", parser=parse_seconds, metavar="TIME", help=_TIME, rich_help_panel=_TIME_PANEL)] = None,  # noqa: E501
    steps: Annotated[int | None, count(help="How many steps.", rich_help_panel=_TIME_PANEL)] = None,
    epochs: Annotated[float | None, unset(help="How many times to see the text.", rich_help_panel=Rare(_TIME_PANEL))] = None,  # noqa: E501
    tokens: Annotated[int | None, count(help="How many tokens to see in all.", rich_help_panel=Rare(_TIME_PANEL))] = None,  # noqa: E501
    size: Annotated[str | None, unset("--size", metavar="SIZE", help=_SIZE, autocompletion=one_of(SIZES), rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    context: Annotated[int | None, count(help="Tokens the model sees at once. Unset: by time and text.", rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    from_: Annotated[str | None, unset("--from", metavar="MODEL", autocompletion=model_names, help="Go on from this model: its shape, weights and tokenizer.", rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    batch_size: Annotated[int | None, count(help="Windows of text in a step. Unset: by device and length.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    grad_accum: Annotated[int | None, count(help="Take a step in so many parts, to save memory. Unset: by memory.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    checkpoint_activations: Annotated[bool, unset("--checkpoint-activations", help="Compute them twice, to save memory. Unset: by memory; --keep-activations: never.", rich_help_panel=Rare(_RECIPE_PANEL))] = False,  # noqa: E501
    keep_activations: Annotated[bool, typer.Option("--keep-activations", hidden=True)] = False,
    optimizer: Annotated[str | None, choice(among=OPTIMIZER_KINDS, show_default=False, help="Unset: muon; adamw with --from.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    lr: Annotated[float | None, unset(help="Peak learning rate of the matrices. Unset: by optimizer and length.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    adam_lr: Annotated[float | None, unset(help="With muon, that of embeddings and norms.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    weight_decay: Annotated[float | None, unset(help="Of matrices and embeddings. Unset: by how often the text is seen.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    dropout: Annotated[float | None, unset(help="Unset: by how often the text is seen.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    compile: Annotated[bool, unset("--compile", help="Use torch.compile. Unset: by device and time; --no-compile: never.", rich_help_panel=Rare(_RECIPE_PANEL))] = False,  # noqa: E501
    no_compile: Annotated[bool, typer.Option("--no-compile", hidden=True)] = False,
    seed: SeedOption = None,
    device: DeviceOption = TrainConfig.device,
    dtype: DtypeOption = TrainConfig.dtype,
    tokenizer: Annotated[str, choice(among=TOKENIZER_KINDS, help="The kind of tokenizer to make.", rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.tokenizer,  # noqa: E501
    vocab_size: Annotated[int | None, count(help="How many token ids to make. Unset: by the amount of text.", rich_help_panel=Rare(_TEXT_PANEL))] = None,  # noqa: E501
    val_fraction: Annotated[float, typer.Option(help=_VAL, rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.val_fraction,  # noqa: E501
    val_file: Annotated[str | None, unset(metavar="FILE", help="Validate on this text instead.", rich_help_panel=Rare(_TEXT_PANEL))] = None,  # noqa: E501
    encoding: Annotated[str, typer.Option(help="The encoding of the text.", rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.encoding,  # noqa: E501
    save_dtype: Annotated[str, choice(among=TRAIN_DTYPES, help="Of the finished model's weights; bfloat16 takes half the room.", rich_help_panel=Rare(_PLACE_PANEL))] = TrainConfig.save_dtype,  # noqa: E501
    name: Annotated[str | None, unset(help="The model's name in ./checkpoints. Unset: that of the first file.", rich_help_panel=_PLACE_PANEL)] = None,  # noqa: E501
    out: Annotated[Path | None, unset("--out", "-o", metavar="DIR", help="Its directory, instead of a name.", rich_help_panel=_PLACE_PANEL)] = None,  # noqa: E501
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.", rich_help_panel=_PLACE_PANEL)] = False,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help=_FORCE, rich_help_panel=_PLACE_PANEL)] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events beside the model.", rich_help_panel=MORE)] = False,  # noqa: E501
    watch_heads: Annotated[bool, typer.Option("--watch-heads", help="Score the attention heads at every evaluation: attncli plot --heads.", rich_help_panel=MORE)] = False,  # noqa: E501
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Train a model on your own text.

    attncli train corpus.txt
    attncli train book.txt notes/ --time 3m --name mine
    """
    from dataclasses import replace

    from attncli.text.files import refuse_missing

    refuse_missing([*(files or ()), *([val_file] if val_file is not None else [])])
    from attncli.checkpoint.directory import settle
    from attncli.checkpoint.lock import lock
    from attncli.cli.process import keep_freed_memory

    keep_freed_memory()
    target = _target(files, name, out, resume)
    if resume:
        _refuse_changes(context_)
    if from_ is not None:
        _refuse_given(context_, ("size", "tokenizer", "vocab_size"), "The model of --from brings its own")
    text = CorpusConfig(tokenizer=tokenizer, vocab_size=vocab_size, val_fraction=val_fraction, encoding=encoding)  # type: ignore[arg-type]
    pinned = TrainConfig(
        seconds=time, steps=steps, epochs=epochs, tokens=tokens, size=size, context=context, batch_size=batch_size,
        grad_accum=grad_accum,
        checkpoint_activations=_either(checkpoint_activations, keep_activations, "--keep-activations"),
        compile=_either(compile, no_compile, "--no-compile"),
        optimizer=optimizer, lr=lr,  # type: ignore[arg-type]
        adam_lr=adam_lr, weight_decay=weight_decay, dropout=dropout,
        seed=draw_seed() if seed is None else seed, device=device, dtype=dtype, save_dtype=save_dtype,
    )  # fmt: skip
    if plan:
        _show_plan(_new_job(files, val_file, text, pinned, from_), target, force, json)
        return
    with lock(target):  # before torch is imported, which takes seconds
        settle(target)
        _refuse_in_the_way(target)
        if not resume:
            _refuse_taken(target, force)
            job = _new_job(files, val_file, text, pinned, from_)
        else:
            job = _resumed_job(target, files, val_file, device)
        if watch_heads:
            job = replace(job, facts=job.facts | {"watch_heads": True})
        _run(job, target, json, tensorboard)


def _new_job(
    files: list[str] | None, val_file: str | None, text: CorpusConfig, pinned: TrainConfig, from_: str | None
) -> Job:
    from time import monotonic

    from attncli.cli.loading import load
    from attncli.render.console import messages
    from attncli.render.training import reading_progress
    from attncli.training.job import new_job

    start = None if from_ is None else load(from_, "cpu", "float32")
    with reading_progress(messages()) as progress:
        return new_job(files or (), val_file, text, pinned, monotonic() - clock.started, start, progress)


def _resumed_job(target: Path, files: list[str] | None, val_file: str | None, device: str) -> Job:
    from attncli.render.console import messages
    from attncli.render.training import reading_progress
    from attncli.training.job import resume_job

    with reading_progress(messages()) as progress:
        return resume_job(target, files or (), val_file, device, progress)


def _either(yes: bool, no: bool, name: str) -> bool | None:
    """What an option and its opposite, of that name, say together; None when neither was given."""
    if yes and no:
        raise UsageProblem(f"{name} and its opposite exclude one another.", "Give one of them.")
    return yes or (False if no else None)


def _show_plan(job: Job, target: Path, force: bool, json: bool) -> None:
    """The plan alone, as the result."""
    from dataclasses import asdict

    from attncli.render.console import output, print_json, print_note, show
    from attncli.render.training import plan_table

    for note in job.notes:
        print_note(note)
    try:
        _refuse_taken(target, force)
    except AttnError as problem:
        print_note(f"the run itself would be refused: {problem.message} {problem.hint}")
    if json:
        print_json(asdict(job.plan))
    else:
        show(output(), plan_table(job.plan, str(target), _described(job.corpus)))


def _target(files: list[str] | None, name: str | None, out: Path | None, resume: bool) -> Path:
    """The directory the model goes to, where it really lies."""
    target = resolved(_asked_for(files, name, out, resume))
    if real(target) == real(Path()):
        raise UsageProblem(
            f"{target} is the working directory, which a save would replace.",
            f"Give a directory in it, such as --out model; or go up first: cd .. and --out {target.name}.",
        )
    return target


def _asked_for(files: list[str] | None, name: str | None, out: Path | None, resume: bool) -> Path:
    """The directory that the options, else the first file, else the run that was stopped last, stand for."""
    from attncli.checkpoint.directory import MODELS_FOLDER, list_models

    if name is not None and out is not None:
        raise UsageProblem("--name and --out both say where the model goes.", "Give one of them.")
    if out is not None:
        return out
    if name is not None:
        if not name or re.sub(r"[^\w.-]", "", name) != name or name.startswith("."):
            raise UsageProblem(
                f"--name {name!r} is not a plain name.", "Use letters, digits, '-', '_' and '.', or --out DIR."
            )
        return MODELS_FOLDER / name
    if files:
        first = Path(files[0]).absolute()
        stem = "stdin" if files[0] == "-" else first.name if is_folder(first) else first.stem
        return MODELS_FOLDER / (re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model")
    if not resume:
        raise UsageProblem("There is no text to train on.", "Give a file: attncli train corpus.txt")
    stopped = [entry for entry in list_models() if entry.status in ("stopped", "interrupted")]
    if not stopped:
        raise BadCheckpoint(f"There is no run to resume in ./{MODELS_FOLDER}.", "Name it with --name or --out.")
    return MODELS_FOLDER / max(stopped, key=lambda entry: entry.modified).name


def _refuse_changes(context: typer.Context) -> None:
    """A resumed run keeps its plan."""
    free = {"files", "val_file", "name", "out", "resume", "device", "tensorboard", "watch_heads", "json"}
    _refuse_given(context, sorted(context.params.keys() - free), "A resumed run keeps its plan")


def _refuse_given(context: typer.Context, options: Iterable[str], why: str) -> None:
    """Refuses the options among these that were given on the command line."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            shown = "--" + option.strip("_").replace("_", "-")
            raise UsageProblem(f"{why}, so {shown} cannot be given.", f"Leave {shown} out.")


def _refuse_in_the_way(target: Path) -> None:
    """Refuses a target whose place for the previous save holds something else, or whose name is too long for one."""
    from attncli.checkpoint.directory import aside_of, is_save, previous_of

    try:
        aside_of(target, "previous").stat()
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise unwritable(target, problem) from None
    previous = previous_of(target)
    if is_link(previous) or (exists(previous) and not is_save(previous)):
        raise UsageProblem(
            f"{previous} is not a save, and is where train keeps the save before the last one.",
            "Move it away, or choose another --name or --out.",
        )


def _refuse_taken(target: Path, force: bool) -> None:
    """Never overwrites a model unless told to, and nothing else at all."""
    from attncli.checkpoint.directory import STATE_FACTS, ModelFolder

    try:
        if look(target) is None or (is_folder(target) and not any(target.iterdir())):
            return
    except OSError as problem:
        raise unwritable(target, problem) from None
    if not is_folder(target):
        raise UsageProblem(f"{target} is not a directory.", "Choose another --out.")
    foreign = ModelFolder(target).foreign()
    if foreign:
        raise UsageProblem(f"{target} holds {foreign[0]}, which is not a model's.", "Choose another --name or --out.")
    if not force:
        choices = "Keep it: --name OTHER. Replace it: --force."
        if ModelFolder(target).holds(STATE_FACTS):
            choices = f"Go on with it: --resume. {choices}"
        raise UsageProblem(f"{target} exists.", choices)


def _described(corpus: Corpus) -> str:
    from attncli.text.files import listed

    amounts = f"{corpus.train.characters:,} characters to train on, {corpus.val.characters:,} to validate"
    return f"{listed(corpus.sources)}: {amounts}"


def _run(job: Job, target: Path, json: bool, tensorboard: bool) -> None:
    """Trains, drawing as it goes, and ends with the summary, or with how to go on after a signal."""
    from attncli.render.console import messages, print_note, show
    from attncli.render.escape import one_line
    from attncli.render.training import TrainingScreen, plan_table
    from attncli.training import train as reports
    from attncli.training.reports import Result, SaveReport

    console = messages()
    for note in job.notes:
        print_note(note)
    corpus = job.corpus
    resumed, before = _gone_through(job, target)
    planned = plan_table(job.plan, str(target), _described(corpus), resumed)
    show(console, planned)
    result: Result | None = None
    saved = job.resume is not None
    with ExitStack() as opened:
        log = opened.enter_context(_tensorboard(target, job.plan, resumed)) if tensorboard else None
        received = opened.enter_context(_signals())
        screen = opened.enter_context(TrainingScreen(console, job.plan, before, planned))
        # A resumed run counts on from the time it had spent; a new one from when this command began.
        for report in reports(
            corpus,
            job.plan,
            target,
            facts=job.facts,
            initial=job.initial,
            borders=job.borders,
            resume=job.resume,
            started=clock.started,
            stop=lambda: bool(received),
            sample=_sampler(job),
            watch=_watcher(job),
        ):
            screen.update(report)
            if log is not None:
                log.update(report)
            result = report if isinstance(report, Result) else result
            saved = saved or isinstance(report, SaveReport)
    assert result is not None
    if not result.finished:
        steps = f"step {result.step:,} of {result.steps:,}"
        with suppress(OSError):  # after SIGHUP the terminal may be gone
            if saved:
                console.print(f"Stopped at {steps}; everything is saved. Go on with:")
                console.print(one_line(f"  attncli train --resume {_where(target)}"), soft_wrap=True)
            else:
                console.print(f"Stopped at {steps}, before the first score: nothing is saved.")
                console.print(one_line(f"{target} holds what it held before."), soft_wrap=True)
        raise typer.Exit(128 + received[0])
    _summarize(result, job, target, json)
    if log is not None:
        print_note(f"to see the events: tensorboard --logdir {shlex.quote(str(log.folder))}")


def _gone_through(job: Job, target: Path) -> tuple[int | None, RunCurves | None]:
    """The step at which a resumed run goes on, and its curves so far, if it has any."""
    from attncli.training.curves import curves_from_lines

    if job.resume is None or job.resume.state is None:
        return None, None
    metrics = job.resume.metrics
    before = curves_from_lines(target.name, str(target), metrics) if metrics else None
    return job.resume.state.facts["step"], before


def _tensorboard(target: Path, plan: Plan, resumed: int | None) -> TensorBoardLog:
    from attncli.training.tensorboard import TensorBoardLog

    return TensorBoardLog(target, plan, resumed)


def _sampler(job: Job) -> Callable[[Transformer], tuple[str, int]] | None:
    """Continues one fixed prompt, in so few tokens that it takes little of the time; None when that would be none."""
    from attncli.generation.engine import generate
    from attncli.generation.events import Text
    from attncli.model.backend import TorchBackend

    seconds, tokenizer = job.plan.seconds, job.corpus.tokenizer
    tokens = _SAMPLE_TOKENS if seconds is None else min(int(seconds * _SAMPLE_TOKENS_PER_SECOND), _SAMPLE_TOKENS)
    if tokens < _SHORTEST_SAMPLE:
        return None
    prompt = _first_words(job.corpus)
    config = SampleConfig(max_new_tokens=tokens, seed=job.plan.seed)
    ids = tokenizer.encode(prompt)
    if len(ids) > job.plan.model.context:
        return None  # a prompt that the model cannot read

    def sample(model: Transformer) -> tuple[str, int]:
        events = generate(TorchBackend(model), tokenizer, [ids], config)
        return prompt + "".join(event.text for event in events if isinstance(event, Text)), len(prompt)

    return sample


def _watcher(job: Job) -> Watcher | None:
    """Scores the heads on a few short texts, always the same, where that was asked for, also before a resumption."""
    if not job.facts.get("watch_heads"):
        return None
    from attncli.explain.findings import HEAD_KINDS
    from attncli.explain.heads import fitted, head_scores
    from attncli.training.reports import BestHead
    from attncli.training.saver import borders_for

    vocabulary, start = job.corpus.tokenizer.vocab_size, (job.borders or borders_for(job.corpus)).start_of_text
    if job.resume is not None:
        start = job.resume.start_of_text
    length = min(fitted(job.plan.model, vocabulary), _WATCHED_TOKENS)

    def watch(model: Transformer) -> tuple[tuple[BestHead, ...], dict[str, list[list[float | None]]]]:
        found = head_scores(model, start, vocabulary, length=length, sequences=_WATCHED_TEXTS, seed=job.plan.seed)
        best = [(kind, at) for kind in HEAD_KINDS if (at := found.best(kind)) is not None]
        scores: dict[str, list[list[float | None]]] = {kind: found.table(kind) for kind in HEAD_KINDS}
        return tuple(BestHead(k, *at, found.score(k, *at), found.chance(k, at[0])) for k, at in best), scores

    return watch


def _where(target: Path) -> str:
    from attncli.checkpoint.directory import MODELS_FOLDER

    return f"--name {target.name}" if target.parent == MODELS_FOLDER else f"--out {shlex.quote(str(target))}"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals received: the first asks the loop to save and end; a second one ends the process at once."""
    received: list[int] = []
    # One that is ignored already, as SIGHUP is under nohup, stays so.
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kinds = [kind for kind in known if signal.getsignal(kind) is not signal.SIG_IGN]

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)

    before = [(kind, signal.signal(kind, note)) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in before:
            signal.signal(kind, handler)


def _summarize(result: Result, job: Job, target: Path, json: bool) -> None:
    """The figures, a sample from the finished model, and what to try next."""
    import torch

    from attncli.checkpoint.directory import MODELS_FOLDER
    from attncli.checkpoint.store import load_model
    from attncli.generation.engine import generate
    from attncli.generation.events import Finished
    from attncli.model.backend import TorchBackend
    from attncli.render.console import messages, output, print_json, show
    from attncli.render.escape import one_line
    from attncli.render.evaluation import honesty_document, honesty_screen
    from attncli.render.training import result_document, summary
    from attncli.training.curves import read_metrics
    from attncli.training.summary import judge

    plan = job.plan
    loaded = load_model(target, torch.device(plan.device), torch.float32)
    tokens = _METERED_TOKENS if plan.seconds is None else int(plan.seconds * _METERED_TOKENS_PER_SECOND)
    config = SampleConfig(max_new_tokens=min(max(tokens, _SAMPLE_TOKENS), _METERED_TOKENS), seed=plan.seed)
    events = generate(TorchBackend(loaded.model), loaded.tokenizer, [[loaded.start_of_text]], config)
    ids = next(event.ids for event in events if isinstance(event, Finished))
    sample = loaded.tokenizer.decode(ids[:_SAMPLE_TOKENS])
    assert result.best is not None
    share = job.corpus.val.share_of(result.best.scored)
    honesty = judge(result, plan, job.corpus, read_metrics(target), ids)
    if json:
        print_json(result_document(result, share, str(target), sample) | honesty_document(honesty))
        return
    console = output()
    show(console, summary(result, plan, share, str(target), sample))
    show(console, honesty_screen(honesty, console.width, share=share, shown=_SAMPLE_TOKENS))
    model = shlex.quote(target.name if target.parent == MODELS_FOLDER else str(target))
    prompt = shlex.quote(_first_words(job.corpus))
    console = messages()
    console.print()
    console.print("Try next:", style="bold")
    for command in ("generate", "explain"):
        console.print(one_line(f"  attncli {command} -m {model} {prompt}"), soft_wrap=True)


def _first_words(corpus: Corpus) -> str:
    """The beginning of the text, as a prompt to try: at most four words of its first line, no '-' before them."""
    first_line = corpus.opening(_OPENING).lstrip("- \t\r\n").partition("\n")[0]
    return " ".join(first_line.split()[:4])[:40] or "The"
