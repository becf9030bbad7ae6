"""native.c of this folder made into a library for this machine's processor: once, and kept.

Owns finding a C compiler, the library's place, and starting the compiler early, so that it works while PyTorch is still
being imported. No torch. Without a compiler there is no library, and the network runs as PyTorch runs it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from attncli import stopping
from attncli.folders import cache_folder

_SOURCE = Path(__file__).with_name("native.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")
_LIBRARIES = ("-lm", "-lpthread")
_SECONDS = 120.0


@cache
def begin() -> _Compilation | None:
    """Starts the compiler, where the library is not there yet; None without a compiler or when ATTNCLI_NATIVE is 0."""
    compiler = _compiler()
    if compiler is None or os.environ.get("ATTNCLI_NATIVE") == "0":
        return None
    try:
        folder = cache_folder() / "native"
    except RuntimeError:  # a user without a home
        return None
    return _Compilation(compiler, folder, _key(compiler))


def compiling() -> bool:
    """Whether the library has to be waited for."""
    begun = begin()
    return begun is not None and begun.running


@cache
def library() -> Path | None:
    """The library, after waiting for its compiler where that is needed; None where there can be none."""
    begun = begin()
    return begun.result() if begun else None


class _Compilation:
    """A library that is there, or a compiler at work on it."""

    def __init__(self, compiler: list[str], folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._unfinished = folder / f"{key}.{secrets.token_hex(8)}.tmp"
        self._process: subprocess.Popen[bytes] | None = None
        self._found = _whole(folder, key)
        if self._found is not None:
            return
        command = [*compiler, *_FLAGS, "-o", str(self._unfinished), str(_SOURCE), *_LIBRARIES]
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(folder):
                return
            _sweep(folder)
            self._unfinished.touch(mode=0o700)  # before work that would be for nothing
            none = subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=none, stdout=none, stderr=none, process_group=0)
            atexit.register(self._give_up)
            stopping.register(self._give_up)
        except OSError:  # nowhere to write, or no such compiler
            self._give_up()

    @property
    def running(self) -> bool:
        """Whether the compiler is still at work."""
        return self._process is not None and self._process.poll() is None

    def result(self) -> Path | None:
        """The library's place once it is there; None when the compiler failed."""
        if self._process is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._process.wait(_SECONDS)
            self._give_up()
        return self._found

    def _give_up(self) -> None:
        """Keeps what is finished, and leaves neither a process nor a file."""
        atexit.unregister(self._give_up)
        stopping.unregister(self._give_up)
        if self._process is not None:
            with suppress(OSError):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGTERM)  # with what it started
                elif self._process.returncode == 0:
                    self._unfinished.chmod(0o700)
                    place = self._folder / f"{self._key}.{_digest(self._unfinished)}.so"
                    self._unfinished.replace(place)
                    self._found = place
            self._process.wait()
            self._process = None
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _whole(folder: Path, key: str) -> Path | None:
    """A library that was kept, and is as it was made, as its name tells: one cut short could end the process.

    Only this user can have put it there: what is loaded runs.
    """
    with suppress(OSError):
        for path in folder.glob(f"{key}.*.so"):
            if _is_ours(folder) and _is_ours(path) and path.name == f"{key}.{_digest(path)}.so":
                return path
            path.unlink()
    return None


def _is_ours(path: Path) -> bool:
    """Whether it belongs to this user and nobody else can write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed left behind."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * _SECONDS:
                path.unlink()


def _compiler() -> list[str] | None:
    """What CC says, else the first C compiler there is."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quote without its end
        return None
    if named:
        return named if shutil.which(named[0]) else None
    found = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    return None if found is None else [found]


def _key(compiler: list[str]) -> str:
    """Of everything that the library depends on: its source, how it is made, and for which processor."""
    processor = f"{os.uname().sysname} {os.uname().machine}"
    with suppress(OSError):  # elsewhere than on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    parts = (_SOURCE.read_bytes(), repr((compiler, _FLAGS, processor)).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]
