"""What SIGINT, SIGTERM and SIGHUP do: the process ends within a second, with one line and code 128 + signal.

The handler runs in the main thread and raises `Stopped`, so that `finally` and atexit run. Python runs no handler while
the main thread is inside long C or Rust code. So the interpreter also writes each signal to a pipe on which a thread
sleeps: when the main thread has not ended the process a moment later, the thread runs the registered clean-ups and ends
it. Inside an import the handler ends the process itself: an exception there would be swallowed, or become another.

Whoever installs a handler of its own, as training's loop does, is left alone. Imports as little as can be: it is what
a process begins with.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing takes a while
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

# Windows has no SIGHUP.
_KINDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_PATIENCE = 0.6  # seconds that the main thread has to end the process in an orderly way
_LINE = b"Stopped.\n"

_clean_ups: list[Callable[[], object]] = []
_received: int | None = None  # the signal that the process ends for
_directly = True  # end without unwinding: the application is not imported yet, or has returned
_said = False
_ending = _thread.RLock()  # of the thread that ends the process; a second signal may interrupt it there


class Stopped(SystemExit):
    """A signal asks the process to end."""


def register(action: Callable[[], object]) -> None:
    """Adds an action to those that run when the process ends without unwinding, which skips `finally` and atexit."""
    _clean_ups.append(action)


def unregister(action: Callable[[], object]) -> None:
    """Removes the action, if it is registered."""
    if action in _clean_ups:
        _clean_ups.remove(action)


class CleanUp:
    """Registers an action for the time of a `with` block."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __enter__(self) -> None:
        register(self._action)

    def __exit__(self, *_: object) -> None:
        unregister(self._action)


class StopRequests:
    """The signals received within a `with` block, for a loop that ends in order: true after the first of them.

    The first signal is only noted; a second one ends the process at once. Signals that are ignored already, as SIGHUP
    is under nohup, stay ignored. `received` lists the signals' numbers.
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
    """Takes the three signals, except those that are ignored already, as SIGHUP is under nohup."""
    for kind in _KINDS:
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, _handle)
    atexit.register(_last)  # before all others, so that it is called after them
    try:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _thread.start_new_thread(_watch, (reader,))
    except (OSError, RuntimeError, ValueError):
        return  # without a descriptor or a thread to spare, only the handler is left


def unwind() -> None:
    """From here on a signal raises `Stopped` in the main thread."""
    global _directly
    _directly = False


def finish() -> None:
    """From here on a signal ends the process at once: everything is done."""
    global _directly
    _directly = True


def received() -> int | None:
    """The signal that the process is being ended for."""
    return _received


def exit_code(number: int) -> int:
    """Says that the process was stopped, once; returns its exit code."""
    global _said
    if not _said:
        _said = True
        try:
            os.write(2, b"\n" + _LINE if os.isatty(2) else _LINE)  # after what the terminal echoes for Ctrl-C
        except OSError:
            return 128 + number  # after SIGHUP the terminal may be gone
    return 128 + number


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    if _directly or _received is not None or _imports(frame):
        _end(number)
    _received = number
    sys.unraisablehook = lambda _: None  # where the exception cannot be raised, the thread ends the process
    raise Stopped(128 + number)


def _last() -> None:
    """Ends a stopped process before the interpreter tears down, which can take seconds; others ignore signals then."""
    if _received is not None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # nobody reads it
        os._exit(128 + _received)
    for kind in _KINDS:
        if signal.getsignal(kind) is _handle:
            signal.signal(kind, signal.SIG_IGN)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int) -> None:
    """Ends the process for a signal that the main thread does not react to, or reacts to for too long."""
    while numbers := os.read(reader, 1):
        if signal.getsignal(numbers[0]) is _handle:
            time.sleep(_PATIENCE)
            if _received is not None or signal.getsignal(numbers[0]) is _handle:
                _end(numbers[0])


def _end(number: int) -> NoReturn:
    """Ends the process from any thread, without unwinding."""
    if not _ending.acquire(False):
        time.sleep(60)  # another thread is ending it
    while _clean_ups:
        action = _clean_ups.pop()  # so that a second signal goes on with the rest
        try:
            action()
        except Exception:
            continue  # the rest is still to be cleaned up
    os._exit(exit_code(number))
