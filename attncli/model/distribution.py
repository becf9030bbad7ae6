"""Converts logits to probabilities at a temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scale_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Returns logits / temperature, shifted to a maximum of 0, which prevents overflow. The temperature is above 0."""
    smallest = torch.finfo(logits.dtype).tiny  # a smaller temperature would round to 0
    largest = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)  # finite even if all are -inf
    return (logits - largest).div_(max(temperature, smallest))


def distribution(logits: Tensor, temperature: float) -> Tensor:
    """Returns softmax(logits / temperature) of logits (..., V).

    At temperature 0, the first largest logit gets probability 1.
    """
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return scale_by_temperature(logits, temperature).softmax(-1)
