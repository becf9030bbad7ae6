"""The lock that keeps a second run off a model directory: `.NAME.lock` beside it, held open and locked by the run.

The system lets go of the lock when its process ends, however that ends, so a file that was left over locks nothing. The
file holds the process id of the owner. Links are not followed: in a folder that others can write, one could lead
anywhere. No torch.
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

_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # by another process
_TRIES = 100
_LONGEST_ID = 20  # digits of a process id
_FAR = 1 << 30  # bytes: on Windows a byte is locked, one that nobody reads


def lock_of(target: Path) -> Path:
    """The file that a training run on this directory holds locked."""
    target = resolved(target)
    return target.parent / f".{target.name}.lock"


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Holds a model directory against a second run. Raises BadCheckpoint with the owner's process id, or OutOfRoom."""
    path, new = lock_of(target), False
    try:
        make_folder(path.parent)
        new = look(path, follow=False) is None
        handle = open_descriptor(path, os.O_RDWR | os.O_CREAT, follow=False)
    except OSError as problem:
        if new:
            remove(path)
        raise unwritable(target, problem) from None
    try:
        try:
            owner = _take(target, handle)
        except OSError as problem:
            if new:
                remove(path)
            raise unwritable(target, problem) from None
        if owner is not None:
            raise BadCheckpoint(
                f"{target} is being trained by another run (process {owner}).",
                "Wait for it, or train under another --name.",
            )
        try:
            try:
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
            except OSError as problem:
                raise unwritable(target, problem) from None
            with CleanUp(lambda: remove(path)):
                yield
        finally:
            remove(path)  # one that stays locks nothing
    finally:
        with suppress(OSError):
            os.close(handle)


def _take(target: Path, handle: int) -> str | None:
    """Locks the open file of a lock; returns the process that holds it instead, if one does. Raises OSError."""
    try:
        _hold_alone(target, handle)
    except OSError as problem:
        if problem.errno not in _HELD:
            raise
        owner = os.read(handle, _LONGEST_ID).strip()
        return owner.decode() if owner.isdigit() else "unknown"
    return "unknown, which ended just now: try again" if os.fstat(handle).st_nlink == 0 else None


def _hold_alone(target: Path, handle: int) -> None:
    """Locks the open file of a lock; `is_held` of other processes, which lock it for a moment too, are waited out."""
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
    """Locks an open file until it is closed, `shared` with others that do the same. Raises OSError."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
