"""Stores compiled libraries in a folder.

A loaded library can run any code, so no other user may be able to change its file. A library is stored only if this
user and root alone can write to the folder and all its parents. Otherwise, each process compiles into a private
temporary folder. The file name contains the digest of the content, so a truncated or changed file is noticed. The
checked file is loaded through its open descriptor (if the system has paths for descriptors), so replacing the file
after the check has no effect. No torch.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attncli import stopping
from attncli.folders import exposed, only_ours

_LARGEST = 1 << 26  # the largest file to read, in bytes
_TEMPORARY_PREFIX = "attncli-native-"
_UNFINISHED = re.compile("[0-9a-f]{32}[.][0-9a-f]{16}[.]tmp")  # the name of a compiler's output file


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled library: `path` is its file, and `name` is a path that opens exactly the checked file."""

    path: Path
    name: str


def usable_folder(folder: Path, stale_seconds: float) -> tuple[Path, str]:
    """Returns the folder to store libraries in, and a note, which is empty unless the folder is temporary.

    The result is `folder`, or a private temporary folder if other users can write to `folder`. Creates the folder.
    Removes temporary folders of killed processes that are older than `stale_seconds`. Raises OSError if neither folder
    can be used.
    """
    folder = folder.parent.resolve() / folder.name  # the folder itself must not be a link
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)
    other = exposed(folder)
    if other is None:
        return folder, ""
    for left in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if age(left) > stale_seconds and exposed(left) is None:
                shutil.rmtree(left, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX)).resolve()
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    stopping.register(lambda: shutil.rmtree(private, ignore_errors=True))
    if exposed(private) is not None:
        raise PermissionError(errno.EACCES, f"others can write to {other}, and to {tempfile.gettempdir()}")
    why = f"{other} is a link, or others can write to it (chmod go-w, or set ATTNCLI_CACHE)"
    return private, f"compiled anew each time: {why}"


def remove_unfinished(folder: Path, stale_seconds: float) -> None:
    """Removes the compiler output of killed processes that is older than `stale_seconds`."""
    for path in folder.iterdir():
        with suppress(OSError):
            if _UNFINISHED.fullmatch(path.name) and age(path) > stale_seconds:
                path.unlink()


def stored_library(folder: Path, key: str) -> Library | None:
    """Returns the stored library with this key, or None.

    Removes files with this key that fail the check, because a damaged library could crash the process.
    """
    for path in folder.glob(f"{key}.*.so"):
        library = checked_library(path)
        if library is not None:
            return library
        path.unlink(missing_ok=True)
    return None


def store_library(unfinished: Path, folder: Path, key: str) -> Library | None:
    """Renames the compiler's finished file to a name with key and digest, and returns its library. Raises OSError."""
    unfinished.chmod(0o700)
    path = folder / f"{key}.{digest(unfinished.read_bytes())}.so"
    unfinished.replace(path)
    return checked_library(path)


def checked_library(path: Path) -> Library | None:
    """Returns the library in a file, or None if the file fails the check.

    A file fails if another user could have written it, or if its name does not contain its digest. The descriptor stays
    open until the process ends, so that exactly the checked file is loaded.
    """
    with suppress(OSError):
        with open_trusted(path) as (descriptor, content):
            if path.name.split(".")[-2] != digest(content):
                return None
            by_descriptor = Path(f"/proc/self/fd/{os.dup(descriptor)}")
        return Library(path, str(by_descriptor if by_descriptor.exists() else path))
    return None


@contextmanager
def open_trusted(path: Path) -> Iterator[tuple[int, bytes]]:
    """Opens a file and yields its descriptor and content.

    Raises OSError unless it is a regular file that only this user and root can write.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # called only on POSIX
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not only_ours(status) or status.st_size > _LARGEST:
            raise PermissionError(errno.EACCES, "another user could have written the file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield descriptor, file.read(_LARGEST)
    finally:
        os.close(descriptor)


def digest(content: bytes) -> str:
    """Returns the digest in a library's file name: a part of the SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()[:32]


def age(path: Path) -> float:
    """Returns the seconds since a file or folder was last modified."""
    return time.time() - path.lstat().st_mtime
