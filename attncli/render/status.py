"""One transient line on standard error, when that is a terminal: what is being waited for.

The line goes as soon as anything else is written to standard output or error. Imports nothing heavy: the first word is
shown before the application is imported.
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
        """The bytes written; None where none can be now."""
        hide_status()
        return super().write(data)


def enable_status() -> None:
    """Shows status lines from here on, if standard error is a terminal that can erase a line."""
    global _enabled
    completing = "_ATTNCLI_COMPLETE" in os.environ  # a shell asks what could be typed
    if completing or os.environ.get("TERM", "") in ("", "dumb", "unknown") or not sys.stderr.isatty():
        return
    sys.stdout, sys.stderr = _erasing(sys.stdout), _erasing(sys.stderr)
    _enabled = True


def status(text: str) -> None:
    """Shows what is being done, as in 'reading stories'; replaces the line before."""
    global _shown
    if _enabled:
        shown = "".join(character if character.isprintable() else "?" for character in f"{text} ...")
        _shown = _write(_ERASE + shown[: _columns(shown)].encode(sys.stderr.encoding, "backslashreplace"))


def hide_status() -> None:
    """Erases the line, if there is one."""
    global _shown
    if _shown:
        _shown = False
        _write(_ERASE)


def _columns(text: str) -> int:
    """How many characters of a text fit in a line, with room for the cursor."""
    try:
        columns = os.get_terminal_size(2).columns or 80
    except OSError:
        columns = 80
    return max(columns - 1 if text.isascii() else columns // 2 - 1, 0)  # a character may take two cells


def _write(data: bytes) -> bool:
    """Whether the terminal took it: it may be gone."""
    try:
        os.write(2, data)
    except OSError:
        return False
    return True


def _erasing(stream: Any) -> Any:
    """The same stream, with the line erased before each write; as it is where it is no plain file."""
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
