"""Takes a training step: forward pass, backward pass, update by the optimizer.

On a CPU, in float32, the operations are those of training.c (`native_step`), if its library is available and the model
has no unknown switch; else PyTorch's. `Trainee` chooses. A step by either gives the same bits every time.

If the dtype is not float32, both passes use a working copy of the weights. A step returns tensors, so nothing here
waits for a GPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from attncli.config import ModelConfig, OptimizerKind
from attncli.model.kernels import Kernels, available
from attncli.model.lora import trained_parameters
from attncli.model.transformer import Transformer
from attncli.training.native_step import NativePasses, supports, supports_shape
from attncli.training.optimizer import Optimizer
from attncli.training.tasks.base import Batch

_STREAM = 1_000_003  # a large prime, so that runs with consecutive seeds do not share step seeds


def step_seed(seed: int, step: int) -> int:
    """Returns the seed of the random numbers of a step.

    The seed depends only on `seed` and `step`, so a resumed run need not replay earlier steps.
    """
    return (seed * _STREAM + step) % 2**63


def updates_in_c(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the optimizer's update is computed in C: in float32 on a CPU, if the library is available."""
    return dtype == torch.float32 and device.type == "cpu" and available()


def steps_in_c(model: ModelConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the passes of a step are computed in C, if every weight of the model is trained."""
    return updates_in_c(dtype, device) and supports_shape(model)


class Trainee:
    """A model in training: its weights in float32 and their optimizer.

    If `dtype` is not float32, the forward and backward passes use a working copy of the weights in `dtype`
    (Micikevicius et al., 2018). The copy is refreshed before each step, so every weight is converted once per step.
    Unlike with autocast, activations are not converted.
    """

    def __init__(
        self,
        model: Transformer,
        kind: OptimizerKind,
        weight_decay: float,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        context: int = 1,
        smoothing: float = 0.0,
        native: bool = True,
    ) -> None:
        """Prepares a model for training.

        Args:
            model: the model, in float32.
            kind: the name of the optimizer.
            weight_decay: the weight decay of matrices and embeddings.
            dtype: the dtype of the forward and backward passes.
            compiled: whether to compile the loss.
            context: the number of tokens of a window.
            smoothing: the label smoothing of a model that translates.
            native: whether to use the operations in C if they support the model.
        """
        self.model = model
        in_c = native and updates_in_c(dtype, next(model.parameters()).device)
        kernels = Kernels(torch.get_num_threads()) if in_c else None
        self.optimizer = Optimizer(model, kind, weight_decay, dtype, kernels)
        self._native: NativePasses | None = None
        if kernels is not None and not compiled and supports(model):
            self._native = NativePasses(model, kernels, smoothing)
        self._weights: list[Tensor] = list(trained_parameters(model).values())
        self._working = model if dtype == torch.float32 else _copied(model, dtype)
        for stack in self._working.stacks:
            stack.prepare(context)  # without this, the compiled step would be recompiled
        self._copies: list[Tensor] = list(trained_parameters(self._working).values())
        self._uncompiled = _loss_of(self._working, smoothing)
        self._loss: Callable[..., Tensor] = self._compiled() if compiled else self._uncompiled

    def step(
        self,
        batch: Batch,
        *,
        step: int,
        seed: int,
        lr: float,
        adam_lr: float,
        parts: int = 1,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Tensor, Tensor] | None:
        """Takes one training step on a batch, which is split into `parts` micro-batches.

        The gradients of the micro-batches are accumulated. Dropout draws from PyTorch's default generator, which is
        seeded with `step_seed`.

        Returns:
            The loss before the update in nats per token, and the norm of the gradient. None if `stop` returned true
            between two micro-batches; in this case no weight was updated, and the step can be taken later.
        """
        if self._working.dropout.p > 0:
            torch.manual_seed(step_seed(seed, step))
        if self._native is not None:
            self._native.begin()
        self._refresh()
        nats = torch.zeros((), device=self._weights[0].device)
        for number, (tensors, share) in enumerate(batch.micro_batches(parts)):
            if number and stop():
                self._forget()
                return None
            nats += self._add_gradients(tensors, share)
        norm = self.optimizer.step(lr, adam_lr)
        self._forget()
        return nats, norm

    def _add_gradients(self, tensors: tuple[Tensor | None, ...], share: float) -> Tensor | float:
        """Adds the gradients of a micro-batch. Returns its loss, multiplied by its share of the batch."""
        if self._native is not None:
            return self._native.add_gradients(tensors, share) * share
        loss = self._loss(*tensors) * share
        torch.autograd.backward(loss)
        self._collect()
        return loss.detach()

    def _compiled(self) -> Callable[..., Tensor]:
        """Returns the compiled loss. If compiling the loss or its gradient fails, falls back to the uncompiled loss."""
        with warnings.catch_warnings(action="ignore"):  # hide the compiler's own warnings
            from torch._dynamo.exc import TorchDynamoException
            from torch._inductor.exc import InductorError

            compiled = torch.compile(self._uncompiled, dynamic=False)

        def first(*tensors: Tensor) -> Tensor:
            self._loss = compiled
            try:  # compiles the gradient too; the random numbers of the run are preserved
                with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
                    torch.autograd.backward(compiled(*tensors))
            except (TorchDynamoException, InductorError):  # the compiler is missing or does not work
                self._loss = self._uncompiled
            self._forget()
            return self._loss(*tensors)

        return first

    @property
    def working(self) -> Transformer:
        """The model in the dtype of the training passes, with the current weights."""
        self._refresh()
        return self._working

    def _refresh(self) -> None:
        if self._working is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._weights)

    def _collect(self) -> None:
        """Adds the gradient of the working copy to the gradient of the weights, in float32."""
        if self._working is self.model:
            return
        gradients = [working.grad for working in self._copies if working.grad is not None]
        assert len(gradients) == len(self._weights)
        if self._weights[0].grad is None:
            sums = [torch.empty_like(weight) for weight in self._weights]
            torch._foreach_copy_(sums, gradients)
            for weight, total in zip(self._weights, sums, strict=True):
                weight.grad = total
        else:
            for weight, gradient in zip(self._weights, gradients, strict=True):
                assert weight.grad is not None
                weight.grad += gradient
        for working in self._copies:
            working.grad = None

    def _forget(self) -> None:
        for parameter in (*self._weights, *self._copies):
            parameter.grad = None


def _copied(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Returns a copy of a model in a dtype. Each weight is converted at once, so memory contains no copy in float32."""
    converted: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, converted)


def _loss_of(model: Transformer, smoothing: float) -> Callable[..., Tensor]:
    """Returns the loss of a micro-batch in nats per token, as a function of its tensors."""
    return model.loss if model.encoder is None else partial(model.translation_loss, smoothing=smoothing)
