"""Shrinks every head's attention map of a text to a thumbnail. Only one layer's weights are in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.question import Floats, Focus, Subject, subject_of
from attncli.explain.reading import Reading
from attncli.model.attention import Attention, AttentionSteps, Observer

_MOST_CELLS = 32  # along the side of a thumbnail


@dataclass(frozen=True)
class Grid:
    """Every head's weights as a thumbnail: the largest weight of each square of `pool` x `pool` tokens."""

    subject: Subject
    pool: int
    weights: Floats  # (L, H, P, Q): P rows, Q columns


@torch.inference_mode()
def grid(reading: Reading, focus: Focus) -> Grid:
    """Returns every head's weights, pooled by maximum. Raises BadInput and UsageProblem as `subject_of` does."""
    subject = subject_of(reading, focus)
    rows, columns = len(subject.axes.rows), len(subject.axes.columns)
    watch = _Thumbnails(math.ceil(max(rows, columns) / _MOST_CELLS))
    reading.run(range(rows), watch)
    return Grid(subject, watch.pool, torch.stack(watch.layers).cpu().double().numpy())


class _Thumbnails(Observer):
    """Pools the weights of each layer by maximum."""

    def __init__(self, pool: int) -> None:
        self.pool = pool
        self.layers: list[Tensor] = []  # (H, P, Q)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.layers.append(F.max_pool2d(steps.weights[0], self.pool, ceil_mode=True))
