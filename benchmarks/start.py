"""Measures the duration of commands, and of `import torch` for comparison: medians of alternating rounds.

usage: python benchmarks/start.py MODEL [--rounds 7]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    attncli = (sys.executable, "-m", "attncli")
    commands = {
        "import torch": (sys.executable, "-c", "import torch"),
        "attncli --help": (*attncli, "--help"),
        "attncli generate -n 50": (*attncli, "generate", "-m", given.model, "The", "-n", "50", "--seed", "1"),
        "attncli explain": (*attncli, "explain", "-m", given.model, "He sat on the river's bank"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(given.rounds):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    torch_alone = statistics.median(times["import torch"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:<24} {median:6.3f} s   {median - torch_alone:+6.3f} s beside import torch")


if __name__ == "__main__":
    main()
