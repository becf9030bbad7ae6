"""One step of training: forward, backward, clip, update. The run takes it, and the measurement before a run.

Owns the working copy of the weights. Nothing here waits for a GPU: what a step returns are tensors.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from attncli.config import OptimizerKind
from attncli.model.transformer import Transformer
from attncli.training.optimizer import Optimizer

_STREAM = 1_000_003  # keeps the random streams of neighbouring seeds apart


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random in a step: a pure function, so that resuming needs no replay."""
    return (seed * _STREAM + step) % 2**63


class Trainee:
    """A model in training: its weights in float32, which the optimizer updates, and its optimizer.

    With another `dtype`, forward and backward run on a working copy in that type, made anew from the weights for each
    step (Micikevicius et al., 2018); unlike autocast it converts every weight once, and no activation.
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
    ) -> None:
        """`context` is the most tokens of a window."""
        self.model = model
        self.optimizer = Optimizer(model, kind, weight_decay, dtype)
        self._weights: list[Tensor] = list(model.parameters())
        self._working = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._working.prepare(context)  # else a compiled step would be compiled a second time
        self._copies: list[Tensor] = list(self._working.parameters())
        self._loss: Callable[[Tensor], Tensor] = self._compiled() if compiled else self._working.loss

    def step(
        self,
        rows: Tensor,
        *,
        step: int,
        seed: int,
        lr: float,
        adam_lr: float,
        parts: int = 1,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Tensor, Tensor] | None:
        """Takes one step on rows (B, T + 1) of ids, in `parts` one after another that together give one gradient.

        Dropout draws from PyTorch's default generator, which is set to a function of seed and step first.

        Returns:
            The loss before the step, in nats per token, and the norm of the gradient; or None when `stop` became true
            between two parts: then nothing was updated, and the step can be taken again.
        """
        if self._working.dropout.p > 0:
            torch.manual_seed(step_seed(seed, step))
        self._refresh()
        nats = torch.zeros((), device=rows.device)
        for number, part in enumerate(rows.tensor_split(parts)):
            if number and stop():
                self._forget()
                return None
            loss = self._loss(part) * (len(part) / len(rows))
            torch.autograd.backward(loss)
            nats += loss.detach()
            self._collect()
        norm = self.optimizer.step(lr, adam_lr)
        self._forget()
        return nats, norm

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        """The loss compiled; as it is, from then on, when that or its gradient cannot be."""
        with warnings.catch_warnings(action="ignore"):  # of the compiler, about itself
            from torch._dynamo.exc import TorchDynamoException
            from torch._inductor.exc import InductorError

            compiled = torch.compile(self._working.loss, dynamic=False)

        def first(rows: Tensor) -> Tensor:
            self._loss = compiled
            try:  # the gradient too, which is compiled when it is first taken; this changes no random number after it
                with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
                    torch.autograd.backward(compiled(rows))
            except (TorchDynamoException, InductorError):  # no compiler, or one that does not work
                self._loss = self._working.loss
            self._forget()
            return self._loss(rows)

        return first

    @property
    def working(self) -> Transformer:
        """The model in the type it is trained in, with the weights as they are now."""
        self._refresh()
        return self._working

    def _refresh(self) -> None:
        if self._working is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._weights)

    def _collect(self) -> None:
        """Moves the gradient of a working copy to the weights, where parts add up in float32."""
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
