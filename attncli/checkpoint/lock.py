"""Locks a model directory, so that two runs never write it. A run locks the file `.NAME.lock` beside the directory.

The operating system releases the lock when the process ends, even after a crash, so a leftover file locks nothing. The
file contains the owner's process id. Links are not followed, because in a folder that other users can write, a link
could point to any file. No torch.

The package `filelock` would lock on every system, too. But its releases before 4 empty the file at each attempt, which
removes the owner's process id; a lock cannot be queried without permission to write; and its import would add 30 ms to
`attncli models`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attncli.errors import BadCheckpoint
from attncli.paths import look, make_folder, open_descriptor, open_regular, remove, resolved, unwritable
from attncli.stopping import CleanUp

_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # another process holds the lock
_TRIES = 100
_LONGEST_ID = 20  # the largest number of digits in a process id
_FAR = 1 << 30  # the offset of the byte to lock on Windows, beyond the process id


def lock_of(target: Path) -> Path:
    """Returns the path of a directory's lock file."""
    target = resolved(target)
    return target.parent / f".{target.name}.lock"


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Locks a directory for the duration of the block.

    If another process holds the lock, raises BadCheckpoint with the owner's process id. Raises OutOfRoom if the lock
    file cannot be written.
    """
    path = lock_of(target)
    handle = _acquire(target, path)
    try:
        try:
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        except OSError as problem:
            raise unwritable(target, problem) from None
        with CleanUp(lambda: remove(path)):
            yield
    finally:
        remove(path)  # a file that cannot be removed locks nothing
        _close(handle)


def _acquire(target: Path, path: Path) -> int:
    """Opens and locks a lock file, creating it if necessary. Returns its descriptor. Raises as `lock` does."""
    handle, new = None, False
    try:
        make_folder(path.parent)
        new = look(path, follow=False) is None
        handle = open_descriptor(path, os.O_RDWR | os.O_CREAT, follow=False)
        owner = _take(target, handle)
    except OSError as problem:
        if new:
            remove(path)
        if handle is not None:
            _close(handle)
        raise unwritable(target, problem) from None
    if owner is not None:
        _close(handle)
        raise BadCheckpoint.naming(
            lambda named: (
                f"{target} is being trained by another run (process {owner}).",
                f"Wait until that run ends, or choose another {named('name')}.",
            )
        )
    return handle


def _close(handle: int) -> None:
    with suppress(OSError):
        os.close(handle)


def _take(target: Path, handle: int) -> str | None:
    """Locks an open lock file. Returns None on success, else the process id of the lock's owner. Raises OSError."""
    try:
        _hold_alone(target, handle)
    except OSError as problem:
        if problem.errno not in _HELD:
            raise
        owner = os.read(handle, _LONGEST_ID).strip()
        return owner.decode() if owner.isdigit() else "unknown"
    return "unknown, which ended just now: try again" if os.fstat(handle).st_nlink == 0 else None


def _hold_alone(target: Path, handle: int) -> None:
    """Locks an open lock file. Retries, because `is_held` in another process briefly locks the file."""
    for _ in range(_TRIES):
        try:
            _hold(handle)
            return
        except OSError as problem:
            if problem.errno not in _HELD or is_held(target):
                raise
    _hold(handle)


def is_held(target: Path) -> bool:
    """Whether a run holds the lock of a model directory."""
    try:
        with open_regular(lock_of(target), follow=False) as file:
            _hold(file.fileno(), shared=True)
    except OSError as problem:
        return problem.errno in _HELD
    return False


def _hold(handle: int, shared: bool = False) -> None:
    """Locks an open file until the file is closed. A `shared` lock admits other shared locks. Raises OSError."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
