"""Sends a signal to real commands at many moments, and checks that each ends as promised.

usage: python -m tests.campaign.interrupts [--help]

A command must end within a second, with one line and the exit code 128 + signal. A training run after its first step is
the exception: it first saves, and prints in two lines how to resume. Until the first line of attncli runs, a signal
makes Python end with its own traceback. The duration of this phase is measured and printed.
"""

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.places import ROOT

MOMENTS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8)  # seconds
COMMANDS = {
    "generate": ["generate", "Once upon a time", "-n", "5000"],
    "explain": ["explain", "He sat on the river's bank"],
    "train": ["train", "text.txt", "--time", "60s", "--vocab-size", "16k", "--out", "model"],
    "train pairs": ["train", "pairs.tsv", "--time", "60s", "--vocab-size", "4k", "--out", "model"],
    "eval": ["eval", "text.txt"],
    "heads": ["heads"],
    "bench": ["bench", "--time", "20s"],
    "tokenize --train": ["tokenize", "--train", "text.txt", "--vocab-size", "16k", "--out", "tokenizer"],
    "models": ["models"],
}
TRAINING = re.compile(r"Stopped at step .*\n.*\n\Z")
LONGEST = 60  # seconds; a command that takes longer to end counts as hung


def text(words: int = 260_000, bytes_: int = 2_000_000) -> str:
    """Returns sentences of many invented words, so that learning a vocabulary takes some time."""
    drawn = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(drawn.choices(letters, k=drawn.randint(3, 12))) for _ in range(60_000)]
    lines = (" ".join(drawn.choices(known, k=9)).capitalize() + "." for _ in range(words // 9))
    return "\n".join(lines)[:bytes_]


def stop(arguments: list[str], moment: float, number: int, folder: Path) -> tuple[int | None, float, str]:
    """Sends a signal to a command after `moment` seconds.

    Returns the exit code, the seconds from the signal to the end, and standard error. The code is None if the command
    ended before the signal.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "attncli", *arguments]
    with (folder / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # otherwise a background job would ignore SIGINT
        )
        try:
            process.wait(moment)
            return None, 0.0, ""
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        began = time.perf_counter()
        try:
            process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seconds = time.perf_counter() - began
        errors.seek(0)
        return process.returncode, seconds, errors.read()


def verdict(code: int, seconds: float, told: str, number: int, left: list[str]) -> str:
    """Returns what is wrong with the end of a command, or an empty text if it ended as promised."""
    said = re.sub(r"(?m)^seed \d+\n", "", told)
    if code == 128 + number and "model" in left and TRAINING.search(said):
        return ""
    wrong = [] if code == 128 + number else [f"code {code}"]
    wrong += [] if seconds <= 1 else ["slow"]
    wrong += [] if said == "Stopped.\n" else [f"said {said[-300:]!r}"]
    return ", ".join([*wrong, *([f"left {left}"] if left else [])])


def before_the_first_line(rounds: int) -> float:
    """Returns the median of the seconds from the start of Python to the first line of attncli."""
    code = "import os, time; os.write(1, str(time.time()).encode())"
    times = []
    for _ in range(rounds):
        began = time.time()
        times.append(
            float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) - began
        )
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=COMMANDS, action="append", help="this command; may be given several times")
    parser.add_argument("--moments", type=float, nargs="+", default=MOMENTS, help="seconds after the start")
    parser.add_argument("--signal", choices=["INT", "TERM", "HUP"], default="INT")
    given = parser.parse_args()
    number = getattr(signal, f"SIG{given.signal}")
    wrong = tried = 0
    before = before_the_first_line(9)
    print(f"Python's own start, which nothing can cover: {before * 1000:.0f} ms")
    for name in given.only or COMMANDS:
        for moment in given.moments:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                (folder / "text.txt").write_text(text())
                (folder / "pairs.tsv").write_text("".join(f"{line}\t{line}\n" for line in text().splitlines()))
                known = {"text.txt", "pairs.tsv", "stderr"}
                code, seconds, told = stop(COMMANDS[name], moment, number, folder)
                left = sorted(path.name for path in folder.iterdir() if path.name not in known)
            if code is None:
                print(f"{name:<18} {moment:5.2f} s  had ended", flush=True)
                continue
            if (code, told) == (0, ""):
                print(f"{name:<18} {moment:5.2f} s  was done", flush=True)
                continue
            tried += 1
            found = verdict(code, seconds, told, number, left)
            if found and moment < 2 * before and code in (-number, 1):
                found = f"(before the first line) {found}"
            else:
                wrong += bool(found)
            print(f"{name:<18} {moment:5.2f} s  ended in {seconds:.2f} s  {found or 'as promised'}", flush=True)
    print(f"{wrong} of {tried} did not end as promised")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
