"""Runs commands of attncli, in this process and in one of their own."""

import os
import signal
import subprocess
import sys

from attncli.cli.main import run

QUICK = ["--steps", "30", "--size", "1x32", "--context", "32", "--seed", "1", "--dtype", "float32"]  # training
BRIEF = ["--steps", "2", *QUICK[2:]]  # with a save before the first step and one after the last


def ask(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def start(*arguments, folder, **options):
    """The same in a process of its own."""
    command = [sys.executable, "-m", "attncli", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, preexec_fn=_heed_signals, **pipes)


def _heed_signals():
    """Also when the tests run in the background or under nohup, where some are ignored and a child would inherit it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def keys_of(value):
    """The keys of a document and of what is in it, but for what a run wrote about itself."""
    if isinstance(value, list):
        return keys_of(value[0]) if value else set()
    if not isinstance(value, dict):
        return set()
    inner = [keys_of(part) for key, part in value.items() if key not in ("run", "shape", "parameters", "settings")]
    return set(value).union(*inner)
