"""Runs commands of attncli in this process or in a new process."""

import os
import signal
import subprocess
import sys

from attncli.cli.main import run

QUICK = ["--steps", "30", "--size", "1x32", "--context", "32", "--seed", "1", "--dtype", "float32"]  # training
RECIPE = {"EVALUATIONS": 4, "SAMPLE_TOKENS": 10, "FINAL_SAMPLE_TOKENS": 30}  # of every training run in the tests
BRIEF = ["--steps", "2", *QUICK[2:]]  # saves before the first step and after the last


def ask(capsys, *arguments):
    """Runs a command in this process; returns its exit code, standard output and standard error."""
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def start(*arguments, folder, **options):
    """Starts a command in a new process."""
    command = [sys.executable, "-m", "attncli", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, preexec_fn=_heed_signals, **pipes)


def _heed_signals():
    """Restores the default signal handlers, because nohup ignores some signals and a child would inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def keys_of(value):
    """Returns all keys of a JSON document, at every depth, except keys within `run` and `reasons`."""
    if isinstance(value, list):
        return keys_of(value[0]) if value else set()
    if not isinstance(value, dict):
        return set()
    inner = [keys_of(part) for key, part in value.items() if key not in ("run", "reasons")]
    return set(value).union(*inner)
