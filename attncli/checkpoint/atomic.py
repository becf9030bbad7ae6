"""Replaces a model directory atomically, so that a crash or a full disk never loses the save before.

A save is written to a directory of its own beside the target, `.NAME.writing-PID`, and flushed to the disk. `swap` then
renames the target to `.NAME.previous` and the new directory to the target. A crash between the two renames leaves only
the previous save; `present` reads it then, and `settle` puts it back. A reader sees one save or the other, never a
mixture. No torch.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from pathlib import Path

from attncli.checkpoint.directory import CONFIG, MANIFEST, file_status
from attncli.paths import is_file, is_folder, is_link, look, remove, resolved, unwritable

_PREVIOUS = ".previous"
_UNFINISHED = re.compile(r"\.writing-(\d+|damaged|previous)\Z")


def previous_of(target: Path) -> Path:
    """Where the previous save is kept while a run goes on."""
    target = resolved(target)
    return target.parent / f".{target.name}{_PREVIOUS}"


def aside_of(target: Path, what: str) -> Path:
    """A place beside a directory for what is no complete save; the next save removes what a crash leaves there."""
    return target.parent / f".{target.name}.writing-{what}"


def model_name_of(path: Path) -> str:
    """The name of the model whose directory, or whose previous save, lies at this path."""
    is_previous = path.name.startswith(".") and path.name.endswith(_PREVIOUS)
    return path.name[1 : -len(_PREVIOUS)] if is_previous else path.name


def is_save(path: Path) -> bool:
    """Whether a directory was written by a save of attncli, and not by somebody else under the same name."""
    return is_folder(path) and all(is_file(path / name) for name in (MANIFEST, CONFIG))


def present(path: Path) -> Path | None:
    """The directory itself, or the previous save while the directory is missing, or None.

    Raises BadCheckpoint when it cannot be known what is there.
    """
    status = file_status(path)
    if status is not None:
        return path if stat.S_ISDIR(status.st_mode) else None
    previous = previous_of(path)
    return previous if path.name and is_save(previous) else None


def settle(target: Path) -> None:
    """Puts the previous save back where a crash between two renames left the target missing. The lock is held.

    Raises OutOfRoom when the folder cannot be written.
    """
    target = resolved(target)
    previous = previous_of(target)
    try:
        if look(target) is None and is_save(previous):
            previous.rename(target)
    except OSError as problem:
        raise unwritable(target, problem) from None


def swap(folder: Path, target: Path) -> None:
    """Puts a directory that is written and flushed in the place of the target, which becomes the previous save.

    Raises OSError.
    """
    if target.exists():
        discard_previous(target)
        target.rename(previous_of(target))
    folder.rename(target)
    flush_folder(target.parent)


def discard_previous(target: Path) -> None:
    """Removes the previous save. It is renamed first: whatever has its name is a complete save.

    Raises OSError, also for something under that name that is no save.
    """
    previous, aside = previous_of(target), aside_of(target, "previous")
    if look(previous, follow=False) is None:
        return
    if is_link(previous) or not is_save(previous):
        raise OSError(errno.EEXIST, f"{previous} stands in the way, and is no save of it")
    previous.rename(aside)
    remove(aside)


def remove_unfinished(target: Path) -> None:
    """Removes what earlier saves of the target left when they were interrupted."""
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
    """Flushes the entries of a directory to the disk: the names of the files in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
