"""Safe stat and open for an untrusted path, which may be unreadable, too long, a pipe, a device or a link.

Only regular files are opened, and at most their size is read: a pipe would block, and a device such as /dev/zero never
ends. Every failure is an OSError whose `strerror` says what is wrong. This module does not interpret
the content of a file.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from attncli.errors import COPY_AGAIN, BadCheckpoint, BadInput, OutOfRoom

_NONBLOCK, _NOFOLLOW = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)
_FLAGS = _NONBLOCK | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
}


def look(path: Path, follow: bool = True) -> os.stat_result | None:
    """Returns the stat result of a path, or None if the path does not exist or is not valid.

    Raises OSError if the path cannot be examined, for example without permission.
    """
    try:
        return path.stat(follow_symlinks=follow)
    except ValueError:  # a NUL, or half of a surrogate pair
        return None
    except OSError as problem:
        if problem.errno in _NOTHING_THERE:
            return None
        raise


def is_file(path: Path | str) -> bool:
    """Whether a path is a regular file; False when that cannot be determined."""
    return _is(stat.S_ISREG, path)


def is_folder(path: Path | str) -> bool:
    """Whether a path is a directory; False when that cannot be determined."""
    return _is(stat.S_ISDIR, path)


def exists(path: Path | str) -> bool:
    """Whether a path exists; False when that cannot be determined."""
    return _is(lambda _: True, path)


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link, even a dangling one; False when that cannot be determined."""
    return _is(stat.S_ISLNK, path, follow=False)


def _is(kind: Callable[[int], bool], path: Path | str, follow: bool = True) -> bool:
    try:
        status = look(Path(path), follow)
    except OSError:
        return False
    return status is not None and kind(status.st_mode)


def open_regular(path: Path, follow: bool = True) -> BufferedReader:
    """Opens a regular file for reading bytes. Raises OSError for any other path, and without `follow` for a link."""
    return os.fdopen(open_descriptor(path, os.O_RDONLY, follow=follow), "rb")


def open_descriptor(path: Path, flags: int, follow: bool = True) -> int:
    """Opens a regular file with `flags` as in os.open; returns its descriptor. Raises OSError for any other path."""
    try:
        handle = os.open(path, flags | _FLAGS | (0 if follow else _NOFOLLOW), 0o666)
    except ValueError as problem:
        raise OSError(errno.EINVAL, f"{problem}") from None
    except OSError as problem:
        if not follow and problem.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, which is not followed") from None
        raise
    try:
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'of another kind')}, not a regular file")
    except OSError:
        os.close(handle)
        raise
    return handle


def read_regular(path: Path, largest: int | None = None, follow: bool = True) -> bytes:
    """Returns the content of a regular file. Raises OSError for any other path, and for more than `largest` bytes."""
    with open_regular(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise OSError(errno.EFBIG, f"it is larger than {largest >> 20} MB, which is the limit for this file")
        return file.read(size)


def make_folder(path: Path) -> None:
    """Creates a directory and its parents unless they exist. Raises OSError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except ValueError as problem:
        raise OSError(errno.EINVAL, f"{problem}") from None


def remove(path: Path) -> None:
    """Removes a file or a directory tree. After an error, tries once more and ignores a second error."""
    for _ in range(2):
        with suppress(OSError):
            shutil.rmtree(path) if is_folder(path) and not is_link(path) else path.unlink(missing_ok=True)
            return


def resolved(path: Path) -> Path:
    """Returns the real path if the last component is a link, '.' or '..'; returns any other path unchanged.

    A save is written next to a model's directory and renamed to it, so the path must not be a link.
    """
    return real(path) if is_link(path) or path.name in ("", "..") else path


def real(path: Path) -> Path:
    """Returns the path with its links resolved; returns the path unchanged if it is not valid."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):  # the working directory was deleted, or the path is not valid
        return path


def refuse_lost_folder() -> None:
    """Raises BadInput if the working directory was deleted, since then relative paths fail and PyTorch crashes."""
    try:
        Path.cwd()
    except OSError as problem:
        raise BadInput(
            f"The working directory cannot be used: {reason(problem)}.",
            "It was deleted or moved: change to another directory.",
        ) from None


def reason(problem: OSError) -> str:
    """Returns the system's message for an error, or the name of the error's class if the error has no message."""
    return problem.strerror or str(problem) or type(problem).__name__


def unreadable(path: Path, problem: OSError) -> BadCheckpoint:
    """Returns the error for a file or a directory of a model that cannot be read."""
    permission = problem.errno in (errno.EACCES, errno.EPERM)
    hint = "Check its permissions." if permission else COPY_AGAIN
    return BadCheckpoint(f"{path} cannot be read: {reason(problem)}.", hint)


def unwritable(path: Path, problem: OSError, needed: int = 0) -> OutOfRoom:
    """Returns the error for a model directory of `needed` bytes that cannot be written."""
    if problem.errno not in NO_ROOM:
        return _elsewhere(f"{path} cannot be written: {reason(problem)}.", "Choose")
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        why = f" ({reason(problem)})" if free >= needed else ""  # the reason is a quota, or a limit of the process
        return no_room(path, needed, free, why)
    return _elsewhere(f"No room for {path}: {reason(problem)}.", "Choose")


def no_room(path: Path, needed: int, free: int, why: str = "") -> OutOfRoom:
    """Returns the error for a model directory that does not fit on its disk."""
    message = f"No room for {path}: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free{why}."
    return _elsewhere(message, "Free some space, or choose")


def _elsewhere(message: str, choose: str) -> OutOfRoom:
    return OutOfRoom.naming(lambda name: (message, f"{choose} another directory with {name('out')}."))
