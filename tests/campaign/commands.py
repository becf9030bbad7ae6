"""Runs random command lines in forked children of one process, and reports results that no command line may have.

usage: python -m tests.campaign.commands [--help]

Commands and options are drawn from the application itself. Values are ordinary, odd or hostile. Standard input is
closed, empty, a pipe, a file or an endless device. TERM, COLUMNS, LC_ALL and NO_COLOR vary. The report lists
tracebacks, command lines that exceed the time limit, exit codes that are not promised, and leftover temporary files.
"""

import argparse
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from attncli.views import NAMED_VIEWS

PROMISED = {0, 2, 3, 4, 5}
LITTER = re.compile(r"\.(writing|tmp|lock)|^\.")
HOSTILE = [
    *(
        "",
        " ",
        "-",
        "--",
        "-1",
        "0",
        "1",
        "2",
        "7",
        "0.5",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "1e-320",
        "99999999999999999999",
    ),
    *("9" * 5000, "1M", "5s", "0s", "x" * 300, "x" * 70_000, "tiny", "text.txt", "missing.txt", ".", "/", "/dev/null"),
    *(
        "/dev/zero",
        "/root/\x00",
        "../..",
        "fifo",
        "locked",
        "binary",
        "empty",
        "\udcff",
        "\x1b[31m",
        "[red]",
        "a\nb",
        "🙂",
    ),
    *(
        "auto",
        "cpu",
        "cuda",
        "float32",
        "int8",
        "bars",
        "map",
        "grid",
        "lens",
        "1.1",
        "9.9",
        "#5",
        "#-1",
        "the=1",
        "utf-16",
    ),
    *(
        "bpe",
        "char",
        "byte",
        "muon",
        "2x64",
        "1x32",
        "0x0",
        "10000x10000",
        "out",
        "out/deep/er",
        "picture.svg",
        "a,b",
        "0,0.5",
    ),
]
ORDINARY = {
    "--model": ["tiny"], "--view": list(NAMED_VIEWS), "--head": ["0", "0.1"],
    "--device": ["cpu", "auto"], "--dtype": ["auto", "float32", "bfloat16", "int8"], "--weights": ["norm", "raw"],
    "--svg": ["a.svg"], "--html": ["a.html"], "--csv": ["a.csv"], "--npz": ["a.npz"], "--out": ["out"],
    "--name": ["new"],
    "--tokenizer": ["bpe", "char", "byte"], "--optimizer": ["muon", "adamw"], "--size": ["1x32", "2x64"],
    "--train": ["text.txt"], "--train-file": ["text.txt"], "--val-file": ["text.txt"], "--file": ["text.txt"],
    "--encoding": ["utf-8", "latin-1"], "--from": ["tiny"], "--temperatures": ["0,1"], "--time": ["2s"],
}  # fmt: skip
NUMBERS = {"float": ["0", "0.3", "0.9", "1", "2"], "int": ["1", "2", "3", "16"]}
TEXTS = ["The cat sat on", "The dog", "A small cat sat on the mat"]
ARGUMENTS = {
    "train": [["text.txt"]], "eval": [["tiny", "text.txt"], ["text.txt"]], "compare": [["cat", *TEXTS[:1], TEXTS[2]]],
    "neighbors": [["cat"], ["dog"]], "analogy": [["cat", "dog", "mat"]], "info": [["tiny"], []], "plot": [["tiny"], []],
    "heads": [[]], "bench": [[]], "models": [[]],
}  # fmt: skip
SHORT = {
    "generate": ["-n", "4"],
    "train": ["--steps", "2", "--size", "1x32", "--context", "16"],
    "bench": ["--time", "1s"],
}
ENVIRONMENT = {
    "TERM": ["xterm", "dumb", "", "xterm-256color", "nonsense"],
    "COLUMNS": ["80", "1", "0", "-5", "20", "99999999", "x"],
    "LC_ALL": ["C", "C.UTF-8", "POSIX", "xx_YY"],
    "NO_COLOR": ["1", ""],
    "CLICOLOR_FORCE": ["1", "0"],
}
STDIN = ["closed", "null", "pipe", "text.txt", "binary", "/dev/zero"]


def places(folder: Path) -> None:
    """Fills a directory with files of every kind that a command can get."""
    (folder / "text.txt").write_text("A small cat sat on the mat and the dog ran to the river.\n" * 60)
    (folder / "binary").write_bytes(bytes(range(256)) * 20)
    (folder / "empty").touch()
    os.mkfifo(folder / "fifo")
    (folder / "locked").mkdir(mode=0)


def command_line(drawn: random.Random, commands: dict) -> list[str]:
    """Returns a random command line: a command, some options with their values, and arguments."""
    name = drawn.choice(list(commands))
    words = [name]
    params = [param for param in commands[name].params if param.param_type_name == "option"]
    for param in drawn.sample(params, min(drawn.choice((0, 0, 1, 1, 2, 3)), len(params))):
        words.append(drawn.choice(param.opts))
        if not param.is_flag:
            ordinary = ORDINARY.get(param.opts[0]) or NUMBERS["float" if "float" in str(vars(param)).lower() else "int"]
            words.append(drawn.choice(ordinary if drawn.random() < 0.75 else HOSTILE))
    given = drawn.choice(ARGUMENTS.get(name) or [[text] for text in TEXTS])
    words += given if drawn.random() < 0.8 else drawn.choices(HOSTILE, k=drawn.choice((0, 1, 2, 3)))
    if drawn.random() < 0.5 and "tiny" not in given and any("-m" in param.opts for param in params):
        words += ["-m", "tiny"]
    return words + SHORT.get(name, [])


def child(words: list[str], stdin: str, environment: dict[str, str], folder: Path) -> None:
    """Runs a command line in this process, and then ends the process."""
    from attncli.cli.main import run
    from attncli.cli.process import open_streams

    os.chdir(folder)
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, 100 << 20))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.close(0)
    if stdin == "pipe":
        _, writer = os.pipe()  # the pipe's reading end is 0, the lowest free descriptor
        os.write(writer, b"Once upon a time\n/help\n/set temperature 0\n\n")
        os.close(writer)
    elif stdin != "closed":
        os.open({"null": os.devnull}.get(stdin, stdin), os.O_RDONLY)
    sys.stdin, sys.stdout, sys.stderr = None, open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    try:
        open_streams()
        code = run(words)
        sys.stdout.flush()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    os._exit(code)


def ended(process: int, limit: float) -> int | None:
    """Waits for a child. Returns its exit code, or None if it was killed at the time limit in seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def problems(code: int | None, told: str, folder: Path) -> list[str]:
    """Returns what is wrong with the end of a command line, such as a traceback or a leftover file."""
    found = ["hang"] if code is None else []
    if "Traceback" in told:
        found.append("traceback")
    elif code is not None and code not in PROMISED:
        found.append(f"code {code}")
    elif code and not told.strip():
        found.append(f"code {code} without a word")
    left = [str(path) for path in folder.rglob("*") if LITTER.search(path.name) and code is not None]
    return [*found, *(f"left {name}" for name in left)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="command lines to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first one, to run one again")
    parser.add_argument("--limit", type=float, default=20, help="seconds for each")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "ATTNCLI_NATIVE": "0"}
    import torch
    import typer

    from attncli.cli.main import app

    torch.set_num_threads(1)
    commands = typer.main.get_command(app).commands
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as base:
        os.environ["ATTNCLI_CACHE"] = str(Path(base) / "cache")
        first = Path(base) / "first"
        first.mkdir()
        places(first)
        tiny = ["train", "text.txt", "--steps", "4", "--size", "1x32", "--context", "128", "--name", "tiny"]
        if (process := os.fork()) == 0:
            child(tiny, "null", {}, first)
        assert ended(process, 300) == 0, (Path(base) / "stderr").read_text()
        for number in range(given.first, given.first + given.count):
            drawn = random.Random(given.seed * 1_000_003 + number)
            words, stdin = command_line(drawn, commands), drawn.choice(STDIN)
            changed = {name: drawn.choice(values) for name, values in ENVIRONMENT.items() if drawn.random() < 0.5}
            folder = Path(base) / "here"
            folder.mkdir()
            places(folder)
            shutil.copytree(first / "checkpoints", folder / "checkpoints")
            if (process := os.fork()) == 0:
                child(words, stdin, changed, folder)
            code = ended(process, given.limit)
            told = (Path(base) / "stderr").read_text(errors="replace")
            counts[str(code)] += 1
            for problem in problems(code, told, folder):
                counts[problem.split(" ")[0]] += 1
                shown = " ".join(shlex.quote(word if len(word) < 80 else word[:77] + "...") for word in words)
                print(f"{number}: {problem}: {shown!r} < {stdin} {changed}", flush=True)
                if problem in ("traceback",) or problem.startswith("code"):
                    print("    " + "\n    ".join(told.strip().splitlines()[-4:]), flush=True)
            (folder / "locked").chmod(0o700)
            shutil.rmtree(folder)
    print(f"{given.count} command lines: {dict(sorted(counts.items()))}")
    return int(any(counts[name] for name in ("hang", "traceback", "code", "left")))


if __name__ == "__main__":
    sys.exit(main())
