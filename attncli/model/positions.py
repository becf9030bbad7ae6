"""Positions that are added to the input (sinusoidal), or to the attention scores (relative, as in T5).

Rotary positions are in `attention`; learned positions are a table of weights in `stack`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attncli.config import ModelConfig

_FIRST_SINUSOIDS = 255  # positions; the smallest table has 256, the next power of two


def sinusoid_table(config: ModelConfig, positions: int, device: torch.device) -> Tensor:
    """Returns sinusoidal positions (P, C) for at least the first `positions` positions (Vaswani et al., 2017, 3.5).

    The first half of a row contains sines, the second half cosines. Row p belongs to position p + `position_offset`.
    Frequency i of n is 10,000^(-i / n), computed in float64 and then rounded, as for Marian in transformers. With
    `inclusive_sinusoid`, it is 10,000^(-i / (n - 1)), computed in float32, as for M2M100.
    """
    rows = min(1 << max(positions, _FIRST_SINUSOIDS).bit_length(), config.context)
    half = config.width // 2
    dtype, place = (torch.float32, device) if config.inclusive_sinusoid else (torch.float64, torch.device("cpu"))
    steps = torch.arange(half, dtype=dtype, device=place)
    frequencies = torch.exp(steps * -(math.log(10_000) / (half - config.inclusive_sinusoid)))
    places = torch.arange(config.position_offset, config.position_offset + rows, dtype=dtype, device=place)
    angles = places[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1).to(device, torch.float32)


def distance_buckets(distances: Tensor, config: ModelConfig, *, causal: bool) -> Tensor:
    """Returns the bucket of each distance (...), key position minus query position: a row of the bias table.

    Half of the buckets contain one distance each. The others grow logarithmically up to `relative_distance`. Without a
    causal mask, half of all buckets are for later keys (Raffel et al., 2020, and `_relative_position_bucket` of
    transformers).
    """
    buckets, first = config.relative_buckets, torch.zeros_like(distances)
    if causal:
        away = -distances.clamp(max=0)
    else:
        buckets //= 2
        first, away = (distances > 0) * buckets, distances.abs()
    exact = buckets // 2
    growth = torch.log(away.clamp(min=1).float() / exact) / math.log(config.relative_distance / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(away < exact, away, far)
