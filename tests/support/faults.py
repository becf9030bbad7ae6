"""Injects a fault before the nth change of the disk."""

import itertools
import os
from contextlib import contextmanager
from pathlib import Path

import pytest


class Writing:
    """A file that is being written. Every flush and every eighth write count as a change of the disk."""

    def __init__(self, file, count):
        self.file, self.fileno, self.flush = file, file.fileno, count(file.flush)
        self.writes, self.counted = 0, count(file.write)

    def write(self, data):
        self.writes += 1
        return (self.counted if self.writes % 8 == 1 else self.file.write)(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@contextmanager
def fault_at(n, fault, calls=("fsync", "rename", "mkdir", "rmdir", "unlink")):
    """Calls `fault` before the nth change of the disk, counted from 0; before every change if n is None.

    Yields a list that is empty until `fault` is called.
    """
    numbers, open_, happened = itertools.count(), Path.open, []

    def count(real):
        def call(*args, **options):
            if n in (next(numbers), None):
                happened.append(n)
                fault()
            return real(*args, **options)

        return call

    def opened(self, mode="r", *args, **options):
        file = open_(self, mode, *args, **options)
        return Writing(file, count) if "w" in mode else file

    with pytest.MonkeyPatch.context() as patch:
        for name in calls:
            patch.setattr(os, name, count(getattr(os, name)))
        patch.setattr(Path, "open", opened)
        yield happened
