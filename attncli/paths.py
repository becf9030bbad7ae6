"""Looking at a path, and opening a file, where both may be anything: unreadable, too long, a pipe, a device, a link.

Owns the rule that a file is opened only when it is a regular one, and read no further than its size: a pipe blocks, and
a device such as /dev/zero never ends. Every problem is an OSError that says what is wrong in `strerror`. Knows nothing
of what the files hold.
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

from attncli.errors import BadCheckpoint, BadInput, OutOfRoom

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
    """What stands at a path, or None for nothing, also where the path is one that nothing can have.

    Raises OSError when that cannot be known, such as for want of permission.
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
    """Whether a regular file is known to stand at a path; False where that cannot be known."""
    return _is(stat.S_ISREG, path)


def is_folder(path: Path | str) -> bool:
    """Whether a directory is known to stand at a path; False where that cannot be known."""
    return _is(stat.S_ISDIR, path)


def exists(path: Path | str) -> bool:
    """Whether anything is known to stand at a path; False where that cannot be known."""
    return _is(lambda _: True, path)


def is_link(path: Path) -> bool:
    """Whether a link is known to stand at a path, even one that leads nowhere; False where that cannot be known."""
    return _is(stat.S_ISLNK, path, follow=False)


def _is(kind: Callable[[int], bool], path: Path | str, follow: bool = True) -> bool:
    try:
        found = look(Path(path), follow)
    except OSError:
        return False
    return found is not None and kind(found.st_mode)


def open_regular(path: Path, follow: bool = True) -> BufferedReader:
    """Opens a regular file to read bytes from. Raises OSError for anything else, and unless told to `follow` a link."""
    return os.fdopen(open_descriptor(path, os.O_RDONLY, follow=follow), "rb")


def open_descriptor(path: Path, flags: int, follow: bool = True) -> int:
    """The descriptor of a regular file, opened with `flags`. Raises OSError for anything else."""
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
    """The content of a regular file, of at most `largest` bytes. Raises OSError."""
    with open_regular(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise OSError(errno.EFBIG, f"it is larger than {largest >> 20} MB, too large for what it should hold")
        return file.read(size)


def make_folder(path: Path) -> None:
    """Makes a directory, and those above it, where there is none. Raises OSError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except ValueError as problem:
        raise OSError(errno.EINVAL, f"{problem}") from None


def remove(path: Path) -> None:
    """Removes a file, or a directory with all in it, as far as the system allows; what fails is tried once more."""
    for _ in range(2):
        with suppress(OSError):
            shutil.rmtree(path) if is_folder(path) and not is_link(path) else path.unlink(missing_ok=True)
            return


def resolved(path: Path) -> Path:
    """Where a directory really lies whose last part is a link, '.' or '..'; any other path as it is.

    What is written beside a directory, and renamed to it, belongs beside where it lies.
    """
    return real(path) if is_link(path) or path.name in ("", "..") else path


def real(path: Path) -> Path:
    """The path without links, as far as they can be followed."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):  # the working directory is gone, or it is none that a file can have
        return path


def refuse_lost_folder() -> None:
    """Raises BadInput when the working directory was deleted: no name leads anywhere, and PyTorch ends the process."""
    try:
        Path.cwd()
    except OSError as problem:
        raise BadInput(
            f"The working directory cannot be used: {reason(problem)}.", "It was deleted or moved: cd to another."
        ) from None


def reason(problem: OSError) -> str:
    """Why the system refused, in its own words; never empty."""
    return problem.strerror or str(problem) or type(problem).__name__


def unreadable(path: Path, problem: OSError) -> BadCheckpoint:
    """The error for a file or a directory of a model that cannot be read."""
    permission = problem.errno in (errno.EACCES, errno.EPERM)
    hint = "Check its permissions." if permission else "Copy it again from its source."
    return BadCheckpoint(f"{path} cannot be read: {reason(problem)}.", hint)


def unwritable(path: Path, problem: OSError, needed: int = 0) -> OutOfRoom:
    """The error for a directory of a model that cannot be written, which takes so many bytes."""
    if problem.errno not in NO_ROOM:
        return OutOfRoom(f"{path} cannot be written: {reason(problem)}.", "Choose another place with --out.")
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        why = f" ({reason(problem)})" if free >= needed else ""  # a quota, or a limit of the process
        return no_room(path, needed, free, why)
    return OutOfRoom(f"No room for {path}: {reason(problem)}.", "Choose another place with --out.")


def no_room(path: Path, needed: int, free: int, why: str = "") -> OutOfRoom:
    """The error for a directory of a model that does not fit its disk."""
    return OutOfRoom(
        f"No room for {path}: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free{why}.",
        "Free some space, or choose another place with --out.",
    )
