"""Reads the turns of `generate -i`: from a terminal a line, a paste or a block; from a pipe a line.

A paste is one turn. GNU readline takes a bracketed paste as one line with line ends in it. Elsewhere the lines of a
paste are those that wait on the terminal as soon as the first one is read.
Owns the prompts and the history file, which is bounded and only its owner's to read.
"""

from __future__ import annotations

import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from attncli.errors import BadInput
from attncli.folders import cache_folder, make_private

_PROMPT, _MORE = "> ", "… "
_BLOCK = '"""'  # begins and ends a turn of several lines
_PASTE_SECONDS = 0.02  # in which the next line of a paste arrives; nobody types one so fast
_KEPT = 1000  # lines
_LONGEST = 1_000_000  # characters of a line: a device can be one that never ends


class Lines:
    """Standard input, a turn at a time."""

    def __init__(self) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self._edited = self.typed and sys.stdout.isatty()
        self._cut = False  # a line did not end: what follows is the rest of it
        self._history = _History(cache_folder() / "history") if self._edited else None
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # what is not UTF-8 is for whoever takes the line to refuse

    def next(self) -> str | None:
        """The next turn without the end of its last line; None after the last one. Raises KeyboardInterrupt for Ctrl-C.

        On a terminal it goes on after a line that ends in a backslash, and from \"\"\" to \"\"\".
        """
        if not self.typed:
            return self._line("")
        turn = self._line(_PROMPT)
        if turn is None:
            return None
        if turn.startswith(_BLOCK):
            return self._block(turn.removeprefix(_BLOCK))
        while turn.endswith("\\"):
            turn = f"{turn[:-1]}\n{self._line(_MORE) or ''}"
        return turn

    def _block(self, text: str) -> str:
        """The text between the marks, without the line ends next to them. Ctrl-D also ends a block."""
        while not text.rstrip().endswith(_BLOCK) and (line := self._line(_MORE)) is not None:
            text += f"\n{line}"
        return text.rstrip().removesuffix(_BLOCK).removeprefix("\n").removesuffix("\n")

    def _line(self, prompt: str) -> str | None:
        """A line, or the lines of a paste; None at the end."""
        pasted = self.typed and not _waiting(0)  # what waits before the prompt was typed ahead: a line is a turn
        line = self._read(prompt)
        while pasted and line is not None and _waiting(_PASTE_SECONDS) and (more := self._read("")) is not None:
            line += f"\n{more}"
        return line.removesuffix("\n") if line is not None and self.typed else line

    def _read(self, prompt: str) -> str | None:
        if sys.stdin is None or self._cut:
            return None
        if not self._edited:
            sys.stderr.write(prompt)
            sys.stderr.flush()
            line = sys.stdin.readline(_LONGEST)
            if len(line) == _LONGEST and not line.endswith("\n"):
                self._cut = True
                raise BadInput(f"A line has more than {_LONGEST:,} characters.", "Give text with shorter lines.")
            return line.removesuffix("\n").removesuffix("\r") if line else None
        try:
            line = input(prompt)
        except EOFError:
            sys.stdout.write("\n")
            return None
        if self._history:
            self._history.keep()
        return line


def _waiting(seconds: float) -> bool:
    """Whether standard input has something to read within this time."""
    try:
        return bool(select.select([sys.stdin], [], [], seconds)[0])
    except (OSError, ValueError):  # closed, or a system where only sockets can be asked
        return False


class _History:
    """The history of typed lines, kept across sessions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readline: Any = None
        with suppress(ImportError):
            import readline

            self._readline = readline
            if "libedit" not in (readline.__doc__ or ""):
                readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
            readline.set_history_length(_KEPT)
            with suppress(OSError):  # there is none yet, or it is another library's
                readline.read_history_file(path)
            self._known = readline.get_current_history_length()

    def keep(self) -> None:
        """Appends the new lines to the history file, if there is one; at once, since a session can be killed."""
        if self._readline is None:
            return
        before, self._known = self._known, self._readline.get_current_history_length()
        with suppress(OSError):
            if not self._path.exists():
                make_private(self._path.parent)
                self._path.touch(mode=0o600)
                before = 0
            if hasattr(self._readline, "append_history_file"):
                self._readline.append_history_file(self._known - before, self._path)
            else:
                self._readline.write_history_file(self._path)
