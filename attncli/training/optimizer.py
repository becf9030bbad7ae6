"""The optimizer: Muon on the matrices of the blocks and AdamW on the other parameters, or AdamW on every parameter.

With `Kernels`, the updates run in C, in float32; without, PyTorch's operations compute the same up to rounding.
The state of the optimizer is saved as named tensors. Its constants are in `recipe`. Nothing here waits for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncli.config import OptimizerKind
from attncli.model.kernels import AdamParameter, Kernels, MuonMatrix
from attncli.model.lora import trained_parameters
from attncli.training import recipe


def orthogonalized(matrices: Tensor) -> Tensor:
    """Returns the matrices (N, n, k) with the same singular vectors, but with all singular values close to one.

    For a matrix M = U S V^T, the result is about U V^T, so all directions of a gradient get equal weight (Jordan et
    al., 2024).
    """
    x = matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * recipe.NEWTON_SCHULZ_MARGIN + 1e-7)
    for a, b, c in recipe.NEWTON_SCHULZ_STEPS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@dataclass
class _Stack:
    """All matrices of one shape (n, k), which are updated together."""

    names: list[str]
    weights: list[Tensor]
    momentum: Tensor  # (N, n, k), the running mean of the gradients


class Muon:
    """Muon (Jordan et al., 2024): momentum, then orthogonalization. All matrices of one shape are updated at once.

    A step changes a matrix (n, k) by about `lr` x sqrt(max(1, n / k)) along each singular direction. Orthogonalization
    computes in `dtype`.
    """

    def __init__(self, matrices: dict[str, nn.Parameter], weight_decay: float, dtype: torch.dtype) -> None:
        self._weight_decay, self._dtype = weight_decay, dtype
        shapes: dict[torch.Size, list[str]] = {}
        for name, matrix in matrices.items():
            shapes.setdefault(matrix.shape, []).append(name)
        self._stacks = []
        for shape, names in shapes.items():
            weights: list[Tensor] = [matrices[name] for name in names]
            self._stacks.append(_Stack(names, weights, weights[0].new_zeros(len(names), *shape).detach()))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Updates every matrix from its gradient."""
        for stack in self._stacks:
            gradients = torch.stack([weight.grad for weight in stack.weights if weight.grad is not None])
            stack.momentum.lerp_(gradients, 1 - recipe.MUON_MOMENTUM)
            ahead = gradients.lerp_(stack.momentum, recipe.MUON_MOMENTUM)  # Nesterov's momentum
            direction = orthogonalized(ahead.to(self._dtype)).to(ahead.dtype)
            rows, columns = direction.shape[-2:]
            torch._foreach_mul_(stack.weights, 1 - lr * self._weight_decay)
            torch._foreach_add_(stack.weights, list(direction.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def step_in_c(self, kernels: Kernels, lr: float, clip: float) -> None:
        """Updates every matrix from its gradient, multiplied by `clip`."""
        matrices = [
            MuonMatrix(weight, weight.grad, stack.momentum[at])
            for stack in self._stacks
            for at, weight in enumerate(stack.weights)
            if weight.grad is not None
        ]
        kept = 1 - lr * self._weight_decay
        steps, margin = recipe.NEWTON_SCHULZ_STEPS, recipe.NEWTON_SCHULZ_MARGIN
        kernels.update_muon(matrices, clip, recipe.MUON_MOMENTUM, steps, margin, kept, lr)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the running means of the gradients: name of a matrix -> mean."""
        return {name: stack.momentum[at] for stack in self._stacks for at, name in enumerate(stack.names)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state that `tensors` returned."""
        for name, mean in self.tensors().items():
            mean.copy_(tensors[name])


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2); updates all parameters at once.

    PyTorch's AdamW is not used, because it imports PyTorch's compiler, which takes 1.7 seconds.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], weight_decay: float) -> None:
        self._names = list(parameters)
        self._weights: list[Tensor] = [parameters[name] for name in self._names]
        self._decayed = [weight for weight in self._weights if weight.ndim >= 2]
        self._means = [torch.zeros_like(weight, requires_grad=False) for weight in self._weights]
        self._squares = [torch.zeros_like(weight, requires_grad=False) for weight in self._weights]
        self._steps = 0
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Updates every parameter from its gradient."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        self._steps += 1
        mean_rate, square_rate = recipe.ADAMW_BETAS
        torch._foreach_lerp_(self._means, gradients, 1 - mean_rate)
        torch._foreach_mul_(self._squares, square_rate)
        torch._foreach_addcmul_(self._squares, gradients, gradients, 1 - square_rate)
        sizes = torch._foreach_sqrt(self._squares)
        torch._foreach_div_(sizes, math.sqrt(1 - square_rate**self._steps))
        torch._foreach_add_(sizes, recipe.ADAMW_EPSILON)
        torch._foreach_mul_(self._decayed, 1 - lr * self._weight_decay)
        torch._foreach_addcdiv_(self._weights, self._means, sizes, -lr / (1 - mean_rate**self._steps))

    def step_in_c(self, kernels: Kernels, lr: float, clip: float) -> None:
        """Updates every parameter from its gradient, multiplied by `clip`."""
        self._steps += 1
        parameters = [
            AdamParameter(weight, weight.grad, mean, square, weight.ndim >= 2)
            for weight, mean, square in zip(self._weights, self._means, self._squares, strict=True)
            if weight.grad is not None
        ]
        mean_rate, square_rate = recipe.ADAMW_BETAS
        scale = 1 / math.sqrt(1 - square_rate**self._steps)
        kept, step = 1 - lr * self._weight_decay, lr / (1 - mean_rate**self._steps)
        kernels.update_adam(parameters, clip, kept, recipe.ADAMW_BETAS, scale, recipe.ADAMW_EPSILON, step)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the number of steps, and the running means of the gradient and squared gradient of each parameter."""
        means = {f"mean.{name}": mean for name, mean in zip(self._names, self._means, strict=True)}
        squares = {f"square.{name}": square for name, square in zip(self._names, self._squares, strict=True)}
        return {"steps": torch.tensor(self._steps), **means, **squares}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state that `tensors` returned."""
        self._steps = int(tensors["steps"])
        for name, mine in self.tensors().items():
            if name != "steps":
                mine.copy_(tensors[name])


def _in_a_block(name: str) -> bool:
    return name.removeprefix("encoder.").startswith("blocks.")


class Optimizer:
    """Updates the trained weights of a model from their gradients. Weight decay applies to embeddings and matrices."""

    def __init__(
        self,
        model: nn.Module,
        kind: OptimizerKind,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
        kernels: Kernels | None = None,
    ) -> None:
        self._kernels = kernels
        named = trained_parameters(model)
        turned = {name: p for name, p in named.items() if kind == "muon" and p.ndim == 2 and _in_a_block(name)}
        self._parameters = list(named.values())
        self._parts: dict[str, AdamW | Muon] = {
            "adamw": AdamW({name: p for name, p in named.items() if name not in turned}, weight_decay),
            "muon": Muon(turned, weight_decay, dtype),
        }

    def step(self, lr: float, adam_lr: float) -> Tensor:
        """Updates all weights. Returns the norm of the gradient before clipping.

        Args:
            lr: the learning rate of Muon's matrices.
            adam_lr: the learning rate of AdamW's parameters.
        """
        if self._kernels is not None:
            return self._step_in_c(self._kernels, lr, adam_lr)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, recipe.LARGEST_GRADIENT_NORM)
        self._parts["adamw"].step(adam_lr)
        self._parts["muon"].step(lr)
        return norm

    def _step_in_c(self, kernels: Kernels, lr: float, adam_lr: float) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = math.sqrt(sum(map(kernels.sum_of_squares, gradients)))
        clip = min(1.0, recipe.LARGEST_GRADIENT_NORM / (norm + 1e-6))  # as in clip_grad_norm_
        self._parts["adamw"].step_in_c(kernels, adam_lr, clip)
        self._parts["muon"].step_in_c(kernels, lr, clip)
        return torch.tensor(norm)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state by name: 'adamw.mean.embedding.weight' -> tensor."""
        return {f"{part}.{name}": t for part, kind in self._parts.items() for name, t in kind.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state that `tensors` returned."""
        for part, kind in self._parts.items():
            prefix = f"{part}."
            kind.load({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
