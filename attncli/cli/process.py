"""Settings of this process: its streams; what makes training faster, how threads wait and what becomes of freed memory.

They are the command line's to make, not the library's: they hold for everything that runs in the process. Imported
before anything else, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import sys

_LARGEST_SCREEN, _MOST_DIGITS = 1000, 9  # cells in either direction; digits that int() takes at once
_SPINS = 5000  # of libgomp: about a tenth of a millisecond
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES, _LARGEST_KEPT = 512 << 20, 32 << 20


def open_streams() -> None:
    """Gives those of the three standard streams that are closed (`>&-`) nothing to read and a place that keeps nothing.

    Else a file that is opened later would be in their place.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def bound_screen() -> None:
    """Bounds COLUMNS and LINES, since a screen is drawn cell by cell; 0 is a size that is not known."""
    for name in ("COLUMNS", "LINES"):
        given = os.environ.get(name, "")
        if given.isdecimal() and not given.strip("0"):
            del os.environ[name]  # on a screen without a cell nothing is shown, not even an error
        elif given.isdecimal() and (len(given) > _MOST_DIGITS or int(given) > _LARGEST_SCREEN):
            os.environ[name] = str(_LARGEST_SCREEN)


def limit_spinning() -> None:
    """How long threads of PyTorch that wait for one another spin; to be set before PyTorch is imported.

    Where another program wants the cores too, libgomp's own default makes a training step 25 to 80 times slower; with
    much less than this, threads go to sleep between operations, and waking them can cost half of a step
    (benchmarks/README.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def keep_freed_memory() -> None:
    """Keeps what is freed for the next allocation, where glibc would hand it back to the system.

    A training step frees and takes the same megabytes again and again, each time with page faults: 5 % of a small
    model's step (benchmarks/README.md).
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    except (OSError, AttributeError, TypeError):
        return  # another C library than glibc
