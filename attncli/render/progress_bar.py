"""A transient progress bar: drawn on a terminal only, and erased at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from attncli.render.escape import one_line
from attncli.render.numbers import size
from attncli.stopping import CleanUp

_ERASED = b"\r\x1b[2K\x1b[?25h"  # erase the line, show the cursor


@contextmanager
def passing_bar(console: Console, *columns: ProgressColumn) -> Iterator[Progress]:
    """Yields a progress bar without a task; the caller adds one."""
    drawn = console.is_terminal and not console.is_dumb_terminal
    with (
        CleanUp(partial(os.write, 2, _ERASED)) if drawn else nullcontext(),
        Progress(*columns, console=console, disable=not drawn, transient=True) as bar,
    ):
        yield bar


@contextmanager
def downloading_bar(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar during a download; yields a function that takes the bytes received and the total bytes."""
    text = TextColumn("{task.fields[done]}", markup=False)
    with passing_bar(console, text, BarColumn(20), TimeRemainingColumn(compact=True)) as bar:
        task = bar.add_task("", total=None, done=one_line(name))

        def show(there: int, total: int) -> None:
            done = f"{one_line(name)}: {size(there)}" + (f" of {size(total)}" if total else "")
            bar.update(task, total=total or None, completed=there, done=done)

        yield show
