"""Runs command lines in processes that are forked from a server, which has imported the package and its libraries.

A fork saves the seconds of the imports. From `main` to the end of the interpreter, a forked command runs as
`python -m attncli` does, with the quick recipe of the tests. Tests of the time before `main`, and of the modules that a
command imports, need a new interpreter: `tests.support.commands.start`.

For each command, the server forks a keeper. The keeper forks the command and waits for its end.
"""

import atexit
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.support.commands import RECIPE
from tests.support.places import ROOT


class Done(NamedTuple):
    """The exit code and the output of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class ForkedCommand:
    """A command line in a forked process, with those methods of `subprocess.Popen` that the tests need.

    By default, standard output and standard error are pipes, and standard input is empty. `before` is Python code that
    runs first. With `terminal`, standard input is the terminal that controls the process.
    """

    def __init__(self, *arguments, folder, environment=None, terminal=False, before="", **streams):
        ours, theirs = [], []
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            stream = streams.get(name, subprocess.PIPE if number else subprocess.DEVNULL)
            pipe = os.pipe()[:: 1 if number else -1] if stream == subprocess.PIPE else None  # ours, theirs
            if pipe is None:
                theirs.append(os.open(os.devnull, os.O_RDWR) if stream == subprocess.DEVNULL else _duplicate(stream))
            else:
                theirs.append(pipe[1])
            ours.append(pipe and os.fdopen(pipe[0], "r" if number else "w", encoding="utf-8"))
        self.stdin, self.stdout, self.stderr = ours
        self._status, status = os.pipe()
        request = {
            "arguments": arguments, "folder": str(folder), "terminal": terminal, "before": before,
            "environment": {**os.environ, "PYTHONUNBUFFERED": "1"} if environment is None else environment,
        }  # fmt: skip
        socket.send_fds(_server(), [json.dumps(request).encode()], [*theirs, status])
        for descriptor in (*theirs, status):
            os.close(descriptor)
        self.returncode = None
        self.pid = int(self._line())

    def _line(self):
        """Reads the next line from the keeper. The first line is the command's process id, the second its exit code."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._status, 1)
            assert part, "the process that keeps the command has gone"
            line += part
        return line

    def poll(self):
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=60):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("attncli", timeout)
            self.returncode = int(self._line())
            os.close(self._status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, text=None):
        """Writes `text` to standard input, waits for the end, and returns standard output and standard error."""
        if self.stdin:
            self.stdin.write(text or "")
            self.stdin.close()
        with ThreadPoolExecutor(2) as readers:
            written = list(readers.map(lambda stream: stream and stream.read(), (self.stdout, self.stderr)))
        self._close()
        self.wait()
        return written

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()
        self.wait()

    def _close(self):
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()


def run_forked(*arguments, folder, environment=None):
    """Runs a command line in a forked process until it ends."""
    with ForkedCommand(*arguments, folder=folder, environment=environment) as process:
        written = process.communicate()
    return Done(process.returncode, *written)


def _duplicate(stream):
    return os.dup(stream if isinstance(stream, int) else stream.fileno())


@functools.cache
def _server():
    """Returns a socket to the server, which starts at the first call and ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.forking", str(theirs.fileno())]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ATTNCLI_", "PYTEST"))}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(
        command, cwd=ROOT, env=kept, pass_fds=[theirs.fileno()], start_new_session=True, **streams
    )
    theirs.close()
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


# In the server


def _serve(channel):
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()  # otherwise, the garbage collection at a command's end would copy all memory of the imports
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not request:
            return None
        if os.fork() == 0:
            channel.close()
            return _keep(json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _import_all():
    """Imports what commands import, except `huggingface_hub`, which reads the environment, but not its dependencies."""
    import attncli

    importlib.import_module("huggingface_hub.hf_api")
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    for module in pkgutil.walk_packages(attncli.__path__, "attncli."):
        if module.name != "attncli.__main__":
            importlib.import_module(module.name)
    assert "huggingface_hub" not in sys.modules
    importlib.import_module("attncli.cli.main").run(["tokenize", "--help"])  # Typer imports more at its first use


def _keep(request, descriptors):
    *streams, status = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(status)
        return _become(request, streams)
    for descriptor in streams:
        os.close(descriptor)
    os.write(status, f"{child}\n".encode())
    os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
    return os._exit(0)


def _become(request, streams):
    """Gives this process the state of a process that `python -m attncli` has started, and runs the command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["attncli", *request["arguments"]]
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (_output(number) for number in (1, 2))
    from attncli.training import recipe

    vars(recipe).update(RECIPE)
    exec(request["before"], {})
    from attncli.__main__ import main

    main()


def _output(descriptor):
    if "PYTHONUNBUFFERED" in os.environ:
        return io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), encoding="utf-8", write_through=True)
    by_line = descriptor == 2 or os.isatty(descriptor)
    return os.fdopen(descriptor, "w", buffering=1 if by_line else -1, encoding="utf-8", closefd=False)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
