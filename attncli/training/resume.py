"""Makes the job that resumes a stopped run, from the directory of the run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attncli.checkpoint.atomic import previous_of
from attncli.checkpoint.catalog import stopped_runs
from attncli.checkpoint.directory import CONFIG, RUN, STATE_FACTS, ModelFolder
from attncli.checkpoint.load import read_resumable
from attncli.checkpoint.save import Checkpoint, fall_back
from attncli.config import TrainConfig, shown_value
from attncli.errors import BadCheckpoint, Naming, UsageProblem, hint_in
from attncli.model.device import pick_device
from attncli.paths import exists
from attncli.records import record_from_json
from attncli.text.pair_inputs import InputKind
from attncli.text.progress import Listener
from attncli.text.reading import STDIN
from attncli.text.tokenizer import Tokenizer
from attncli.training.inputs import read_corpus, refuse_watching
from attncli.training.job import Job
from attncli.training.provenance import KEPT, STATE_FORMAT, TextRecord
from attncli.training.reports import Plan, RunState, plan_from_document
from attncli.training.tasks.registry import TrainingCorpus


def resume_job(
    target: Path,
    files: Sequence[str] = (),
    val_file: str | None = None,
    device: str = TrainConfig.device,
    progress: Listener | None = None,
    *,
    kind: InputKind | None = None,
    watch_heads: bool = False,
) -> Job:
    """Makes the job that resumes a stopped run, on the same text and with the same plan.

    Args:
        target: the run's directory, which the caller has locked.
        files: the files of the text or the pairs, if they were moved.
        val_file: the file of the validation text, if it was moved.
        device: the device to train on; 'auto' means the previous device of the run.
        progress: is called with the progress of reading and tokenizing.
        kind: the kind of `files`; None reads them as before.
        watch_heads: scores the attention heads at every evaluation, even if they were not scored before.

    Raises:
        BadCheckpoint: if every save is damaged or has no state, or if the text has changed.
        UsageProblem: for an unavailable device, or heads that cannot be watched.
    """
    saved, notes = _newest_good(target)
    if saved.run.get("format") != STATE_FORMAT:
        version = shown_value(_version(saved.run, "attncli"))
        raise BadCheckpoint(f"{target} was saved by attncli {version}, in another format.", "Use that version.")
    facts = {key: saved.run[key] for key in KEPT if key in saved.run}
    facts |= {"watch_heads": True} if watch_heads else {}
    known = record_from_json(TextRecord, saved.run["corpus"], f"{target / RUN}: corpus", extra=True)
    refuse_watching(known.kind, watch_heads=bool(facts.get("watch_heads")))
    corpus = _same_corpus(target, saved.tokenizer, known, files, kind, val_file, progress)
    plan, same = _on_device(plan_from_document(saved.run["plan"]), device)
    same = same and _version(saved.run, "torch") == torch.__version__
    if not same or torch.get_num_threads() < plan.threads:
        changed = "another device, another torch or fewer threads than before"
        notes = (*notes, f"{changed}: the weights are not bit-identical to those of an uninterrupted run")
    return Job(corpus, plan, facts, saved, notes=notes, borders=saved.borders, adaptation=saved.adaptation)


def _same_corpus(
    target: Path,
    tokenizer: Tokenizer,
    known: TextRecord,
    files: Sequence[str],
    kind: InputKind | None,
    val_file: str | None,
    progress: Listener | None,
) -> TrainingCorpus:
    """Reads the text of a stopped run again. Raises BadCheckpoint if the text has changed."""
    what = "text" if known.kind == "text" else "pairs"
    if STDIN in known.sources and not files:
        raise _needs_input(what, target, "-", "'-'")
    if known.val_file == STDIN and val_file is None:
        raise _needs_input(f"validation {what}", target, "--val-file -", "val_file='-'")
    if val_file is not None and not known.val_file:
        raise UsageProblem.naming(
            lambda named: (f"This run validates on a part of its {what}.", f"Leave {named('val_file')} out.")
        )
    val_file, given = val_file or known.val_file or None, files or known.sources
    kind = kind or known.kind
    if kind == "parallel" and len(given) != 2:
        raise UsageProblem.naming(
            lambda named: (
                f"This run trains on two parallel files, not on {len(given)}.",
                f"Give {named('source')} and {named('target')}, or {named('pairs')}.",
            )
        )
    if (kind == "text") == (known.kind == "text"):
        corpus, _ = read_corpus(given, val_file, kind, known.config, tokenizer, progress)
        if corpus.digest == known.digest:
            return corpus
    is_not = "text is not the one" if what == "text" else "pairs are not those"
    raise BadCheckpoint.naming(
        lambda named: (
            f"The {is_not} that {target} was trained on.",
            f"Give the same {what}, or train a new model under another {named('name')}.",
        )
    )


def _needs_input(what: str, target: Path, option: str, argument: str) -> UsageProblem:
    """Returns the error for a run whose text came from standard input and is not given again."""
    command = f"… | attncli train {option} --resume --out {target}"
    call = f"train({argument}, resume=True, out={str(target)!r})"
    return UsageProblem.naming(
        lambda named: (
            f"This run read its {what} from standard input, which is needed again.",
            f"Pipe the same {what.split()[-1]}: {hint_in(named, command, call)}",
        )
    )


def _on_device(plan: Plan, device: str) -> tuple[Plan, bool]:
    """Returns the plan for a device, and whether the run used this device before."""
    try:
        place = str(pick_device(plan.device if device == TrainConfig.device else device))
    except UsageProblem as problem:
        hint = "The run was on that device; give {} cpu to continue without it."
        texts = problem.texts
        raise UsageProblem.naming(lambda named: (texts(named)[0], hint.format(named("device")))) from None
    return replace(plan, device=place), place == plan.device


def _newest_good(target: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """Returns the last save of a run. If it is damaged, returns the previous save, and a note about the damage.

    Raises BadCheckpoint if there is no undamaged save.
    """
    if not exists(target):
        stopped = [entry.name for entry in stopped_runs()]
        raise BadCheckpoint.naming(lambda named: (f"There is no run to resume at {target}.", _instead(named, stopped)))
    try:
        return _read_saved(target), ()
    except BadCheckpoint as problem:
        if not exists(previous_of(target)) or _has_ended(target):
            raise
        with suppress(BadCheckpoint):  # read again, because a disk error may be temporary
            return _read_saved(target), ()
        saved = _read_saved(previous_of(target))
        fall_back(target)
        return saved, (f"{problem.message} Continuing from the previous save.",)


def _instead(named: Naming, stopped: Sequence[str]) -> str:
    """Returns a hint to begin a run, or to resume one of the `stopped` runs in ./checkpoints."""
    begin = f"To begin one, leave {named('resume')} out"
    if not stopped:
        return f"{begin}."
    command = hint_in(named, f"attncli train --resume --name {stopped[0]}", f"train(resume=True, name={stopped[0]!r})")
    return f"{begin}; to resume one of {', '.join(stopped)}: {command}."


def _read_saved(path: Path) -> Checkpoint:
    """Reads a save of a run to resume.

    Raises BadCheckpoint if its records are invalid. Records in the format of another version are not checked.
    """
    saved = read_resumable(path)
    if saved.run.get("format") != STATE_FORMAT:
        return saved
    run = path / RUN
    record_from_json(TextRecord, saved.run.get("corpus"), f"{run}: corpus", extra=True)
    if plan_from_document(saved.run.get("plan"), f"{run}: plan").model != saved.config:
        raise BadCheckpoint(f"{run}: the plan does not match {path / CONFIG}.", "Copy the directory again.")
    assert saved.state is not None
    record_from_json(RunState, saved.state.facts, str(path / STATE_FACTS))
    return saved


def _version(run: dict[str, Any], name: str) -> object:
    """Returns the version of a library that a run was made with, or None if run.json lacks it."""
    versions = run.get("versions")
    return versions.get(name) if isinstance(versions, dict) else None


def _has_ended(target: Path) -> bool:
    """Whether a run has finished, so that its last save has no state.

    A crash at the end of a run can leave the previous save in place. This save must not be resumed.
    """
    try:
        return not ModelFolder(target).holds(STATE_FACTS)
    except BadCheckpoint:
        return False
