"""Finds the compiled libraries of native.c and training.c: in the wheel, or compiled for this processor and stored.

`native` is the library that generates, and `training` has the operations of a training step (`kernels`).

An installed wheel has libraries (`wheel_library`), and then nothing is compiled. Otherwise, `begin` starts the
compiler as a child process, so that it runs while PyTorch is imported; `library` waits for it. The key of a stored
library covers everything that its machine code depends on: the source, the compiler, the flags, the processor. Without
a compiler, there is no library, and PyTorch runs the network. After a failure, the compiler is not started again for a
day. `library_store` manages the folder and decides which files are trusted. No torch.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attncli import stopping
from attncli.folders import cache_folder
from attncli.model.library_store import (
    Library,
    age,
    open_trusted,
    remove_unfinished,
    store_library,
    stored_library,
    usable_folder,
)
from attncli.model.wheel_library import FLAGS, HEADER, LIBRARIES, SOURCES, best_library

_COMPILERS = ("cc", "gcc", "clang")
_PROCESSOR_FLAGS = ("-march=native", "-mcpu=native")  # the first that the compiler accepts is used
_SECONDS = 120.0  # the time limit of a compiler
_RETRY_SECONDS = 86400.0  # after a failure; by then its cause may be gone, such as a missing header
_MOST_OUTPUT, _LONGEST_SHOWN = 1 << 16, 200  # bytes of a compiler's output to read; characters to show
_PROBE_SECONDS = 10.0
_STOP_SECONDS = 0.3  # a compiler that still runs this long after SIGTERM is killed


def begin(name: str = "native") -> _Compilation | None:
    """Returns a stored library, or a compilation of it that this call starts.

    Returns None if the wheel has the library, if there is no compiler, or if ATTNCLI_NATIVE is 0.
    """
    return _begun(name)


@cache
def _begun(name: str) -> _Compilation | None:
    if os.environ.get("ATTNCLI_NATIVE") == "0" or _in_wheel(name) is not None or os.name != "posix":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        folder = cache_folder() / "native"
    except RuntimeError:  # a user without a home directory
        return None
    return _Compilation(compiler, folder, _key(compiler, name), name)


def compiling(name: str = "native") -> bool:
    """Whether the compiler is still running; `library` would wait for it."""
    compilation = begin(name)
    return compilation is not None and compilation.running


def library(name: str = "native") -> Library | None:
    """Returns the library of the wheel or the compiled one, or None. Waits for the compiler if it runs."""
    return _found(name)


@cache
def _found(name: str) -> Library | None:
    if os.environ.get("ATTNCLI_NATIVE") == "0":
        return None
    found = _in_wheel(name) or begin(name)
    return found.result() if found else None


def refuse(why: object, name: str = "native") -> None:
    """Records why a library cannot be loaded."""
    found = _in_wheel(name) or begin(name)
    if found is not None:
        found.problem = f"the compiled library cannot be loaded: {why}"


@dataclass
class _InWheel:
    """A library of an installed wheel, which is as trusted as the other files of the wheel."""

    path: Path
    problem: str = ""

    def result(self) -> Library:
        return Library(self.path, str(self.path))


@cache
def _in_wheel(name: str) -> _InWheel | None:
    path = best_library(name)
    return None if path is None else _InWheel(path)


def problem(name: str = "native") -> str:
    """Returns the reason why there is no library or why it cannot be stored.

    The reason is empty if there is no problem or if ATTNCLI_NATIVE is 0.
    """
    if os.environ.get("ATTNCLI_NATIVE") == "0":
        return ""
    found = _in_wheel(name) or begin(name)
    if found is not None:
        return found.problem
    if _compiler() is not None:
        return "there is no home folder to store it in (set ATTNCLI_CACHE)"
    named = os.environ.get("CC")
    return f"CC={named} is no compiler" if named else f"there is no C compiler ({', '.join(_COMPILERS)})"


class _Compilation:
    """The stored library, or the running compiler that creates it."""

    def __init__(self, compiler: list[str], folder: Path, key: str, name: str = "native") -> None:
        self.problem = ""
        self._compiler, self._key, self._source = compiler, key, SOURCES[name]
        self._process: subprocess.Popen[bytes] | None = None
        self._output = -1  # the descriptor of a file with the compiler's standard error
        self._library: Library | None = None
        try:
            self._folder, self.problem = usable_folder(folder, 2 * _SECONDS)
            self._failure = self._folder / f"{key}.failed"
            remove_unfinished(self._folder, 2 * _SECONDS)
            self._library = stored_library(self._folder, key)
            if self._library is None and not self._failed_before():
                self._start()
        except (OSError, RuntimeError) as problem:  # the folder cannot be written, or its links form a cycle
            self.problem = f"it cannot be stored in {folder}: {getattr(problem, 'strerror', None) or problem}"

    @property
    def running(self) -> bool:
        """Whether the compiler is still running."""
        return self._process is not None and self._process.poll() is None

    def result(self) -> Library | None:
        """Waits for the compiler and returns the library; None if it failed (`problem` says why)."""
        if self._process is None:
            return self._library
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_SECONDS)
        try:
            if code == 0:
                self._library = store_library(self._unfinished, self._folder, self._key)
            elif code is None:
                self._fail(f"has not finished after {_SECONDS:.0f} seconds")
            else:
                self._fail(f"fails: {self._first_error() or f'exit code {code}'}", remembered=code > 0)
        except OSError as problem:
            self.problem = f"it cannot be stored in {self._folder}: {problem.strerror}"
        self._stop()
        return self._library

    def _start(self) -> None:
        self._unfinished = self._folder / f"{self._key}.{secrets.token_hex(8)}.tmp"
        self._unfinished.touch(mode=0o700)  # fails here, before any work, if the folder cannot be written
        atexit.register(self._stop)
        stopping.register(self._stop)
        flags = (*_processor_flags(self._compiler), *FLAGS, "-o", str(self._unfinished), str(self._source), *LIBRARIES)
        null = subprocess.DEVNULL
        try:
            self._output, name = tempfile.mkstemp()
            Path(name).unlink()
            self._process = subprocess.Popen(
                [*self._compiler, *flags], stdin=null, stdout=null, stderr=self._output, process_group=0
            )
        except OSError as problem:
            self._stop()
            self.problem = f"{self._compiler[0]} cannot be started: {problem.strerror}"

    def _fail(self, why: str, *, remembered: bool = True) -> None:
        """Records why there is no library.

        With `remembered`, the reason is also stored, so later processes do not compile.
        """
        self.problem = f"{self._compiler[0]} {why}"
        if remembered:
            self._failure.unlink(missing_ok=True)
            self._failure.touch(mode=0o600, exist_ok=False)
            self._failure.write_text(self.problem, encoding="utf-8", errors="replace")

    def _failed_before(self) -> bool:
        """Whether this compiler failed on this source within the last day."""
        with suppress(OSError):
            if age(self._failure) < _RETRY_SECONDS:
                with open_trusted(self._failure) as (_, content):
                    told = content.decode(errors="replace")
                    self.problem = f"{told} (compiled again after a day, or after {self._failure} is deleted)"
                return True
        return False

    def _first_error(self) -> str:
        """Returns the first line of the compiler's output that contains an error, else the last line of the output."""
        output = os.pread(self._output, _MOST_OUTPUT, 0).decode(errors="replace")
        lines = [line.strip() for line in output.splitlines()]
        errors = [line for line in lines if "error" in line.lower()]
        shown = errors[:1] or [line for line in lines if line][-1:]
        return "".join(shown)[:_LONGEST_SHOWN]

    def _stop(self) -> None:
        """Ends the compiler and removes its unfinished file.

        After a signal, a second thread may call this while the main thread still waits for the compiler. Each call
        therefore does all of the work itself, and stays registered until the work is done.
        """
        process = self._process
        if process is not None:
            for kind in (signal.SIGTERM, signal.SIGKILL):
                with suppress(OSError, subprocess.TimeoutExpired):
                    if process.poll() is None:
                        os.killpg(process.pid, kind)  # the compiler and the processes that it started
                    process.wait(_STOP_SECONDS)
            self._process = None
        output, self._output = self._output, -1
        with suppress(OSError):
            os.close(output)
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)
        atexit.unregister(self._stop)
        stopping.unregister(self._stop)


def _compiler() -> list[str] | None:
    """Returns the command in CC, else the first C compiler on the path; None if there is none."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an unclosed quote
        return None
    if named:
        return named if shutil.which(named[0]) else None
    path = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    return None if path is None else [path]


def _processor_flags(compiler: list[str]) -> list[str]:
    """Returns the flag that enables every instruction of this processor; empty if the compiler accepts no such flag."""
    null = subprocess.DEVNULL
    for flag in _PROCESSOR_FLAGS:
        with suppress(OSError, subprocess.TimeoutExpired):
            probe = [*compiler, flag, "-fsyntax-only", "-x", "c", os.devnull]
            if subprocess.run(probe, stdin=null, stdout=null, stderr=null, timeout=_PROBE_SECONDS).returncode == 0:
                return [flag]
    return []


def _key(compiler: list[str], name: str = "native") -> str:
    """Returns the key of the library: a digest of source, compiler, flags and processor, which determine its code."""
    processor = f"{sys.platform} {platform.machine()}"
    with suppress(OSError):  # the file exists only on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    with suppress(OSError):
        program = Path(shutil.which(compiler[0]) or compiler[0]).stat()
        processor += f" {program.st_size} {program.st_mtime_ns}"
    sources = SOURCES[name].read_bytes() + HEADER.read_bytes()
    parts = (sources, repr((compiler, _PROCESSOR_FLAGS, FLAGS, processor)).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]
