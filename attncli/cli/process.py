"""Configures this process: its streams, how long threads spin, and when memory is collected and returned.

Only the command line calls these functions, because they affect the whole process, and a program that uses the library
may need other settings. Every process imports this module first, so it imports almost nothing.
"""

from __future__ import annotations

import gc
import os
import sys

_LARGEST_SCREEN, _MOST_DIGITS = 1000, 9  # columns or rows; digits, since int() is slow for very long numbers
_SPINS = 5000  # iterations of libgomp, which take about 0.1 ms
_COLLECTIONS_BEFORE_FULL = 100  # Python's default is 10
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES, _LARGEST_KEPT = 512 << 20, 32 << 20


def open_streams() -> None:
    """Opens /dev/null in place of each standard stream that is closed, for example by `>&-`.

    Otherwise a file that is opened later would get the descriptor of the closed stream.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def bound_screen() -> None:
    """Limits the environment variables COLUMNS and LINES, because drawing a huge screen takes too long.

    Removes a variable whose value is 0, which stands for an unknown size.
    """
    for name in ("COLUMNS", "LINES"):
        given = os.environ.get(name, "")
        if given.isdecimal() and not given.strip("0"):
            del os.environ[name]  # a screen of width 0 would show nothing, not even an error
        elif given.isdecimal() and (len(given) > _MOST_DIGITS or int(given) > _LARGEST_SCREEN):
            os.environ[name] = str(_LARGEST_SCREEN)


def limit_spinning() -> None:
    """Limits how long waiting threads of PyTorch spin; must run before PyTorch is imported.

    If another program uses the cores too, libgomp's default makes a training step 25 to 80 times slower. With a much
    smaller limit, threads sleep between operations, and waking them can take half of a step (benchmarks/README.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def delay_full_collections() -> None:
    """Makes Python's full garbage collections rarer; should run before PyTorch is imported.

    The import creates 200,000 objects that are never freed. With Python's default, three full collections visit these
    objects during the import.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _COLLECTIONS_BEFORE_FULL)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next allocation instead of returning it to the system.

    Every training step frees and allocates the same megabytes. Without this, page faults take 5 % of a small model's
    step (benchmarks/README.md).
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    except (OSError, AttributeError, TypeError):
        return  # the C library is not glibc
