"""The compiled libraries of native.c and training.c that a wheel contains, by level of a processor's instructions.

The build hook of a wheel compiles them (hatch_build.py). A process loads the highest level that its processor has, and
then needs no compiler. A source checkout contains no libraries: `native_library` compiles there at the first use.

This module imports nothing of attncli, because the build hook loads it before attncli is installed. No torch.
"""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("compiled")
SOURCES = {name: Path(__file__).with_name(f"{name}.c") for name in ("native", "training")}  # of a library, by its name
HEADER = Path(__file__).with_name("vectors.h")  # of all sources
FLAGS = ("-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")
LIBRARIES = ("-lm", "-lpthread")


@dataclass(frozen=True)
class Level:
    """A level of a processor's instructions: the value of -march, and the flags of /proc/cpuinfo that it needs."""

    march: str
    needs: frozenset[str] = frozenset()

    def file(self, name: str) -> str:
        """Returns the name of the file of a library: 'native' -> 'native-x86-64-v3.so'."""
        return f"{name}-{self.march}.so"


_AVX2 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The highest level first; the last one needs nothing. Linux names an AArch64 processor's half floats `asimdhp`.
LEVELS = {
    "x86_64": (Level("x86-64-v4", _AVX512), Level("x86-64-v3", _AVX2), Level("x86-64")),
    "aarch64": (Level("armv8.2-a+fp16", frozenset({"asimdhp", "fphp"})), Level("armv8-a")),
}


def best_library(name: str = "native") -> Path | None:
    """Returns a library, for the highest level that this processor has; None if the wheel has no such library."""
    if sys.platform != "linux" or not FOLDER.is_dir():
        return None
    flags = _processor_flags()
    for level in LEVELS.get(platform.machine(), ()):
        if level.needs <= flags and (path := FOLDER / level.file(name)).is_file():
            return path
    return None


def _processor_flags() -> frozenset[str]:
    """Returns the flags in /proc/cpuinfo that name the instructions of this processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, flags = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return frozenset(flags.split())
    return frozenset()
