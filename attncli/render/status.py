"""Shows what the process is waiting for, in a transient status line on standard error if this is a terminal.

The line is erased as soon as anything else is written to standard output or error. This module imports nothing slow,
because the first status is shown before the application is imported.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # importing typing takes a while
if TYPE_CHECKING:
    from typing import Any

_ERASE = b"\r\x1b[2K"
_enabled = False
_shown = False


class _Erasing(io.FileIO):
    """A standard stream that erases the status line before it writes."""

    def write(self, data: Any) -> Any:
        """Erases the status line, then writes. Returns the number of bytes; None if the stream would block."""
        hide_status()
        return super().write(data)


def enable_status() -> None:
    """Turns status lines on, if standard error is a terminal that can erase a line."""
    global _enabled
    completing = "_ATTNCLI_COMPLETE" in os.environ  # a shell asks for completions
    if completing or os.environ.get("TERM", "") in ("", "dumb", "unknown") or not sys.stderr.isatty():
        return
    sys.stdout, sys.stderr = _erasing(sys.stdout), _erasing(sys.stderr)
    _enabled = True


def status(text: str) -> None:
    """Shows a status such as 'reading stories'; replaces the previous one."""
    global _shown
    if _enabled:
        shown = "".join(character if character.isprintable() else "?" for character in f"{text} ...")
        _shown = _write(_ERASE + shown[: _columns(shown)].encode(sys.stderr.encoding, "backslashreplace"))


def hide_status() -> None:
    """Erases the status line, if one is shown."""
    global _shown
    if _shown:
        _shown = False
        _write(_ERASE)


def _columns(text: str) -> int:
    """Returns how many characters of a text fit in one line together with the cursor."""
    try:
        columns = os.get_terminal_size(2).columns or 80
    except OSError:
        columns = 80
    return max(columns - 1 if text.isascii() else columns // 2 - 1, 0)  # a character may take two cells


def _write(data: bytes) -> bool:
    """Writes to standard error; returns False when the terminal is gone."""
    try:
        os.write(2, data)
    except OSError:
        return False
    return True


def _erasing(stream: Any) -> Any:
    """Returns a stream that erases the status line before each write.

    If the stream is not a plain file, returns it unchanged.
    """
    binary = getattr(stream, "buffer", None)
    raw = getattr(binary, "raw", binary)
    if type(raw) is not io.FileIO:
        return stream
    stream.flush()
    erasing: Any = _Erasing(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        erasing if binary is raw else io.BufferedWriter(erasing),  # PYTHONUNBUFFERED leaves the buffer out
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
