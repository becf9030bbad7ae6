"""Compares the network in C of a wheel with the one that is compiled for this processor: medians of alternating rounds.

usage: python benchmarks/wheel.py dist/attncli-….whl [--models stories FOLDER …] [--shapes 6x640x8192 …] [--rounds 15]
       [--threads 2] [--dtypes float32 …] [--levels x86-64 …]

The wheel has a library for each level of instructions. The highest level that this processor has is measured,
since the wheel uses it here, and the levels that --levels names. The work is that of benchmarks/generate.py with fewer
tokens, so that rounds alternate quickly, and each library has a process of its own. A ratio is the median of the ratios
of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import generate

from attncli.checkpoint.resolve import resolve_model
from attncli.model import wheel_library

NATIVE = "first use"
generate.NEW, generate.BATCH_NEW = 64, 16


def work(library: str, folder: Path, kind: str, threads: int) -> None:
    """Runs in the process of a library: makes one measurement for each line of standard input."""
    levels = wheel_library.LEVELS[platform.machine()]
    with tempfile.TemporaryDirectory() as place:
        wheel_library.FOLDER = Path(place)
        if library != NATIVE:  # the lowest level fits every processor, so this library is loaded
            (wheel_library.FOLDER / levels[-1].file).write_bytes(Path(library).read_bytes())
        measures, ids = generate.attncli(folder, kind, threads, "cpu")
    for measure in measures.values():
        measure()
    print(json.dumps({"measures": list(measures), "ids": ids}), flush=True)
    for line in sys.stdin:
        print(measures[line.strip()](), flush=True)


def compare(libraries: dict[str, str], folder: Path, kind: str, rounds: int, threads: int) -> None:
    """Measures a model with every library, and prints a row for each."""
    workers, names = {}, []
    for name, library in libraries.items():
        command = (
            sys.executable, __file__, "--work", library, "--models", str(folder), "--dtypes", kind,
            "--threads", str(threads),
        )  # fmt: skip
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        names = json.loads(workers[name].stdout.readline())["measures"]
    speeds: dict[tuple[str, str], list[float]] = {(name, measure): [] for name in libraries for measure in names}
    for _ in range(rounds):
        for measure in names:
            for name, worker in workers.items():
                print(measure, file=worker.stdin, flush=True)
                speeds[name, measure].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    print("".join(f"{measure:>18}" for measure in ("", *names)))
    for name in libraries:
        row = ""
        for measure in names:
            ratios = (a / b for a, b in zip(speeds[name, measure], speeds[NATIVE, measure], strict=True))
            row += f"{statistics.median(speeds[name, measure]):>11,.0f} ({statistics.median(ratios):.2f})"
        print(f"{name:>18}{row}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, nargs="?")
    parser.add_argument("--models", nargs="*", default=["stories"])
    parser.add_argument("--shapes", nargs="*", default=["6x640x8192"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--levels", nargs="+", default=[])
    parser.add_argument("--work")
    given = parser.parse_args(arguments)
    if given.work:
        work(given.work, Path(given.models[0]), given.dtypes[0], given.threads)
        return
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(given.wheel) as wheel:
            wheel.extractall(place, [name for name in wheel.namelist() if "/compiled/" in name])
        found = Path(place) / "attncli/model/compiled"
        wheel_library.FOLDER = found
        best, levels = wheel_library.best_library(), wheel_library.LEVELS[platform.machine()]
        measured = [level for level in levels if level.march in given.levels or found / level.file("native") == best]
        libraries = {NATIVE: NATIVE, **{level.march: str(found / level.file("native")) for level in measured}}
        models = {name: resolve_model(name) for name in given.models}
        for shape in given.shapes:
            models[shape] = Path(place) / shape
            generate.write_model(models[shape], shape)
        for name, folder in models.items():
            for kind in given.dtypes:
                print(
                    f"\n{name}, {kind}, {given.threads} threads, medians of {given.rounds}, tokens per second (ratio)"
                )
                compare(libraries, folder, kind, given.rounds, given.threads)


if __name__ == "__main__":
    main()
