"""Handles SIGINT, SIGTERM and SIGHUP: prints one line and ends the process within a second, with code 128 + signal.

The handler runs in the main thread and raises `Stopped`, so that `finally` and atexit run. Python runs no handler while
the main thread is inside long C or Rust code. Therefore the interpreter also writes each signal to a pipe, and a second
thread reads the pipe. If the main thread has not ended the process after 0.6 seconds, the second thread runs the
registered clean-ups and ends the process. During an import the handler ends the process directly, since the import
machinery could swallow or replace an exception.

Other code, such as the training loop, may install its own handler; the second thread then does nothing. This module
imports as little as possible, because every process imports it first.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False  # instead of importing typing, which is slow
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

# Windows has no SIGHUP.
_KINDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_GRACE = 0.6  # seconds that the main thread has to run `finally` and atexit
_LINE = b"Stopped.\n"

_clean_ups: list[Callable[[], object]] = []
_received: int | None = None  # the signal that ends the process
_directly = True  # a signal ends the process at once; false while the application runs
_said = False
# The lock of the thread that ends the process. It is reentrant, since a second signal may interrupt that thread.
_ending = _thread.RLock()


class Stopped(SystemExit):
    """Raised when a signal asks the process to end."""


def register(action: Callable[[], object]) -> None:
    """Adds a clean-up action, which runs if the process ends without `finally` and atexit."""
    _clean_ups.append(action)


def unregister(action: Callable[[], object]) -> None:
    """Removes the action if the action is registered."""
    if action in _clean_ups:
        _clean_ups.remove(action)


class CleanUp:
    """Registers an action for the duration of a `with` block."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __enter__(self) -> None:
        register(self._action)

    def __exit__(self, *_: object) -> None:
        unregister(self._action)


class StopRequests:
    """Records the signals that arrive in a `with` block, so that a loop can stop cleanly.

    The object is true after the first signal. A second signal ends the process at once. Signals that were ignored
    before the block, such as SIGHUP under nohup, stay ignored. `received` lists the numbers of the signals.
    """

    def __init__(self) -> None:
        self.received: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.received)

    def __enter__(self) -> StopRequests:
        kinds = [kind for kind in _KINDS if signal.getsignal(kind) is not signal.SIG_IGN]

        def note(number: int, frame: FrameType | None) -> None:
            self.received.append(number)
            for kind in kinds:
                signal.signal(kind, signal.SIG_DFL)

        self._before = [(kind, signal.signal(kind, note)) for kind in kinds]
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before:
            signal.signal(kind, handler)


def install() -> None:
    """Installs the handler and starts the second thread. Ignored signals, such as SIGHUP under nohup, stay ignored."""
    for kind in _KINDS:
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, _handle)
    atexit.register(_last)  # registered first, so that it is called last
    try:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _thread.start_new_thread(_watch, (reader,))
    except (OSError, RuntimeError, ValueError):
        return  # without a descriptor or a thread, only the handler works


def unwind() -> None:
    """Makes every later signal raise `Stopped` in the main thread."""
    global _directly
    _directly = False


def finish() -> None:
    """Makes every later signal end the process at once, because all work is done."""
    global _directly
    _directly = True


def received() -> int | None:
    """Returns the signal that ends the process, or None."""
    return _received


def exit_code(number: int) -> int:
    """Returns the exit code of a process that this signal stopped. The first call also prints 'Stopped.'"""
    global _said
    if not _said:
        _said = True
        try:
            os.write(2, b"\n" + _LINE if os.isatty(2) else _LINE)  # a new line, since the terminal echoes ^C
        except OSError:
            return 128 + number  # after SIGHUP the terminal may be gone
    return 128 + number


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    if _directly or _received is not None or _imports(frame):
        _end(number)
    _received = number
    # A destructor swallows `Stopped`; this hides the message, and the second thread ends the process.
    sys.unraisablehook = lambda _: None
    raise Stopped(128 + number)


def _last() -> None:
    """Ends the process if a signal stopped it, because shutting down the interpreter can take seconds.

    If no signal was received, ignores later signals.
    """
    if _received is not None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # the reader of the pipe has ended
        os._exit(128 + _received)
    for kind in _KINDS:
        if signal.getsignal(kind) is _handle:
            signal.signal(kind, signal.SIG_IGN)


def _imports(frame: FrameType | None) -> bool:
    """Whether this frame runs inside an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int) -> None:
    """Ends the process for a signal that the main thread does not handle in time."""
    while numbers := os.read(reader, 1):
        if signal.getsignal(numbers[0]) is _handle:
            time.sleep(_GRACE)
            if _received is not None or signal.getsignal(numbers[0]) is _handle:
                _end(numbers[0])


def _end(number: int) -> NoReturn:
    """Ends the process from any thread, without unwinding."""
    if not _ending.acquire(False):
        time.sleep(60)  # another thread is ending the process
    while _clean_ups:
        action = _clean_ups.pop()  # a second signal continues with the rest
        try:
            action()
        except Exception:
            continue  # the other clean-ups still run
    os._exit(exit_code(number))
