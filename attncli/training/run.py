"""Defines Run, the mutable state of a training run; makes a new run, or restores a run from a save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.directory import STATE_FACTS, STATE_TENSORS
from attncli.checkpoint.save import Checkpoint
from attncli.errors import BadCheckpoint, Diverged
from attncli.evaluation.score import Score
from attncli.model.device import DTYPES, dtype_name
from attncli.model.lora import trained_parameters
from attncli.model.transformer import Transformer, initialize
from attncli.records import record_from_json
from attncli.training.reports import Plan, RunState
from attncli.training.schedule import Schedule
from attncli.training.step import Trainee

WEIGHTS_PREFIX = "weights."  # the prefix of the model's tensors in a saved state
OPTIMIZER_PREFIX = "optimizer."  # the prefix of the optimizer's tensors
_OTHER_RUN = "The state is damaged, or of another run. Train again, or copy the directory again from its source."


@dataclass
class Run:
    """The mutable state of a run: the model, its optimizer, the number of steps, the best weights and the metrics."""

    trainee: Trainee
    schedule: Schedule
    step: int = 0  # the number of steps taken
    best_step: int = 0
    best: Score | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # never changed in place: a save may read them
    metrics: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    train_loss: float | None = None
    seconds_before: float = 0.0  # the time that a resumed run had spent before it was resumed

    @property
    def model(self) -> Transformer:
        """The model with its current weights."""
        return self.trainee.model


@contextmanager
def threads_of(plan: Plan) -> Iterator[None]:
    """Limits PyTorch to the CPU threads of a plan in a `with` block, then restores the previous number of threads."""
    before = torch.get_num_threads()
    if plan.threads >= before:
        yield
        return
    torch.set_num_threads(plan.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin_run(
    plan: Plan,
    initial: dict[str, Tensor] | None = None,
    resume: Checkpoint | None = None,
    adaptation: Adaptation | None = None,
) -> Run:
    """Returns a new run, or the run that continues from the saved state `resume`.

    A new run has the weights `initial`, by default drawn from the seed; with an `adaptation`, it trains adapters alone.
    The tensors of a saved state are removed from the state. Raises BadCheckpoint if the tensors do not match the plan.
    """
    if adaptation is None:
        model = Transformer(plan.model, plan.dropout)
    else:
        model = adaptation.network(plan.model, plan.dropout, plan.seed)
    for stack in model.stacks:
        stack.checkpoint_activations = plan.checkpoint_activations
    if resume is not None:
        assert resume.state is not None
        initial = _weights(model, resume.state.tensors)
    if initial is not None:
        load_trained(model, initial)
    elif adaptation is None:
        initialize(model, torch.Generator().manual_seed(plan.seed))
    model.to(plan.device).train()
    dtype = DTYPES[plan.dtype]
    trainee = Trainee(
        model,
        plan.optimizer,
        plan.weight_decay,
        dtype,
        compiled=plan.compiled,
        context=plan.context,
        smoothing=plan.label_smoothing,
    )
    return Run(trainee, plan.schedule) if resume is None else _restored(trainee, plan, resume)


def diverged(step: int, what: str) -> Diverged:
    """Returns the error for a loss or gradient that is not finite at a step. `what` describes the loss or gradient."""
    return Diverged.naming(
        lambda named: (
            f"Training diverged at step {step}: {what}.",
            f"Earlier saves are kept. Try a smaller {named('lr')}.",
        )
    )


def trained_of(model: Transformer) -> dict[str, Tensor]:
    """Returns the tensors that are trained, by name: those of a model, or of its adapters alone."""
    return {name: parameter.detach() for name, parameter in trained_parameters(model).items()}


def load_trained(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors to the parameters that are trained. The tensors have the names that `trained_of` returns."""
    for name, own in trained_of(model).items():
        own.copy_(tensors[name])


def weights_of(model: Transformer) -> dict[str, Tensor]:
    """Returns copies of the tensors that are trained, in main memory."""
    return copies_of(trained_of(model))


def copies_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies of tensors in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _weights(model: Transformer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the weights from the tensors of a state, and returns the weights.

    Raises BadCheckpoint if they do not match the model.
    """
    expected = {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in trained_of(model).items()}
    _refuse_misfits(expected, {name: t for name, t in tensors.items() if name.startswith(WEIGHTS_PREFIX)})
    return {name: tensors.pop(f"{WEIGHTS_PREFIX}{name}") for name in trained_of(model)}


def _restored(trainee: Trainee, plan: Plan, resume: Checkpoint) -> Run:
    """Returns the run that continues from a saved state, after `_weights` has removed the weights from the state."""
    assert resume.state is not None
    tensors = resume.state.tensors
    facts = record_from_json(RunState, resume.state.facts, STATE_FACTS)
    expected = {f"{OPTIMIZER_PREFIX}{name}": tensor for name, tensor in trainee.optimizer.tensors().items()}
    _refuse_misfits(expected, tensors)
    trainee.optimizer.load({name.removeprefix(OPTIMIZER_PREFIX): tensor for name, tensor in tensors.items()})
    tensors.clear()
    return Run(
        trainee,
        replace(plan.schedule, marks=facts.schedule),
        step=facts.step,
        best_step=facts.best_step,
        best=facts.best,
        best_weights=resume.weights if facts.best else {},
        metrics=list(resume.metrics),
        train_loss=facts.train_loss,
        seconds_before=facts.seconds,
    )


def _refuse_misfits(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raises BadCheckpoint unless the tensors of a state have the expected names, types and shapes, and are finite."""
    for name in sorted(expected.keys() ^ found.keys()):
        does = "lacks" if name in expected else "contains"
        raise BadCheckpoint(f"{STATE_TENSORS} {does} {ascii(name)[:80]}.", _OTHER_RUN)
    for name, tensor in expected.items():
        kinds = [f"{dtype_name(one.dtype)} {list(one.shape)}" for one in (found[name], tensor)]
        if kinds[0] != kinds[1]:
            raise BadCheckpoint(f"{STATE_TENSORS}: {name} is {kinds[0]}, not {kinds[1]}.", _OTHER_RUN)
        if not bool(found[name].isfinite().all()) or (tensor.ndim == 0 and int(found[name]) < 0):
            raise BadCheckpoint(f"{STATE_TENSORS}: {name} contains an impossible value.", _OTHER_RUN)
