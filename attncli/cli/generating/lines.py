"""Reads the input of `generate -i`, one turn at a time.

From a pipe, a turn is one line. On a terminal, a turn is a line, a pasted text of several lines, or a block between
\"\"\" marks. GNU readline returns a bracketed paste as one line that contains line ends. Without readline, lines
that arrive together with the first line count as one paste.

This module also prints the prompt, and writes the history file, which is limited in length and private to its owner.
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
_PASTE_SECONDS = 0.02  # the lines of a paste arrive within this time; nobody types a line so fast
_KEPT = 1000  # lines of the history
_LONGEST = 1_000_000  # characters of a line; without a limit, a device such as /dev/zero would fill the memory


class Lines:
    """Standard input, read one turn at a time."""

    def __init__(self) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self._edited = self.typed and sys.stdout.isatty()
        self._cut = False  # a line was too long, and the rest of the input belongs to this line
        self._history = _History(cache_folder() / "history") if self._edited else None
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # accepts invalid UTF-8, which the caller refuses

    def next(self) -> str | None:
        """Returns the next turn without its final newline, or None at the end of input.

        Ctrl-C raises KeyboardInterrupt. On a terminal, a line that ends in a backslash continues on the next line, and
        \"\"\" begins and ends a block.
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
        """Returns the text of a block, without its marks and the line ends next to them. Ctrl-D also ends a block."""
        while not text.rstrip().endswith(_BLOCK) and (line := self._line(_MORE)) is not None:
            text += f"\n{line}"
        return text.rstrip().removesuffix(_BLOCK).removeprefix("\n").removesuffix("\n")

    def _line(self, prompt: str) -> str | None:
        """Returns the next line, or all lines of a paste, or None at the end of input."""
        pasted = self.typed and not _waiting(0)  # a line that waits already was typed ahead, and is a turn of its own
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
    """Whether standard input has data to read, or receives data within `seconds`."""
    try:
        return bool(select.select([sys.stdin], [], [], seconds)[0])
    except (OSError, ValueError):  # standard input is closed, or select works only for sockets
        return False


class _History:
    """The history of typed lines, stored in a file for later sessions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readline: Any = None
        with suppress(ImportError):
            import readline

            self._readline = readline
            if "libedit" not in (readline.__doc__ or ""):
                readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns this off
            readline.set_history_length(_KEPT)
            with suppress(OSError):  # the file is missing, or another library wrote it
                readline.read_history_file(path)
            self._known = readline.get_current_history_length()

    def keep(self) -> None:
        """Appends new lines to the history file at once, because the process may be killed."""
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
