"""native.c of this folder made into a library for this machine's processor: once, and kept.

Owns finding a C compiler, the library's place, and starting the compiler early, so that it works while PyTorch is still
being imported. No torch. Without a compiler there is no library, and the network runs as PyTorch runs it.

What is loaded runs, so a library is kept only where nobody but this user and root can put a file: every parent of its
folder is checked. Elsewhere it is compiled into a private temporary folder by every process that needs it. The file
whose digest was checked is the one that is loaded, by its descriptor where the system has names for descriptors.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attncli import stopping
from attncli.folders import cache_folder, exposed, only_ours

_SOURCE = Path(__file__).with_name("native.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")
_PROCESSOR_FLAGS = ("-march=native", "-mcpu=native")  # the first that the compiler knows: clang on Arm has the second
_LIBRARIES = ("-lm", "-lpthread")
_SECONDS = 120.0
_FORGOTTEN_AFTER = 86400.0  # seconds: a failure may have been for a header that is there by now
_LARGEST = 1 << 26  # bytes of a file that is read
_MOST_SAID, _LONGEST = 1 << 16, 200  # bytes of what a compiler said that are read, characters that are shown
_PROBE_SECONDS = 10.0
_STOP_SECONDS = 0.3  # after which a compiler that still runs is killed
_PRIVATE = "attncli-native-"
_UNFINISHED = re.compile("[0-9a-f]{32}[.][0-9a-f]{16}[.]tmp")


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled library: the file, and the name that opens exactly what was checked."""

    path: Path
    name: str


@cache
def begin() -> _Compilation | None:
    """Starts the compiler, where the library is not there yet; None without a compiler or when ATTNCLI_NATIVE is 0."""
    compiler = _compiler()
    if compiler is None or os.name != "posix" or os.environ.get("ATTNCLI_NATIVE") == "0":
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
def library() -> Library | None:
    """The library, after waiting for its compiler where that is needed; None where there can be none."""
    begun = begin()
    return begun.result() if begun else None


def refuse(why: object) -> None:
    """Notes that the library cannot be loaded."""
    begun = begin()
    if begun is not None:
        begun.problem = f"what was compiled cannot be loaded: {why}"


def problem() -> str:
    """Why there is no library, or none that is kept; empty where all is well, and where ATTNCLI_NATIVE is 0."""
    if os.environ.get("ATTNCLI_NATIVE") == "0":
        return ""
    begun = begin()
    if begun is not None:
        return begun.problem
    if _compiler() is not None:
        return "there is no home folder to keep it in (set ATTNCLI_CACHE)"
    named = os.environ.get("CC")
    return f"CC={named} is no compiler" if named else f"there is no C compiler ({', '.join(_COMPILERS)})"


class _Compilation:
    """A library that is there, or a compiler at work on it."""

    def __init__(self, compiler: list[str], folder: Path, key: str) -> None:
        self.problem = ""
        self._compiler, self._key = compiler, key
        self._process: subprocess.Popen[bytes] | None = None
        self._said = -1  # descriptor of what the compiler says
        self._found: Library | None = None
        try:
            self._folder, self.problem = _place(folder)
            self._failure = self._folder / f"{key}.failed"
            _sweep(self._folder)
            self._found = _kept(self._folder, key)
            if self._found is None and not self._failed_before():
                self._start()
        except (OSError, RuntimeError) as problem:  # nowhere to write, or links in a circle
            self.problem = f"it cannot be kept in {folder}: {getattr(problem, 'strerror', None) or problem}"

    @property
    def running(self) -> bool:
        """Whether the compiler is still at work."""
        return self._process is not None and self._process.poll() is None

    def result(self) -> Library | None:
        """The library once it is there; None when the compiler failed, and then `problem` says why."""
        if self._process is None:
            return self._found
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_SECONDS)
        try:
            if code == 0:
                self._keep()
            elif code is None:
                self._fail(f"has not finished after {_SECONDS:.0f} seconds")
            else:
                self._fail(f"fails: {self._last_words() or f'exit code {code}'}", remembered=code > 0)
        except OSError as problem:
            self.problem = f"it cannot be kept in {self._folder}: {problem.strerror}"
        self._stop()
        return self._found

    def _start(self) -> None:
        self._unfinished = self._folder / f"{self._key}.{secrets.token_hex(8)}.tmp"
        self._unfinished.touch(mode=0o700)  # before work that would be for nothing
        atexit.register(self._stop)
        stopping.register(self._stop)
        made = (*_processor_flags(self._compiler), *_FLAGS, "-o", str(self._unfinished), str(_SOURCE), *_LIBRARIES)
        none = subprocess.DEVNULL
        try:
            self._said, name = tempfile.mkstemp()
            Path(name).unlink()
            self._process = subprocess.Popen(
                [*self._compiler, *made], stdin=none, stdout=none, stderr=self._said, process_group=0
            )
        except OSError as problem:
            self._stop()
            self.problem = f"{self._compiler[0]} cannot be started: {problem.strerror}"

    def _keep(self) -> None:
        """Gives the finished library its place."""
        self._unfinished.chmod(0o700)
        place = self._folder / f"{self._key}.{_digest(self._unfinished.read_bytes())}.so"
        self._unfinished.replace(place)
        self._found = _checked(place)

    def _fail(self, why: str, *, remembered: bool = True) -> None:
        """Notes why there is no library; for a while that is known without compiling."""
        self.problem = f"{self._compiler[0]} {why}"
        if remembered:
            self._failure.unlink(missing_ok=True)
            self._failure.touch(mode=0o600, exist_ok=False)
            self._failure.write_text(self.problem, encoding="utf-8", errors="replace")

    def _failed_before(self) -> bool:
        """Whether this compiler failed on this source of late."""
        with suppress(OSError):
            if _age(self._failure) < _FORGOTTEN_AFTER:
                with _opened(self._failure) as (_, said):
                    self.problem = f"{said.decode(errors='replace')} (tried again in a day, or without {self._failure})"
                return True
        return False

    def _last_words(self) -> str:
        """The first error that the compiler told, from which others follow, or else its last line."""
        lines = [line.strip() for line in os.pread(self._said, _MOST_SAID, 0).decode(errors="replace").splitlines()]
        errors = [line for line in lines if "error" in line.lower()]
        told = errors[:1] or [line for line in lines if line][-1:]
        return "".join(told)[:_LONGEST]

    def _stop(self) -> None:
        """Leaves neither a process nor an unfinished file."""
        atexit.unregister(self._stop)
        stopping.unregister(self._stop)
        if self._process is not None:
            for kind in (signal.SIGTERM, signal.SIGKILL):
                with suppress(OSError, subprocess.TimeoutExpired):
                    if self._process.poll() is None:
                        os.killpg(self._process.pid, kind)  # with what it started
                    self._process.wait(_STOP_SECONDS)
            self._process = None
        said, self._said = self._said, -1
        with suppress(OSError):
            os.close(said)
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)


def _place(folder: Path) -> tuple[Path, str]:
    """Returns where to keep the library, and a remark: a private folder where others could change what is in this one.

    Raises OSError where neither can be used.
    """
    folder = folder.parent.resolve() / folder.name  # a link in place of the folder itself is not followed
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)
    other = exposed(folder)
    if other is None:
        return folder, ""
    for left in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        with suppress(OSError):
            if _age(left) > 2 * _SECONDS and exposed(left) is None:
                shutil.rmtree(left, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE)).resolve()
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    stopping.register(lambda: shutil.rmtree(private, ignore_errors=True))
    if exposed(private) is not None:
        raise PermissionError(errno.EACCES, f"others can write to {other}, and to {tempfile.gettempdir()}")
    why = f"{other} is a link, or others can write to it (chmod go-w, or set ATTNCLI_CACHE)"
    return private, f"compiled anew each time: {why}"


def _kept(folder: Path, key: str) -> Library | None:
    """A library that was kept, and is as it was made, as its name tells: one cut short could end the process."""
    for path in folder.glob(f"{key}.*.so"):
        found = _checked(path)
        if found is not None:
            return found
        path.unlink(missing_ok=True)
    return None


def _checked(path: Path) -> Library | None:
    """A file as a library to load, if nobody else can have written it and its name has its digest.

    Its descriptor stays open as long as the process: what was checked is loaded, whatever is at the path by then.
    """
    with suppress(OSError):
        with _opened(path) as (descriptor, content):
            if path.name.split(".")[-2] != _digest(content):
                return None
            named = Path(f"/proc/self/fd/{os.dup(descriptor)}")
        return Library(path, str(named if named.exists() else path))
    return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bytes]]:
    """The descriptor and the content of a regular file that only this user and root can have written, else OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # POSIX alone comes here
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not only_ours(found) or found.st_size > _LARGEST:
            raise PermissionError(errno.EACCES, "another could have written it", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield descriptor, file.read(_LARGEST)
    finally:
        os.close(descriptor)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _age(path: Path) -> float:
    """Seconds since a file or folder was written."""
    return time.time() - path.lstat().st_mtime


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed left behind."""
    for path in folder.iterdir():
        with suppress(OSError):
            if _UNFINISHED.fullmatch(path.name) and _age(path) > 2 * _SECONDS:
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


def _processor_flags(compiler: list[str]) -> list[str]:
    """The flag that asks a compiler for all that this processor can do; none where it knows none."""
    none = subprocess.DEVNULL
    for flag in _PROCESSOR_FLAGS:
        with suppress(OSError, subprocess.TimeoutExpired):
            probe = [*compiler, flag, "-fsyntax-only", "-x", "c", os.devnull]
            if subprocess.run(probe, stdin=none, stdout=none, stderr=none, timeout=_PROBE_SECONDS).returncode == 0:
                return [flag]
    return []


def _key(compiler: list[str]) -> str:
    """Of everything that the library depends on: its source, the compiler, how it is made, and for which processor."""
    processor = f"{sys.platform} {platform.machine()}"
    with suppress(OSError):  # elsewhere than on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    with suppress(OSError):
        program = Path(shutil.which(compiler[0]) or compiler[0]).stat()
        processor += f" {program.st_size} {program.st_mtime_ns}"
    parts = (_SOURCE.read_bytes(), repr((compiler, _PROCESSOR_FLAGS, _FLAGS, processor)).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]
