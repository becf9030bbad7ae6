"""LoRA in training: linear layers whose weights are frozen, and the small matrices beside them that are trained.

A layer computes W x + scale x B (A x), where W (out, in) is frozen, A (rank, in) is drawn at random and B (out, rank)
begins as zero (Hu et al., 2021). W gets no gradient, so it needs no memory for one, nor for the state of an optimizer.
A model that generates or explains has no such layers: its adapters were merged into its weights when it was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOWN, UP = "lora_a", "lora_b"  # the names of A and B in a layer


class LoraLinear(nn.Linear):
    """A linear layer with an adapter. It shares the frozen weights of the layer that it replaces."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, down: nn.Parameter | None = None) -> None:
        """`down` is the matrix A of another layer, if the two share it."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features)) if down is None else down
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer and its adapter: (..., in) -> (..., out)."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b)


def add_adapters(
    model: nn.Module, groups: Iterable[Sequence[str]], rank: int, scale: float, generator: torch.Generator
) -> None:
    """Freezes a model and gives adapters to the layers in `groups`; the layers of a group share the matrix A.

    As in PEFT, A is drawn from the uniform distribution between -1/sqrt(in) and 1/sqrt(in), and B is zero.
    """
    model.requires_grad_(False)
    for names in groups:
        down = None
        for name in names:
            parent, _, own = name.rpartition(".")
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            adapted = LoraLinear(layer, rank, scale, down)
            setattr(model.get_submodule(parent), own, adapted)
            down = adapted.lora_a
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            if name.endswith(DOWN):
                bound = 1 / math.sqrt(parameter.shape[1])
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that are trained, by name: those of the adapters, or all of a model without adapters."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
