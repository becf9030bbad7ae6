"""A signal ends a process in Python code, in long C code and in an import. A status line is only on a terminal."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.places import ROOT

BEGIN = """
import atexit, hashlib, operator, os, signal, sys
from functools import partial
from attncli import stopping
stopping.install()
"""
# A background job ignores SIGINT, and a job under nohup ignores SIGHUP.
HEEDED = "import signal; [signal.signal(kind, signal.SIG_DFL) for kind in (signal.SIGINT, signal.SIGHUP)]\n"
# Handles the exception of a signal as attncli/__main__.py does.
END = """
except BaseException:
    sys.exit(stopping.exit_code(stopping.received()))
"""
ORDERLY = """
stopping.unwind()
atexit.register(os.write, 1, b" atexit")
try:
    try:
        os.write(1, b"ready")
        os.read(0, 1)
    finally:
        os.write(1, b" finally")
"""
INSIDE_C = """
stopping.unwind()
try:
    with stopping.CleanUp(lambda: os.write(1, b" cleaned")):
        hash_for_minutes = partial(hashlib.pbkdf2_hmac, "sha256", b"", b"", 2**31 - 1)
        list(map(operator.call, [partial(os.write, 1, b"ready"), hash_for_minutes]))  # no bytecode between
"""
SWALLOWED = """
stopping.unwind()
try:
    while True:
        try:
            os.write(1, b"ready")
            while True:
                pass
        except BaseException:
            pass
"""
INSIDE_A_CLEAN_UP = """
try:
    again = partial(os.kill, os.getpid(), signal.SIGINT)
    with stopping.CleanUp(lambda: os.write(1, b" cleaned")), stopping.CleanUp(again):
        os.write(1, b"ready")
        os.read(0, 1)
"""
INSIDE_AN_IMPORT = """
stopping.unwind()
sys.path.insert(0, sys.argv[1])
try:
    with stopping.CleanUp(lambda: os.write(1, b" cleaned")):
        import slow
"""


def process(code, *arguments):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, **pipes)


def stopped(code, number, *arguments):
    """Sends a signal to a process when it is ready. Returns its standard output, exit code and standard error."""
    with process(HEEDED + BEGIN + code + END, *arguments) as started:
        said = os.read(started.stdout.fileno(), 5)
        assert said == b"ready"
        started.send_signal(number)
        rest, told = started.communicate(timeout=60)
    return rest.decode(), started.returncode, told.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_runs_the_clean_up_and_prints_one_line(number, code):
    assert stopped(ORDERLY, number) == (" finally atexit", code, "Stopped.\n")


def test_a_signal_ends_a_long_call_in_c_after_the_clean_up():
    assert stopped(INSIDE_C, signal.SIGTERM) == (" cleaned", 143, "Stopped.\n")


def test_a_signal_ends_the_process_even_if_its_exception_is_caught():
    assert stopped(SWALLOWED, signal.SIGINT)[1:] == (130, "Stopped.\n")


def test_a_signal_during_an_import_ends_the_process_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os\ntry:\n    os.write(1, b'ready')\n    os.read(0, 1)\nexcept BaseException:\n    pass\n"
    )
    assert stopped(INSIDE_AN_IMPORT, signal.SIGINT, str(tmp_path)) == (" cleaned", 130, "Stopped.\n")


def test_a_second_signal_during_a_clean_up_completes_it_and_ends_the_process():
    assert stopped(INSIDE_A_CLEAN_UP, signal.SIGINT) == (" cleaned", 130, "Stopped.\n")


def test_an_ignored_signal_stays_ignored():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + BEGIN + ORDERLY + END
    with process(code) as started:
        assert os.read(started.stdout.fileno(), 5) == b"ready"
        started.send_signal(signal.SIGHUP)
        rest, told = started.communicate(b"x", timeout=60)
    assert (rest, started.returncode, told) == (b" finally atexit", 0, b"")


def on_terminal(command, **changes):
    """Returns the output of a command whose standard output and error are a terminal."""
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", **changes}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=environment):
        os.close(follower)
        written = b""
        with suppress(OSError):  # Linux raises this when the terminal is closed
            while part := os.read(leader, 65536):
                written += part
    os.close(leader)
    return written.decode()


ERASE = "\r\x1b[2K"
VERSION = [sys.executable, "-m", "attncli", "--version"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_status_line_is_erased_before_the_result(unbuffered):
    written = on_terminal(VERSION, PYTHONUNBUFFERED=unbuffered)
    assert written.startswith(f"{ERASE}starting ...{ERASE}attncli ")
    assert written.endswith("\r\n")


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"_ATTNCLI_COMPLETE": "source_bash"}])
def test_no_status_line_is_shown_on_a_dumb_terminal_or_during_completion(changes):
    assert ERASE not in on_terminal(VERSION, **changes)


def test_no_status_line_is_printed_without_a_terminal():
    done = subprocess.run(VERSION, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert done.stderr == b""


def test_the_status_line_is_shown_before_large_imports():
    code = "import sys, attncli.__main__; print({'typer', 'rich', 'typing', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert done.stdout == b"set()\n"


def test_a_status_line_fits_its_terminal_and_shows_no_control_characters():
    code = "from attncli.render import status; status.enable_status(); status.status('a\\x1bb' + 200 * 'c')"
    written = on_terminal([sys.executable, "-c", code])
    assert written.startswith(f"{ERASE}a?bccc")
    assert len(written) == len(ERASE) + 79
