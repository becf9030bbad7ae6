"""The activations of the feed-forward part, with their derivatives. To add one, add a branch to both functions.

native.c implements the same activations; `Activation` in the config lists their names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.config import Activation


def activate(activation: Activation, x: Tensor) -> Tensor:
    """Applies an activation elementwise.

    `silu` is x sigmoid(x) (Hendrycks and Gimpel, 2016). `gelu_erf` is GELU, and `gelu_tanh` approximates it.
    """
    if activation == "silu":
        return F.silu(x)
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def activation_gradient(activation: Activation, gradient: Tensor, x: Tensor, out: Tensor) -> None:
    """Writes to `out` the gradient with respect to x, given the gradient with respect to activation(x)."""
    if activation == "silu":
        torch.ops.aten.silu_backward(gradient, x, grad_input=out)
    elif activation == "relu":
        torch.mul(gradient, x > 0, out=out)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_backward(gradient, x, approximate=approximate, grad_input=out)
