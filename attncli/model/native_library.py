"""native.c of this folder made into a library for this machine's processor: once, and kept.

Owns finding a C compiler, the library's place, and starting the compiler early, so that it works while PyTorch is still
being imported. No torch. Without a compiler there is no library, and the network runs as PyTorch runs it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from attncli.folders import cache_folder

_SOURCE = Path(__file__).with_name("native.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fvisibility=hidden", "-shared", "-fPIC")
_LIBRARIES = ("-lm", "-lpthread")
_SECONDS = 120.0


@cache
def begin() -> _Compilation | None:
    """Starts the compiler, where the library is not there yet; None without a compiler or when ATTNCLI_NATIVE is 0."""
    compiler = _compiler()
    if compiler is None or os.environ.get("ATTNCLI_NATIVE") == "0":
        return None
    place = cache_folder() / "native" / f"{_key(compiler)}.so"
    return _Compilation(compiler, place)


@cache
def library() -> Path | None:
    """The library, after waiting for its compiler where that is needed; None where there can be none."""
    begun = begin()
    return begun.result() if begun else None


class _Compilation:
    """A library that is there, or a compiler at work on it."""

    def __init__(self, compiler: list[str], place: Path) -> None:
        self._place = place
        self._unfinished = place.with_name(f"{place.stem}.{os.getpid()}.tmp")
        self._process: subprocess.Popen[bytes] | None = None
        if place.is_file():
            return
        command = [*compiler, *_FLAGS, "-o", str(self._unfinished), str(_SOURCE), *_LIBRARIES]
        with suppress(OSError):  # nowhere to write, or no such compiler
            place.parent.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def result(self) -> Path | None:
        """The library's place once it is there; None when the compiler failed."""
        if self._process is not None:
            try:
                if self._process.wait(_SECONDS) == 0:
                    self._unfinished.replace(self._place)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
            finally:
                self._unfinished.unlink(missing_ok=True)
        return self._place if self._place.is_file() else None


def _compiler() -> list[str] | None:
    """What CC says, else the first C compiler there is."""
    if named := shlex.split(os.environ.get("CC", "")):
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
