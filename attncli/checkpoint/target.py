"""Chooses and locks the directory that a training run writes; refuses to replace other files. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attncli.checkpoint.atomic import aside_of, is_save, previous_of, settle
from attncli.checkpoint.catalog import MODELS_FOLDER, stopped_runs
from attncli.checkpoint.directory import STATE_FACTS, ModelFolder
from attncli.checkpoint.lock import lock
from attncli.errors import BadCheckpoint, UsageProblem, hint_in
from attncli.paths import exists, is_folder, is_link, look, real, resolved, unwritable


def target_directory(
    files: Sequence[str] = (), name: str | None = None, out: Path | None = None, *, resume: bool = False
) -> Path:
    """Returns the directory of a run: `out`, else `name` in ./checkpoints, else the first file's name in ./checkpoints.

    With `resume` and no other argument, returns the directory of the run that was stopped last. Resolves links.

    Raises:
        UsageProblem: if `name` and `out` are both given, the name is invalid, no file is given, or the directory is the
            working directory.
        BadCheckpoint: if there is no stopped run to resume.
    """
    target = resolved(_chosen(files, name, out, resume))
    if real(target) == real(Path()):
        raise UsageProblem.naming(
            lambda named: (
                f"{target} is the working directory, which a save would replace.",
                f"Give a directory in it, such as {named('out')} model; "
                f"or go up first: cd .. and {named('out')} {target.name}.",
            )
        )
    return target


def _chosen(files: Sequence[str], name: str | None, out: Path | None, resume: bool) -> Path:
    if name is not None and out is not None:
        raise UsageProblem.naming(
            lambda named: (f"{named('name')} and {named('out')} both name the model's directory.", "Give one of them.")
        )
    if out is not None:
        return out
    if name is not None:
        if not name or re.sub(r"[^\w.-]", "", name) != name or name.startswith("."):
            raise UsageProblem.naming(
                lambda named: (
                    f"{named('name')} {name!r} is not a plain name.",
                    f"Use letters, digits, '-', '_' and '.', or {named('out')} DIR.",
                )
            )
        return MODELS_FOLDER / name
    if files:
        first = Path(files[0]).absolute()
        stem = "stdin" if files[0] == "-" else first.name if is_folder(first) else first.stem
        return MODELS_FOLDER / (re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model")
    if not resume:
        raise UsageProblem("There is no text to train on.", "Give a file: attncli train corpus.txt")
    stopped = stopped_runs()
    if not stopped:
        raise BadCheckpoint.naming(
            lambda named: (
                f"There is no run to resume in ./{MODELS_FOLDER}.",
                f"If the run is elsewhere, name it with {named('name')} or {named('out')}.",
            )
        )
    return MODELS_FOLDER / max(stopped, key=lambda entry: entry.modified).name


@contextmanager
def claimed(target: Path, *, resume: bool = False, force: bool = False) -> Iterator[None]:
    """Locks a directory for a run, and restores the previous save if a crash left the directory missing.

    Raises BadCheckpoint if another run holds the lock. If the run is not resumed, also raises the errors of
    `refuse_taken`.
    """
    with lock(target):
        settle(target)
        _refuse_in_the_way(target)
        if not resume:
            refuse_taken(target, force)
        yield


def _refuse_in_the_way(target: Path) -> None:
    """Raises an error if the path of the previous save is used for something else, or if the name is too long."""
    try:
        aside_of(target, "previous").stat()
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise unwritable(target, problem) from None
    previous = previous_of(target)
    if is_link(previous) or (exists(previous) and not is_save(previous)):
        raise UsageProblem.naming(
            lambda named: (
                f"{previous} is not a save, and training would write the previous save there.",
                f"Move it away, or choose another {named('name')} or {named('out')}.",
            )
        )


def refuse_taken(target: Path, force: bool) -> None:
    """Raises UsageProblem if the directory cannot be replaced.

    A path that is not a directory, and a directory with files that do not belong to a model, are never replaced. A
    model is replaced only if `force` is true.
    """
    try:
        if look(target) is None or (is_folder(target) and not any(target.iterdir())):
            return
    except OSError as problem:
        raise unwritable(target, problem) from None
    if not is_folder(target):
        raise UsageProblem.naming(lambda named: (f"{target} is not a directory.", f"Choose another {named('out')}."))
    folder = ModelFolder(target)
    if foreign := folder.foreign():
        raise UsageProblem.naming(
            lambda named: (
                f"{target} holds {foreign[0]}, which is not a file of a model.",
                f"Choose another {named('name')} or {named('out')}.",
            )
        )
    if not force:
        resumable = folder.holds(STATE_FACTS)
        raise UsageProblem.naming(
            lambda named: (
                f"{target} exists.",
                hint_in(
                    named,
                    (f"Go on with it: {named('resume')}. " if resumable else "")
                    + f"Keep it: {named('name')} OTHER. Replace it: {named('force')}.",
                    ("Go on with it: resume=True. " if resumable else "")
                    + "Keep it: choose another name or out. Replace it: force=True.",
                ),
            )
        )
