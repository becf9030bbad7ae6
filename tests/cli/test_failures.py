"""Errors of the system, the screen and the installation end a command with one or two lines and an exit code."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attncli.cli import main
from attncli.cli.generating.lines import Lines
from attncli.cli.help import docstring
from attncli.cli.main import run
from attncli.errors import BadCheckpoint, BadInput
from attncli.render.console import output


def from_the_system(number):
    return OSError(number, os.strerror(number), "some/file")


def without_descriptors():
    """Raises the error of a command that was caused by an error of the system."""
    try:
        raise from_the_system(errno.EMFILE)
    except OSError:
        raise BadCheckpoint("some/file cannot be read.", "Copy it again.") from None


def raising(problem):
    def raise_it():
        raise problem

    return raise_it


@pytest.mark.parametrize(
    ("fails", "code", "words"),
    [
        (raising(from_the_system(errno.EIO)), 3, "some/file: Input/output error."),
        (raising(from_the_system(errno.EROFS)), 4, "some/file: Read-only file system."),
        (raising(from_the_system(errno.EMFILE)), 4, "ulimit -n"),
        (without_descriptors, 4, "ulimit -n"),
        (raising(ImportError("libtorch.so: cannot open", name="torch")), 1, "torch cannot be imported: libtorch.so"),
    ],
)
def test_an_error_of_the_system_has_two_lines(fails, code, words, monkeypatch, capsys):
    monkeypatch.setattr(main, "app", lambda *_, **__: fails())
    assert run(["models"]) == code
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 2


def test_the_exit_code_is_kept_if_standard_error_is_full():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "attncli", "models", "--nope"], stderr=full, check=False)
    assert done.returncode == 2


def test_help_is_complete_if_python_drops_docstrings():
    command = [sys.executable, "-OO", "-m", "attncli", "models", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert docstring(main.models).splitlines()[0] in " ".join(told.split())


def test_the_size_of_the_screen_is_bounded(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "99999999")
    monkeypatch.setenv("LINES", "9" * 5000)
    assert run(["models"]) == 0
    assert (os.environ["COLUMNS"], os.environ["LINES"]) == ("1000", "1000")


def test_an_error_is_shown_on_a_screen_of_unknown_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    assert run(["models", "--nope"]) == 2
    assert "--nope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "system"),
    [
        ({}, None),
        ({"CLICOLOR_FORCE": "0"}, None),
        ({"CLICOLOR_FORCE": "1"}, "standard"),
        ({"FORCE_COLOR": "1", "TERM": "xterm-256color"}, "256"),
        ({"CLICOLOR_FORCE": "1", "COLORTERM": "truecolor"}, "truecolor"),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, None),
    ],
)
def test_colors_can_be_forced_without_a_terminal_unless_no_color_is_set(environment, system, monkeypatch):
    for name in ("CLICOLOR_FORCE", "FORCE_COLOR", "NO_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console = output()
    assert (console.color_system, console.is_terminal) == (system, False)


def test_an_endless_line_is_refused_once(monkeypatch):
    with Path("/dev/zero").open() as zero:
        monkeypatch.setattr(sys, "stdin", zero)
        lines = Lines()
        with pytest.raises(BadInput, match="A line has more than 1,000,000 characters"):
            lines.next()
        assert lines.next() is None
