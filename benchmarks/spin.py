"""Measures a training step for several spin counts of waiting threads, alone and beside a second training process.

usage: python benchmarks/spin.py [--seconds 6] [--dtype bfloat16]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence


def measure(seconds: float, dtype: str) -> None:
    import torch

    from attncli.model.transformer import Transformer, initialize
    from attncli.training.shapes import shape
    from attncli.training.step import Trainee
    from attncli.training.tasks.text import TextBatch

    model = Transformer(shape(4, 128, 1024, 256))
    initialize(model, torch.Generator().manual_seed(0))
    trainee = Trainee(model.train(), "muon", 0.1, getattr(torch, dtype))
    rows = torch.randint(1024, (4, 257))
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        trainee.step(TextBatch(rows), step=len(times), seed=0, lr=1e-3, adam_lr=1e-3)
        times.append(time.perf_counter() - began)
    print(statistics.median(times) * 1e3)


def run(spin: str, processes: int, seconds: float, dtype: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if spin != "default":
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--measure", "--seconds", str(seconds), "--dtype", dtype]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return statistics.median(float(process.communicate()[0]) for process in started)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args(arguments)
    if given.measure:
        return measure(given.seconds, given.dtype)
    print("GOMP_SPINCOUNT   alone, ms   beside another, ms")
    for spin in ("default", "0", "1000", "5000", "10000", "default"):
        alone, beside = (run(spin, processes, given.seconds, given.dtype) for processes in (1, 2))
        print(f"{spin:<14} {alone:11.1f} {beside:20.1f}")
    return None


if __name__ == "__main__":
    main()
