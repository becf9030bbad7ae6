"""Chooses the device, dtype, context, batch size and optimizer of a training step; `shapes` chooses the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attncli.checkpoint.adaptation import Adaptation
from attncli.config import ModelConfig, OptimizerKind, TrainConfig
from attncli.errors import BadInput, UsageProblem
from attncli.model.device import cpu_multiplies_bfloat16, pick_device, pick_dtype, resident_memory
from attncli.training import recipe
from attncli.training.decision import Decision, duration_words, reasons_of
from attncli.training.tasks.base import Load, Task


@dataclass(frozen=True)
class StepSetup:
    """The settings of a training step, except the shape of the model."""

    task: Task
    device: torch.device
    dtype: torch.dtype
    optimizer: OptimizerKind
    context: int
    batch_size: int  # windows of `context` tokens in a step; for pairs, padded tokens
    measuring_seconds: float  # the time limit for measuring one shape
    resident_bytes: int  # the memory of the process before it has a model
    reasons: dict[str, str]  # why the context and the dtype were chosen
    adaptation: Adaptation | None = None  # the adapters to train; None: the whole model is trained

    @property
    def step_tokens(self) -> int:
        """The mean number of tokens in a step."""
        return self.task.step_tokens(self.context, self.batch_size)

    @property
    def load(self) -> Load:
        """The size of the largest batch."""
        return self.task.load(self.context, self.batch_size)


def choose_setup(
    config: TrainConfig, task: Task, seconds: float, start: ModelConfig | None, adaptation: Adaptation | None = None
) -> StepSetup:
    """Chooses device, dtype, optimizer, context and batch size for a run.

    `start` is the shape of the model to fine-tune, and `adaptation` its adapters, if these are trained alone. Raises
    BadInput for a text that is too short. Raises UsageProblem for an unavailable device or dtype, or for a context
    longer than the context of `start`.
    """
    device = pick_device(config.device)
    context = task.choose_context(config, seconds, device, start)
    task = task.within(context.value)
    dtype = choose_dtype(config, device)
    return StepSetup(
        task,
        device,
        dtype.value,
        config.optimizer or (recipe.OPTIMIZER if start is None else recipe.FINE_TUNING_OPTIMIZER),
        context.value,
        task.choose_batch_size(config, seconds, device, context.value),
        min(recipe.MEASURING_SHARE * seconds, recipe.MEASURING_SECONDS),
        resident_memory() if device.type == "cpu" else 0,
        reasons_of(context=context, dtype=dtype),
        adaptation,
    )


def choose_dtype(config: TrainConfig, device: torch.device) -> Decision[torch.dtype]:
    """Chooses the dtype of the forward and backward passes.

    By default, a CPU that has units for bfloat16 products uses bfloat16; any other CPU uses float32.
    """
    if config.dtype != "auto" or device.type != "cpu":
        return Decision(pick_dtype(config.dtype, device))
    if cpu_multiplies_bfloat16():
        return Decision(torch.bfloat16, "this CPU has units for its matrix products")
    return Decision(torch.float32)


def choose_context(
    config: TrainConfig, tokens: int, seconds: float, device: torch.device, start: ModelConfig | None
) -> Decision[int]:
    """Chooses the context: the number of tokens in a window.

    A short run has a shorter context, since it learns faster from many short windows. A short text also has a shorter
    context.

    Raises:
        UsageProblem: for a context longer than the context of `start`, the model to fine-tune.
        BadInput: for a context as long as the training text, which has `tokens` tokens.
    """
    if config.context is not None:
        refuse_longer_than(start, config.context)
        if config.context >= tokens:
            raise BadInput.naming(
                lambda named: (
                    f"{named('context')} is {config.context}, and the text to train on has {tokens:,} tokens.",
                    f"Give more text or a smaller {named('context')}.",
                )
            )
        return Decision(config.context)
    context, _ = usual_batch(device, seconds)
    reason = f"for {duration_words(seconds)} on {device.type}" if config.timed else f"on {device.type}"
    if start is not None and start.context < context:
        context, reason = start.context, "the context of the model to fine-tune"
    while context > recipe.SHORTEST_CONTEXT and context * recipe.FEWEST_WINDOWS > tokens:
        context //= 2
        reason = f"the text has only {tokens:,} tokens to train on"
    return Decision(context, reason)


def refuse_longer_than(start: ModelConfig | None, context: int) -> None:
    """Raises UsageProblem for a context longer than the context of `start`, the model to fine-tune."""
    if start is not None and context > start.context:
        most = f"the model to fine-tune has a context of {start.context}"
        raise UsageProblem.naming(
            lambda named: (f"{named('context')} is {context}, and {most}.", f"Give a smaller {named('context')}.")
        )


def usual_batch(device: torch.device, seconds: float) -> tuple[int, int]:
    """Returns the context and the tokens per step that the recipe gives a run of `seconds`."""
    table = recipe.CPU_BATCHES if device.type == "cpu" else recipe.GPU_BATCHES
    return next((context, tokens) for limit, context, tokens in table if seconds <= limit)
