"""The settings and the plan of a small training run."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attncli.checkpoint import directory
from attncli.checkpoint.save import Checkpoint, State
from attncli.config import TrainConfig
from attncli.evaluation.score import Score
from attncli.model.count import PRESETS
from attncli.training import train
from attncli.training.reports import EvalReport, Plan, Result, SampleReport, StepReport
from attncli.training.schedule import Schedule
from tests.support.texts import HOSTILE

SMALL = TrainConfig(steps=40, size="1x32", context=16, batch_size=4, dropout=0.1, lr=0.01, dtype="float32")
FACTS = {"created": "", "versions": {}, "corpus": {}, "request": {}}

PLAN = Plan(
    model=PRESETS["gpt2"][1], parameters=124_439_808, context=1024, batch_size=8, grad_accum=2,
    checkpoint_activations=False, optimizer="muon", adam_lr=3e-3, compiled=False, dropout=0.1, weight_decay=0.1,
    schedule=Schedule(0.03, 90, ((0, 1830),)), eval_every=10, report_every=5, seed=1, device="cpu", dtype="float32",
    threads=2, seconds=300.0, most_steps=None, step_seconds=0.12, closing_windows=None, closing_seconds=2.0,
    memory_bytes=123_456_789,
    train_tokens=500_000,
    train_bytes=1_000_000, reasons={"size": "for 5 minutes on this machine", "dropout": "the text is seen 30.0 times"},
)  # fmt: skip


SAMPLE = f"ROMEO: {HOSTILE}\tthe 東京 king of 👩\u200d👧 what\n" + "I have been so long a time that " * 9 + "\n\n"


def reports(steps=300, every=5, evaluations=12):
    """A made-up run whose validation loss rises in the end."""
    noise = np.random.default_rng(1).normal(0, 0.05, steps + 1)
    for step in range(every, steps + 1, every):
        loss = float(3 + 4 * np.exp(-step / (steps / 12)) + noise[step])
        yield StepReport(step, steps, loss, 1e-3, 15_700, 300 * step / steps)
        if step % (steps // evaluations) == 0:
            score = Score((loss + 0.1 + (step / steps) ** 2) * 1000, 1000, 2100, 2200)
            yield EvalReport(step, score, step < steps / 2, 300 * step / steps)
            yield SampleReport(step, SAMPLE, 7)
    yield Result(True, steps, steps, steps // 2, Score(3300, 1000, 2100, 2200), 3.1, steps * 8192, 301.0)


COMMAND = [
    "--steps",
    "24",
    "--size",
    "1x32",
    "--context",
    "16",
    "--batch-size",
    "2",
    "--seed",
    "1",
    "--dtype",
    "float32",
]


def reports_of(corpus, plan, target, **options):
    return list(train(corpus, plan, target, facts={}, **options))


class WholeRun(NamedTuple):
    """A run that was not stopped: its directory, its reports and its saves, in order."""

    folder: Path
    reports: list
    saves: list[Checkpoint]


def cloned(checkpoint):
    """Returns a copy of a save, which later steps of the run do not change."""
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    state = checkpoint.state
    if state is not None:
        state = State({name: tensor.clone() for name, tensor in state.tensors.items()}, state.facts)
    return replace(checkpoint, weights=weights, state=state)


def digest(target):
    return hashlib.sha256((target / directory.WEIGHTS).read_bytes()).hexdigest()


def contents(target):
    return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
