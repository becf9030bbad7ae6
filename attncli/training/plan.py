"""Makes the plan of a run: decides every setting before the first step, with a reason.

Settings that the user does not give are chosen from the amount of text, the time, and a short measurement of the
device. The numbers that the choices use are in `recipe`. Each group of choices has a module: `step_setup` (device,
dtype, context), `shapes` (size), `memory` (micro-batches), `budget` (steps), `rates` (learning rates, decay, dropout).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch

from attncli.checkpoint.adaptation import Adaptation
from attncli.config import DEFAULT_TRAINING_SECONDS, ModelConfig, TrainConfig
from attncli.model.count import count_parameters
from attncli.model.device import dtype_name
from attncli.training import recipe
from attncli.training.budget import Closing, affordable_steps, most_steps, plan_closing, requested_steps
from attncli.training.decision import Decision, duration_words, reasons_of
from attncli.training.measure import StepTimer
from attncli.training.memory import Fit, fit_memory
from attncli.training.rates import Rates, choose_rates
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule
from attncli.training.shapes import choose_model
from attncli.training.step import steps_in_c
from attncli.training.step_setup import StepSetup, choose_setup
from attncli.training.tasks.registry import TrainingCorpus, task_of


@dataclass(frozen=True)
class _Choices:
    """The decisions of a plan, in the order in which they are made. Each depends on the earlier decisions."""

    setup: StepSetup
    model: Decision[ModelConfig]
    fit: Fit
    timing: _Timing
    closing: Closing
    steps: Decision[int]
    rates: Rates
    compiled: Decision[bool]


class _Timing(NamedTuple):
    """The number of CPU threads, the seconds that a step takes with these threads, and how busy the machine is."""

    threads: Decision[int]
    step_seconds: float
    busy: float


def make_plan(
    config: TrainConfig,
    corpus: TrainingCorpus,
    spent: float = 0.0,
    start: ModelConfig | None = None,
    adaptation: Adaptation | None = None,
) -> Plan:
    """Makes the plan of a run.

    Args:
        config: the settings that the user gave.
        corpus: the text or the pairs to train on.
        spent: the seconds of the run's time that have passed.
        start: the shape of the model to fine-tune, if there is one.
        adaptation: the adapters to train, if the model itself is frozen.

    Raises:
        BadInput: if the text is shorter than the given context.
        UsageProblem: for an unavailable device or dtype, or a context longer than the context of `start`.
        OutOfRoom: if the model does not fit the memory.
    """
    began = time.monotonic() - spent
    seconds = config.seconds or DEFAULT_TRAINING_SECONDS
    setup = choose_setup(config, task_of(corpus), seconds, start, adaptation)
    timer = StepTimer(setup)
    train_tokens = setup.task.train_tokens
    asked = requested_steps(config, train_tokens, setup.step_tokens)
    model = choose_model(config, timer, seconds - spent, asked, start)
    fit = fit_memory(config, model.value, setup)
    timing = _timing(config, timer, model.value, fit)
    closing = plan_closing(config, seconds, timing.step_seconds, model.value, setup)
    if asked is not None:
        steps = Decision(asked)
    else:
        steps = affordable_steps(seconds, time.monotonic() - began, closing.seconds, timing.step_seconds, setup)
    tokens = steps.value * setup.step_tokens
    epochs = tokens / train_tokens
    rates = choose_rates(config, setup.optimizer, tokens, epochs, setup.task.tuning, fine_tuning=start is not None)
    compiled = _compiled(config, setup, seconds, model.value)
    return _plan(config, _Choices(setup, model, fit, timing, closing, steps, rates, compiled))


def _timing(config: TrainConfig, timer: StepTimer, model: ModelConfig, fit: Fit) -> _Timing:
    """Measures a step, and chooses the number of CPU threads: all of them, or fewer if a step is then faster.

    Only a timed run on a CPU tries fewer threads.
    """
    parts, recompute = fit.grad_accum.value, fit.checkpoint_activations.value
    most, step_seconds = torch.get_num_threads(), timer.step_seconds(model, parts, recompute)
    if not config.timed or timer.setup.device.type != "cpu":
        return _Timing(Decision(most), step_seconds, timer.busy)
    threads, step_seconds = timer.fastest_threads(model, parts, recompute)
    reason = f"{most} threads are no faster now" if threads < most else None
    return _Timing(Decision(threads, reason), step_seconds, timer.busy)


def _compiled(config: TrainConfig, setup: StepSetup, seconds: float, model: ModelConfig) -> Decision[bool]:
    """Decides whether to use torch.compile: only if it can work here, and saves more time than it takes.

    A step in C is faster than a compiled step.
    """
    if config.compile is not None:
        return Decision(config.compile)
    least = setup.task.tuning.compiled_from.get(setup.device.type, math.inf)
    in_c = setup.adaptation is None and steps_in_c(model, setup.dtype, setup.device)
    if not config.timed or seconds < least or in_c or not can_compile(setup.device):
        return Decision(False)
    return Decision(True, f"saves time in a run of {duration_words(least)} or more")


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile can work on this device: a GPU needs Triton, and a CPU needs a C++ compiler."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _plan(config: TrainConfig, chosen: _Choices) -> Plan:
    """Returns the plan for the decisions `chosen`."""
    setup, fit, timing, steps = chosen.setup, chosen.fit, chosen.timing, chosen.steps.value
    return Plan(
        model=chosen.model.value,
        parameters=sum(count_parameters(chosen.model.value).values()),
        context=setup.context,
        batch_size=setup.batch_size,
        grad_accum=fit.grad_accum.value,
        checkpoint_activations=fit.checkpoint_activations.value,
        optimizer=setup.optimizer,
        adam_lr=chosen.rates.adam_lr,
        dropout=chosen.rates.dropout.value,
        weight_decay=chosen.rates.weight_decay.value,
        schedule=Schedule(chosen.rates.lr.value, max(1, round(recipe.WARMUP_SHARE * steps)), ((0, steps),)),
        eval_every=max(1, round(steps / recipe.EVALUATIONS)),
        report_every=max(1, min(round(recipe.REPORT_SECONDS / timing.step_seconds), steps // recipe.EVALUATIONS)),
        seed=config.seed,
        device=str(setup.device),
        dtype=dtype_name(setup.dtype),
        compiled=chosen.compiled.value,
        threads=timing.threads.value,
        seconds=(config.seconds or DEFAULT_TRAINING_SECONDS) if config.timed else None,
        most_steps=most_steps(setup) if config.timed else None,
        step_seconds=timing.step_seconds,
        closing_windows=chosen.closing.windows,
        closing_seconds=chosen.closing.seconds,
        memory_bytes=fit.memory_bytes,
        train_tokens=setup.task.train_tokens,
        train_bytes=setup.task.train_bytes,
        reasons=_reasons(chosen),
        save_dtype=config.save_dtype,
        busy=timing.busy,
        label_smoothing=chosen.rates.label_smoothing,
        lora=None if setup.adaptation is None else setup.adaptation.lora,
        trained_parameters=None if setup.adaptation is None else setup.adaptation.count(chosen.model.value),
        step_tokens=setup.step_tokens if chosen.model.value.encoder_layers else None,
    )


def _reasons(chosen: _Choices) -> dict[str, str]:
    """Returns the reasons for the decisions, by the name of the setting."""
    return chosen.setup.reasons | reasons_of(
        size=chosen.model,
        grad_accum=chosen.fit.grad_accum,
        checkpoint_activations=chosen.fit.checkpoint_activations,
        threads=chosen.timing.threads,
        steps=chosen.steps,
        lr=chosen.rates.lr,
        dropout=chosen.rates.dropout,
        weight_decay=chosen.rates.weight_decay,
        compiled=chosen.compiled,
    )
