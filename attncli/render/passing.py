"""A progress bar for a wait: drawn on a terminal only, and gone when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def passing_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """The bar, a context; its one task is the caller's to add."""
    drawn = console.is_terminal and not console.is_dumb_terminal
    return Progress(*columns, console=console, disable=not drawn, transient=True)
