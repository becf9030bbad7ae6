"""A run about to start: its text, its plan, and what `run.json` shall say; new, or as a stopped run left it.

Owns going from files to a job and from a saved state back to one. Prints nothing: what to tell is in `notes`.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from attncli import __version__
from attncli.checkpoint.directory import CONFIG, RUN, STATE_FACTS, ModelFolder, list_models, previous_of
from attncli.checkpoint.store import Borders, Checkpoint, LoadedModel, fall_back, read_resumable
from attncli.config import DEFAULT_TRAINING_SECONDS, CorpusConfig, TrainConfig, shown_value
from attncli.errors import BadCheckpoint, UsageProblem
from attncli.model.device import pick_device
from attncli.paths import exists
from attncli.records import record_from_json
from attncli.text.corpus import Corpus, prepare
from attncli.text.files import STDIN, Listener, Progress, read_documents, refuse_overlap
from attncli.training import recipe
from attncli.training.head_scores import head_scorer
from attncli.training.loop import train
from attncli.training.plan import make_plan
from attncli.training.reports import Plan, Report, RunState, plan_from_document
from attncli.training.samples import sampler
from attncli.training.saver import borders_for

_FEWEST_SCORED = 200  # tokens to validate on
_FEWEST_BYTES_PER_TOKEN = 1.5  # of a tokenizer that fits the text at all
_BUSY = 1.5  # times its CPU time that a step takes where other programs want the cores
_FACTS = ("format", "created", "versions", "corpus", "request")
STATE_FORMAT = 2  # of plan and state; another one is not resumed


@dataclass(frozen=True)
class _KnownText:
    """What `run.json` says of the text that a stopped run needs again."""

    sources: tuple[str, ...]
    val_file: str | None
    digest: str
    config: CorpusConfig


@dataclass(frozen=True)
class Job:
    """Everything that `train` needs but the place. `facts` go to `run.json`, `notes` to the user."""

    corpus: Corpus
    plan: Plan
    facts: dict[str, Any]
    resume: Checkpoint | None = None
    initial: dict[str, Tensor] | None = None  # the weights of the model it starts from
    notes: tuple[str, ...] = ()
    borders: Borders | None = None  # of that model, or of the run that is resumed

    @property
    def watch_heads(self) -> bool:
        """Whether the attention heads are scored at every evaluation; a resumed run goes on with it."""
        return bool(self.facts.get("watch_heads"))

    @property
    def resumed_at(self) -> int | None:
        """The step at which a resumed run goes on."""
        return None if self.resume is None or self.resume.state is None else int(self.resume.state.facts["step"])


def new_job(
    files: Sequence[str],
    val_file: str | None,
    text: CorpusConfig,
    pinned: TrainConfig,
    spent: float = 0.0,
    start: LoadedModel | None = None,
    progress: Listener | None = None,
    *,
    watch_heads: bool = False,
) -> Job:
    """Reads and tokenizes the text, and plans. `spent` seconds of the time given are gone already.

    With `start`, a model to go on from: its shape, weights and tokenizer are kept.

    Raises UsageProblem for a text that would be trained on and validated on; and BadInput, UsageProblem or OutOfRoom
    as reading, planning and the token cache do.
    """
    began = time.monotonic()
    refuse_overlap(files, val_file)
    if pinned.timed and text.most_characters is None:
        seconds, device = pinned.seconds or DEFAULT_TRAINING_SECONDS, pick_device(pinned.device)
        text = replace(text, most_characters=_most_characters(seconds, device.type))
    documents = read_documents(files, text.encoding, progress)
    held_out = read_documents([val_file], text.encoding, progress) if val_file is not None else None
    corpus = prepare(documents, text, held_out, start.tokenizer if start is not None else None, progress)
    shape = start.model.config if start is not None else None
    if progress is not None:
        progress(Progress("measuring a step", 0, None))
    plan = make_plan(pinned, corpus, spent=spent + time.monotonic() - began, start=shape)
    read = (*documents.notes, *(held_out.notes if held_out is not None else ()))
    notes = _notes(read, corpus, plan, start, spent + time.monotonic() - began)
    if start is None and text.vocab_size is None and text.tokenizer == "bpe":
        plan = replace(plan, reasons=plan.reasons | {"vocab_size": f"for {corpus.train.characters:,} characters"})
    facts = _facts(corpus, text, val_file, pinned) | ({"watch_heads": True} if watch_heads else {})
    if start is None:
        return Job(corpus, plan, facts, notes=notes)
    facts |= {"from": str(start.path)}
    return Job(corpus, plan, facts, initial=start.model.state_dict(), notes=notes, borders=_borders_of(start))


def run_job(
    job: Job, target: Path, *, started: float | None = None, stop: Callable[[], bool] = lambda: False
) -> Iterator[Report]:
    """Trains as `train` does, and at each evaluation lets the model write a sample, and scores its heads if wanted.

    `target`, `started`, `stop` and the errors are those of `train`.
    """
    start_of_text = (job.borders or borders_for(job.corpus)).start_of_text
    return train(
        job.corpus,
        job.plan,
        target,
        facts=job.facts,
        initial=job.initial,
        borders=job.borders,
        resume=job.resume,
        started=started,
        stop=stop,
        sample=sampler(job.corpus, job.plan),
        score_heads=head_scorer(job.plan, job.corpus.tokenizer.vocab_size, start_of_text) if job.watch_heads else None,
    )


def _borders_of(start: LoadedModel) -> Borders:
    """Those the model has; and of its tokenizer the one that is put between documents, which it will learn."""
    between = start.tokenizer.end_of_text
    return Borders(start.start_of_text, start.end_ids | ({between} if between is not None else set()))


def _most_characters(seconds: float, device: str) -> int:
    """Of either part: about what a run of that length can see, which takes little of it to tokenize.

    A power of two, so that runs of about the same length find each other's tokens in the cache.
    """
    per_second = recipe.CPU_CHARACTERS_PER_SECOND if device == "cpu" else recipe.GPU_CHARACTERS_PER_SECOND
    return 1 << math.ceil(math.log2(max(seconds, 1.0) * per_second))


def _notes(read: Sequence[str], corpus: Corpus, plan: Plan, start: LoadedModel | None, spent: float) -> tuple[str, ...]:
    """What a user would not expect, and should know before the run begins, `spent` seconds after it was asked for.

    `read` is what there is to say of how the text was read.
    """

    def notes() -> Iterator[str]:
        yield from read
        for does, part in (("trains", corpus.train), ("is validated", corpus.val)):
            if part.left_out:
                share = f"{part.characters:,} of {part.characters + part.left_out:,} characters"
                yield f"to read little in the time there is, it {does} on {share}, spread evenly over the text"
        if plan.seconds is None and plan.epochs > recipe.MOST_EPOCHS:
            most = recipe.MOST_EPOCHS
            yield f"{plan.epochs:.0f} passes over the text: after {most} or so a model only memorizes more"
        if len(corpus.val) < _FEWEST_SCORED:
            yield f"only {len(corpus.val):,} tokens to validate on: the scores, and the choice by them, are rough"
        per_token = corpus.train.bytes / len(corpus.train)
        if start is not None and corpus.tokenizer.kind == "bpe" and per_token < _FEWEST_BYTES_PER_TOKEN:
            pieces = f"the tokenizer of the model cuts this text into pieces of {per_token:.1f} bytes"
            yield f"{pieces}: a new model makes one that fits the text"
        if plan.seconds is not None and plan.busy >= _BUSY:
            yield f"this machine is busy: a step took {plan.busy:.1f} times its CPU time; the plan may be too small"
        if plan.seconds is not None and spent > plan.seconds / 2:
            yield f"reading and measuring took {spent:.0f} of {plan.seconds:.0f} seconds: give more --time"

    return tuple(notes())


def _facts(corpus: Corpus, text: CorpusConfig, val_file: str | None, pinned: TrainConfig) -> dict[str, Any]:
    """Where a model came from."""
    return {
        "format": STATE_FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "attncli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "corpus": {
            "sources": list(corpus.sources),
            "val_file": val_file,
            "digest": corpus.digest,
            "tokenizer": corpus.tokenizer.kind,
            "train_characters": corpus.train.characters,
            "train_left_out": corpus.train.left_out,
            "train_bytes": corpus.train.bytes,
            "train_tokens": len(corpus.train),
            "val_characters": corpus.val.characters,
            "val_left_out": corpus.val.left_out,
            "val_bytes": corpus.val.bytes,
            "val_tokens": len(corpus.val),
            "config": asdict(text),
        },
        "request": asdict(pinned),
    }


def resume_job(
    target: Path,
    files: Sequence[str] = (),
    val_file: str | None = None,
    device: str = TrainConfig.device,
    progress: Listener | None = None,
    *,
    watch_heads: bool = False,
) -> Job:
    """The job of a run that was stopped, on the same text, with the plan it had.

    Args:
        target: its directory, which the caller has locked.
        files: the text, when it lies elsewhere now; so `val_file` that to validate on.
        device: 'auto' is the one it had.

    Raises:
        BadCheckpoint: for no state, a damaged one without a save before it, or another text.
        UsageProblem: for a device that is not here.
    """
    saved, notes = _newest_good(target)
    if saved.run.get("format") != STATE_FORMAT:
        version = shown_value(_version(saved.run, "attncli"))
        raise BadCheckpoint(
            f"{target} was saved by attncli {version}, which wrote another format.", "Use that version."
        )
    facts = {key: saved.run[key] for key in (*_FACTS, "from", "watch_heads") if key in saved.run}
    facts |= {"watch_heads": True} if watch_heads else {}
    known = record_from_json(_KnownText, saved.run["corpus"], f"{target / RUN}: corpus", extra=True)
    text = known.config
    if STDIN in known.sources and not files:
        raise UsageProblem(
            "This run read its text from standard input, which is needed again.",
            f"Pipe the same text: … | attncli train - --resume --out {target}",
        )
    if known.val_file == STDIN and val_file is None:
        raise UsageProblem(
            "This run read its validation text from standard input, which is needed again.",
            f"Pipe the same text: … | attncli train --val-file - --resume --out {target}",
        )
    if val_file is not None and not known.val_file:
        raise UsageProblem("This run validates on the end of its text.", "Leave --val-file out.")
    val_file = val_file or known.val_file
    held_out = read_documents([val_file], text.encoding, progress) if val_file else None
    documents = read_documents(files or known.sources, text.encoding, progress)
    corpus = prepare(documents, text, held_out, saved.tokenizer, progress)
    if corpus.digest != known.digest:
        raise BadCheckpoint(
            f"The text is not the one that {target} was trained on.",
            "Give the same text, or train a new model under another --name.",
        )
    plan, same = _on_device(plan_from_document(saved.run["plan"]), device)
    same = same and _version(saved.run, "torch") == torch.__version__
    if not same or torch.get_num_threads() < plan.threads:
        changed = "another device, another torch or fewer threads than before"
        notes = (*notes, f"{changed}: not bit-identical to an uninterrupted run")
    return Job(corpus, plan, facts, saved, notes=notes, borders=Borders(saved.start_of_text, saved.end_ids))


def _on_device(plan: Plan, device: str) -> tuple[Plan, bool]:
    """The plan on the device asked for, and whether that is the one it had."""
    try:
        place = str(pick_device(plan.device if device == TrainConfig.device else device))
    except UsageProblem as problem:
        raise UsageProblem(
            problem.message, "The run was on that device; say --device cpu to go on without it."
        ) from None
    return replace(plan, device=place), place == plan.device


def _newest_good(target: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """The last save; when it is damaged the one before, put in its place, and a note."""
    if not exists(target):
        stopped = [entry.name for entry in list_models() if entry.status in ("stopped", "interrupted")]
        resume = (
            f"; to resume one of {', '.join(stopped)}: attncli train --resume --name {stopped[0]}" if stopped else ""
        )
        raise BadCheckpoint(f"There is no run to resume at {target}.", f"To begin one, leave --resume out{resume}.")
    try:
        return _read_saved(target), ()
    except BadCheckpoint as problem:
        if not exists(previous_of(target)) or _has_ended(target):
            raise
        with suppress(BadCheckpoint):  # a disk may fail once
            return _read_saved(target), ()
        saved = _read_saved(previous_of(target))
        fall_back(target)
        return saved, (f"{problem.message} Going on from the save before it.",)


def _read_saved(path: Path) -> Checkpoint:
    """The checkpoint of a run to resume, its records held to what they should be, unless they are of another format.

    Raises BadCheckpoint.
    """
    saved = read_resumable(path)
    if saved.run.get("format") != STATE_FORMAT:
        return saved
    run = path / RUN
    record_from_json(_KnownText, saved.run.get("corpus"), f"{run}: corpus", extra=True)
    if plan_from_document(saved.run.get("plan"), f"{run}: plan").model != saved.config:
        raise BadCheckpoint(f"{run}: the plan is of another model than {path / CONFIG}.", "Copy the directory again.")
    assert saved.state is not None
    record_from_json(RunState, saved.state.facts, str(path / STATE_FACTS))
    return saved


def _version(run: dict[str, Any], name: str) -> object:
    """Which version of a library a run was made with, as far as its record says."""
    versions = run.get("versions")
    return versions.get(name) if isinstance(versions, dict) else None


def _has_ended(target: Path) -> bool:
    """Whether a run finished; a kill just then may have left the save before."""
    try:
        return not ModelFolder(target).holds(STATE_FACTS)
    except BadCheckpoint:
        return False
