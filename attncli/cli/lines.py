"""The lines that a user types: with editing and a history where Python has readline; from a pipe as they are.

Owns the prompt and the history file, which is bounded and only its owner's to read.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from attncli.folders import cache_folder

_PROMPT = "> "
_KEPT = 1000  # lines


class Lines:
    """Standard input, a line at a time."""

    def __init__(self) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self._edited = self.typed and sys.stdout.isatty()
        self._history = _History(cache_folder() / "history") if self._edited else None
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # what is not UTF-8 is for whoever takes the line to refuse

    def next(self) -> str | None:
        """The next line without its end; None after the last one. Raises KeyboardInterrupt for Ctrl-C."""
        if sys.stdin is None:
            return None
        if not self._edited:
            if self.typed:
                sys.stderr.write(_PROMPT)
                sys.stderr.flush()
            line = sys.stdin.readline()
            return line.removesuffix("\n").removesuffix("\r") if line else None
        try:
            line = input(_PROMPT)
        except EOFError:
            sys.stdout.write("\n")
            return None
        if self._history:
            self._history.keep()
        return line


class _History:
    """What was typed before, in this session and in earlier ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readline: Any = None
        with suppress(ImportError):
            import readline

            self._readline = readline
            readline.set_history_length(_KEPT)
            with suppress(OSError):  # there is none yet, or it is another library's
                readline.read_history_file(path)
            self._known = readline.get_current_history_length()

    def keep(self) -> None:
        """Writes down what is new, at once: a session may end in any way. Without a place to write, nothing is kept."""
        if self._readline is None:
            return
        before, self._known = self._known, self._readline.get_current_history_length()
        with suppress(OSError):
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch(mode=0o600)
                before = 0
            if hasattr(self._readline, "append_history_file"):
                self._readline.append_history_file(self._known - before, self._path)
            else:
                self._readline.write_history_file(self._path)
