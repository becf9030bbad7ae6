"""Measures how long a training step and the scoring of a window take on this device, with temporary models."""

from __future__ import annotations

import math
import statistics
import time
from typing import NamedTuple

import torch

from attncli.config import ModelConfig
from attncli.model.transformer import Transformer, initialize
from attncli.training import recipe
from attncli.training.step import Trainee
from attncli.training.step_setup import StepSetup
from attncli.training.tasks.base import Batch

_SEED = 0
_TICK = 1e-9  # seconds; a lower limit that prevents a division by zero


class StepTime(NamedTuple):
    """The time of a step in seconds, and how busy the machine is.

    `busy` is the time of the step divided by the CPU time of the main thread: about 1 on an idle machine.
    """

    seconds: float
    busy: float


class StepTimer:
    """Measures the time of a training step for a shape of the model. Each shape is measured once."""

    def __init__(self, setup: StepSetup) -> None:
        self.setup = setup
        self.busy = 1.0  # `StepTime.busy` of the step that was requested last
        self._known: dict[tuple[ModelConfig, int, bool], StepTime] = {}

    def step_seconds(self, model: ModelConfig, parts: int = 1, recompute: bool = False) -> float:
        """Returns the seconds that a step of this shape takes in `parts` micro-batches.

        If `recompute`, the step recomputes activations in the backward pass.
        """
        key = model, parts, recompute
        if key not in self._known:
            self._known[key] = measure_step(model, self.setup, parts, recompute)
        self.busy = self._known[key].busy
        return self._known[key].seconds

    def fastest_threads(self, model: ModelConfig, parts: int = 1, recompute: bool = False) -> tuple[int, float]:
        """Returns the number of threads at which a step is fastest, and the seconds of the step.

        Tries all threads, then half of them, a quarter, and so on, until the step is no faster. Fewer threads are
        faster if a small model runs on many cores, or if other programs use some of the cores.
        """
        most = count = torch.get_num_threads()
        best, seconds = count, self.step_seconds(model, parts, recompute)
        try:
            while (count := count // 2) > 0:
                torch.set_num_threads(count)
                found = measure_step(model, self.setup, parts, recompute)
                if found.seconds > recipe.FEWER_THREADS_GAIN * seconds:
                    break
                best, seconds, self.busy = count, *found
        finally:
            torch.set_num_threads(most)
        return best, seconds


def measure_step(model_config: ModelConfig, setup: StepSetup, parts: int = 1, recompute: bool = False) -> StepTime:
    """Measures the median time of a few training steps on this device, with a temporary model.

    For a very large step, measures a part and scales the time up, because a whole step could take hours.
    """
    on_cpu = setup.device.type == "cpu"
    most = recipe.CPU_TIMED_TOKENS if on_cpu else recipe.GPU_TIMED_TOKENS
    size = setup.task.timed_batch_size(setup.batch_size, setup.context, most)
    share = size / setup.batch_size
    dropout = 0.1 if setup.adaptation is None else 0.0  # dropout stores the weights of attention
    model = _network(model_config, setup, dropout)
    for stack in model.stacks:
        stack.checkpoint_activations = recompute
    smoothing = setup.task.tuning.label_smoothing
    trainee = Trainee(model.to(setup.device).train(), setup.optimizer, 0.0, setup.dtype, smoothing=smoothing)
    times: list[float] = []
    computing: list[float] = []  # CPU seconds
    random = torch.random.get_rng_state()
    while len(times) < recipe.FEWEST_TIMED_STEPS or (
        len(times) < recipe.MOST_TIMED_STEPS and sum(times) < setup.measuring_seconds
    ):
        batch = setup.task.batch(len(times), _SEED, setup.context, size)
        seconds, computed = _timed(trainee, batch, len(times), math.ceil(parts * share), setup.device)
        times.append(seconds)
        computing.append(computed)
    torch.random.set_rng_state(random)  # dropout drew from the global generator
    # The first step is a warm-up. On a GPU, the main thread only waits, so its CPU time does not show a busy machine.
    busy = sum(times[1:]) / max(sum(computing[1:]), _TICK) if on_cpu else 1.0
    return StepTime(statistics.median(times[1:]) / share, max(busy, 1.0))


def _network(config: ModelConfig, setup: StepSetup, dropout: float = 0.0) -> Transformer:
    """Returns a temporary network. If a run trains adapters, it shares the weights of the frozen model."""
    if setup.adaptation is not None:
        return setup.adaptation.network(config, dropout, _SEED)
    model = Transformer(config, dropout)
    initialize(model, torch.Generator().manual_seed(_SEED))
    return model


def _timed(trainee: Trainee, batch: Batch, step: int, parts: int, device: torch.device) -> tuple[float, float]:
    """Takes one step with learning rate 0. Returns the seconds that it took and the CPU seconds of this thread."""
    began, computed = time.monotonic(), time.thread_time()
    outcome = trainee.step(batch.to(device), step=step, seed=_SEED, lr=0.0, adam_lr=0.0, parts=parts)
    assert outcome is not None
    outcome[0].item()  # waits for the device
    return time.monotonic() - began, time.thread_time() - computed


def measure_window(model_config: ModelConfig, setup: StepSetup) -> float:
    """Returns the seconds that it takes to score a window or a pair of the validation part on this device.

    The network computes in float32, as in the final evaluation.
    """
    model = _network(model_config, setup).to(setup.device)
    task, context, times = setup.task, model_config.context, []
    for _ in range(2):
        began = time.monotonic()
        scored = task.evaluate(model, task.units_at_once(setup.device, context)).scored
        times.append((time.monotonic() - began) * task.unit_tokens(context) / scored)
    return min(times)
