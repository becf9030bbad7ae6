"""Estimates the memory of a training step from its shapes, and splits a step until it fits the device's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attncli.checkpoint.adaptation import Adaptation
from attncli.config import ModelConfig, TrainConfig
from attncli.errors import OutOfRoom
from attncli.evaluation.loss import LOGITS_AT_ONCE
from attncli.model.count import attention_count, count_parameters, matrix_parameters
from attncli.model.device import physical_memory
from attncli.model.fused import logits_at_once
from attncli.training import recipe
from attncli.training.decision import Decision
from attncli.training.step_setup import StepSetup


@dataclass(frozen=True)
class Fit:
    """The settings with which a step fits the memory, and the memory that the step then needs, in bytes."""

    grad_accum: Decision[int]  # micro-batches
    checkpoint_activations: Decision[bool]
    memory_bytes: int


def fit_memory(config: TrainConfig, model: ModelConfig, setup: StepSetup) -> Fit:
    """Chooses the number of micro-batches, and whether to recompute activations, so that a step fits the memory.

    Adapters are trained on a CPU to need little memory, so their steps are split further, as far as possible. Raises
    OutOfRoom if no choice fits, since the system would kill the process during the run.
    """
    memory = memory_of(setup.device)
    reason = f"to fit {memory / 1e9:.0f} GB of memory"
    parts, recompute = Decision(config.grad_accum or 1), Decision(bool(config.checkpoint_activations))
    load, wanted = setup.load, _wanted_bytes(model, setup)
    while True:
        tokens = math.ceil(load.rows / parts.value) * load.row_tokens
        needed = memory_bytes(model, tokens, setup, recompute.value)
        divisible = config.grad_accum is None and parts.value < load.rows
        if needed <= recipe.MEMORY_SHARE * memory:
            if needed <= wanted or not divisible:
                return Fit(parts, recompute, needed)
            reason = f"to fit {(wanted - setup.resident_bytes) / 1e9:.1f} GB beside the model"
        if divisible:
            parts = Decision(min(parts.value * 2, load.rows), reason)
        elif config.checkpoint_activations is None and not recompute.value:
            parts, recompute = Decision(parts.value, reason), Decision(True, reason)
        else:
            raise _too_large(needed, memory)


def _wanted_bytes(model: ModelConfig, setup: StepSetup) -> float:
    """Returns the memory, in bytes, within which a step of adapters on a CPU is wanted; infinite for other steps."""
    if setup.adaptation is None or setup.device.type != "cpu":
        return math.inf
    return setup.resident_bytes + max(recipe.ADAPTING_BYTES, 4 * sum(count_parameters(model).values()))


def _too_large(needed: int, memory: int) -> OutOfRoom:
    """Returns the error for a step that does not fit the memory."""
    return OutOfRoom.naming(
        lambda named: (
            f"This needs about {needed / 1e9:.1f} GB of memory; the machine has {memory / 1e9:.1f} GB.",
            f"Try a smaller {named('batch_size')}, {named('context')} or {named('size')}.",
        )
    )


def fits(model: ModelConfig, setup: StepSetup) -> bool:
    """Whether a step fits the memory without a split into micro-batches."""
    load = setup.load
    return memory_bytes(model, load.rows * load.row_tokens, setup) <= recipe.MEMORY_SHARE * memory_of(setup.device)


def memory_of(device: torch.device) -> int:
    """Returns the total memory of the device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def memory_bytes(model: ModelConfig, tokens: int, setup: StepSetup, recompute: bool = False) -> int:
    """Returns the estimated bytes of memory that a step needs, with `tokens` tokens in each forward pass.

    The estimate is a sum: weights, gradients, optimizer state, activations, the buffers of the update, the best weights
    so far, a save that is being written, and the memory that the process already uses. With `recompute`, only the input
    of every layer and the other activations of one layer are stored.
    """
    if setup.adaptation is not None:
        return _adapting_bytes(model, tokens, setup, setup.adaptation, recompute)
    parameters = sum(count_parameters(model).values())
    matrices = matrix_parameters(model) - model.vocab_size * model.width if setup.optimizer == "muon" else 0
    size = setup.dtype.itemsize
    working = 0 if setup.dtype == torch.float32 else 2 * size  # a copy of each weight and its gradient
    state = 4 * matrices + 8 * (parameters - matrices)
    per_token = _numbers_per_token(model, setup, recompute)
    update = (8 + 3 * size) * matrices // 2  # buffers for the largest stack of matrices
    update += 12 * min(tokens * model.vocab_size, logits_at_once(setup.device.type))
    on_cpu = setup.device.type == "cpu"  # copies from a GPU are in main memory
    kept = 8 * parameters + state if on_cpu else 0  # the best weights so far, and the copy of a save
    rows = 8 * setup.load.rows * (setup.load.row_tokens + 1)
    activations = size * tokens * per_token
    return setup.resident_bytes + (8 + working) * parameters + state + update + kept + rows + activations


def _adapting_bytes(model: ModelConfig, tokens: int, setup: StepSetup, adaptation: Adaptation, recompute: bool) -> int:
    """Returns the estimated bytes of memory of a step that trains adapters of a frozen model.

    The adapters need all that a trained weight needs. The frozen weights need no gradients and no state. On a CPU, they
    are in memory already, and a dtype other than float32 needs a copy. After the run, the merged model is loaded,
    beside the memory in which the last weights were scored.
    """
    frozen, trained = sum(count_parameters(model).values()), adaptation.count(model)
    on_cpu, size = setup.device.type == "cpu", setup.dtype.itemsize
    working = 0 if setup.dtype == torch.float32 else size
    weights = (working + (0 if on_cpu else 4)) * frozen
    adapters = (8 + 2 * working + 8) * trained + (16 * trained if on_cpu else 0)  # with the best so far, and a save
    logits = 12 * min(tokens * model.vocab_size, logits_at_once(setup.device.type))
    rows = 8 * setup.load.rows * (setup.load.row_tokens + 1)
    ranks = adaptation.lora.rank * 7 * (model.layers + model.encoder_layers)  # A x of every adapted matrix
    activations = size * tokens * (_numbers_per_token(model, setup, recompute) + ranks)
    step = weights + adapters + logits + rows + activations
    scored = 12 * min(setup.task.unit_count(setup.context) * setup.context * model.vocab_size, LOGITS_AT_ONCE)
    return setup.resident_bytes + max(step, 4 * frozen + scored if on_cpu else 0)


def _numbers_per_token(model: ModelConfig, setup: StepSetup, recompute: bool) -> int:
    """Returns how many activations a step stores per token.

    In an encoder-decoder, the encoder is assumed to read half of the tokens, and the decoder the other half.
    """
    on_cpu = setup.device.type == "cpu"  # a GPU stores no attention weights
    weights = model.heads * setup.load.keys if on_cpu else 0
    if model.encoder_layers:  # no norms and rotations of queries and keys; without dropout, about a fifth less
        attention = 8 * model.width + weights
        feed_forward = 3 * model.width + (4 if model.gated else 2) * model.feed_forward_width
        layers = model.encoder_layers + model.layers
        total = attention_count(model) * attention + layers * feed_forward
        return total // layers + layers * model.width if recompute else total // 2
    layer = 12 * model.width + weights + 4 * model.width + 4 * model.feed_forward_width
    return layer + model.layers * model.width if recompute else model.layers * layer
