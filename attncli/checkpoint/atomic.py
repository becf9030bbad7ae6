"""Replaces a model directory atomically, so that a crash or a full disk never loses the previous save.

A save is written to a new directory beside the target, `.NAME.writing-PID`, and flushed to the disk. `swap` then
renames the target to `.NAME.previous` and the new directory to the target. After a crash between the two renames, the
target is missing: `present` returns the previous save, and `settle` renames it back to the target. A reader sees either
the old or the new save, never a mixture. No torch.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from pathlib import Path

from attncli.checkpoint.directory import ADAPTER_CONFIG, CONFIG, MANIFEST, file_status
from attncli.paths import is_file, is_folder, is_link, look, remove, resolved, unwritable

_PREVIOUS = ".previous"
_UNFINISHED = re.compile(r"\.writing-(\d+|damaged|previous)\Z")


def previous_of(target: Path) -> Path:
    """Returns the path of the previous save, which is kept until the run has finished."""
    target = resolved(target)
    return target.parent / f".{target.name}{_PREVIOUS}"


def aside_of(target: Path, what: str) -> Path:
    """Returns a temporary path beside the target; `what` is a part of its name.

    After a crash, the next save deletes the directory at this path.
    """
    return target.parent / f".{target.name}.writing-{what}"


def model_name_of(path: Path) -> str:
    """Returns the model's name from the path of its directory or previous save: '.stories.previous' -> 'stories'."""
    is_previous = path.name.startswith(".") and path.name.endswith(_PREVIOUS)
    return path.name[1 : -len(_PREVIOUS)] if is_previous else path.name


def is_save(path: Path) -> bool:
    """Whether this directory is a save of attncli: it contains a manifest and the config of a model or an adapter."""
    kinds = (CONFIG, ADAPTER_CONFIG)
    return is_folder(path) and is_file(path / MANIFEST) and any(is_file(path / name) for name in kinds)


def present(path: Path) -> Path | None:
    """Returns the directory, or its previous save if the directory is missing, or None if neither exists.

    Also returns None if the path is not a directory. Raises BadCheckpoint if the path cannot be looked up, for example
    without permission.
    """
    status = file_status(path)
    if status is not None:
        return path if stat.S_ISDIR(status.st_mode) else None
    previous = previous_of(path)
    return previous if path.name and is_save(previous) else None


def settle(target: Path) -> None:
    """Renames the previous save to the target if a crash between two renames left the target missing.

    The caller holds the lock. Raises OutOfRoom if the folder cannot be written.
    """
    target = resolved(target)
    previous = previous_of(target)
    try:
        if look(target) is None and is_save(previous):
            previous.rename(target)
    except OSError as problem:
        raise unwritable(target, problem) from None


def swap(folder: Path, target: Path) -> None:
    """Replaces the target by the complete directory `folder`. The old target becomes the previous save.

    `folder` must have been flushed to the disk. Raises OSError.
    """
    if target.exists():
        discard_previous(target)
        target.rename(previous_of(target))
    folder.rename(target)
    flush_folder(target.parent)


def discard_previous(target: Path) -> None:
    """Removes the previous save. Renames it first, so that a crash never leaves an incomplete directory at its path.

    Raises OSError if something other than a save is at this path, or if the save cannot be renamed.
    """
    previous, aside = previous_of(target), aside_of(target, "previous")
    if look(previous, follow=False) is None:
        return
    if is_link(previous) or not is_save(previous):
        raise OSError(errno.EEXIST, f"{previous} has the name of the previous save, and is not a save")
    previous.rename(aside)
    remove(aside)


def remove_unfinished(target: Path) -> None:
    """Removes the incomplete directories of interrupted saves of the target."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.writing-*"):
        if _UNFINISHED.search(left.name):
            remove(left)


def write_flushed(path: Path, data: bytes) -> None:
    """Writes a new file and flushes it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flushes the entries of a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
