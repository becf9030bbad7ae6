"""Measures how long a save interrupts training and how much memory it needs, in place and in the background.

usage: python benchmarks/save.py [--sizes 4x128 6x384 16x768] [--saves 3] [--folder DIR]

"stands still" is the time until the next step can begin. "costs" is the total delay of all steps until the save is
safely on the disk, including the time that training stands still. "memory" is the peak beyond the memory of training.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

WAYS = ("in place", "beside")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does


def held(what: str) -> float:
    """Returns the memory of this process in MB: VmRSS is the current value, VmHWM the peak since its last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1e3


def measure(size: str, way: str, saves: int, folder: Path) -> None:
    import torch

    from attncli.config import CorpusConfig, TrainConfig
    from attncli.model.transformer import Transformer, initialize
    from attncli.text.corpus import prepare
    from attncli.text.documents import Documents
    from attncli.training import recipe
    from attncli.training.plan import make_plan
    from attncli.training.run import Run, weights_of
    from attncli.training.saver import Saver
    from attncli.training.step import Trainee
    from attncli.training.tasks.registry import task_of
    from attncli.training.tasks.text import TextBatch

    recipe.COPIED_STATE = 0
    text = Documents.of(("the cat sat on the mat and ran\n" * 2000,), ("text",))
    corpus = prepare(text, CorpusConfig(tokenizer="byte"))
    plan = make_plan(TrainConfig(steps=1000, size=size, context=64, batch_size=1, dropout=0.0), corpus)
    model = Transformer(plan.model)
    initialize(model, torch.Generator().manual_seed(0))
    trainee = Trainee(model, "adamw", 0.1, torch.float32)
    run = Run(trainee, plan.schedule, best_weights=weights_of(model))
    rows = torch.randint(plan.model.vocab_size, (1, 65))

    def step() -> float:
        began = time.perf_counter()
        trainee.step(TextBatch(rows), step=0, seed=0, lr=1e-4, adam_lr=1e-4)
        return time.perf_counter() - began

    for _ in range(3):
        step()
    typical = statistics.median(step() for _ in range(7))
    still, costs, memory = [], [], []
    with Saver(folder / "m", task_of(corpus), plan, {}) as saver:
        for _ in range(saves):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before, began = held("VmRSS"), time.perf_counter()
            saver.save(run, "running", 0.0) if way == WAYS[0] else saver.save_beside(run, 0.0)
            still.append(time.perf_counter() - began)
            steps = 0
            while not list(saver.safe()):
                step()
                steps += 1
            costs.append(time.perf_counter() - began - steps * typical)
            memory.append(held("VmHWM") - before)
            for _ in range(3):
                step()
    state = sum(tensor.nbytes for tensor in saver._state(run, 0.0).tensors.values()) / 1e6
    figures = (statistics.median(still), statistics.median(costs), statistics.median(memory))
    print(
        f"{plan.parameters / 1e6:7.1f} M {state:9.0f} MB {typical:8.3f} s   {way:<9}"
        f"{figures[0]:9.3f} s {figures[1]:9.3f} s {figures[2]:9.0f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["4x128", "6x384", "16x768"])
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", default=None, help="on the disk to measure")
    parser.add_argument("--way", choices=WAYS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.way:
            return measure(given.sizes[0], given.way, given.saves, Path(folder))
        print("parameters     state       step   save     stands still     costs      memory")
        for size in given.sizes:
            for way in WAYS:
                command = [sys.executable, __file__, "--sizes", size, "--way", way, "--saves", str(given.saves)]
                subprocess.run([*command, "--folder", folder], check=True)
    return None


if __name__ == "__main__":
    main()
