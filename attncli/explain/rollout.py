"""Computes attention rollout: the product of the attention weights of all layers (Abnar and Zuidema, 2020).

A_l = (mean over heads of the weights + I) / 2, and R = A_L ... A_1. A causal mask alone concentrates R on the first
token, so R is compared with the same product for uniform attention. Without a mask, the product for uniform attention
is equal for all tokens except the row's own token. Rollout needs self-attention, because its rows and columns are the
same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.question import Floats, Focus, Subject, subject_of
from attncli.explain.reading import Reading
from attncli.model.attention import Attention, AttentionSteps, Observer


@dataclass(frozen=True)
class Rollout:
    """Attention rollout of the token in focus, and the rollout of uniform attention for comparison."""

    subject: Subject
    shares: Floats  # (T,), sums to 1
    even: Floats  # (T,), the rollout of uniform attention in a model with these layers and windows


@torch.inference_mode()
def rollout(reading: Reading, focus: Focus) -> Rollout:
    """Returns the rollout of the token in focus. Raises BadInput and UsageProblem as `subject_of` does."""
    subject = subject_of(reading, focus)
    rows = range(subject.focus + 1 if reading.causal else len(subject.axes.rows))
    watch, row = RolloutRows(reading, rows), range(subject.focus, subject.focus + 1)
    reading.run(rows, watch)
    later = (0, len(subject.pieces) - len(rows))  # zeros for the tokens after the focus
    shares, even = (F.pad(found[0], later).numpy() for found in (watch.product(row), watch.even(row)))
    return Rollout(subject, shares, even)


def rolled(product: Tensor | None, weights: Tensor) -> Tensor:
    """Returns the rollout (T, T) after one more layer. `weights` (T, T) are the layer's weights, averaged over heads.

    `product` is the rollout after the previous layer; None before the first layer.
    """
    step = (weights + torch.eye(len(weights), dtype=weights.dtype, device=weights.device)) / 2
    return step if product is None else step @ product


class RolloutRows(Observer):
    """Records the attention of all layers, and computes the rollout of some rows in float64.

    The rows (R, T) are multiplied from the last layer down, which takes R x T x T multiplications for each layer. The
    averaged weights (T, T) of all layers are kept, in the memory of the CPU.
    """

    def __init__(self, reading: Reading, rows: range) -> None:
        """`rows` are all T rows."""
        self._reading, self._all = reading, rows
        self._layers: list[tuple[Tensor, Attention]] = []

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Keeps the attention of a layer."""
        weights = steps.weights[0]
        wide = torch.promote_types(weights.dtype, torch.float32)  # a mean in bfloat16 would be rounded to 8 bits
        self._layers.append((weights.mean(0, dtype=wide).cpu(), module))

    def product(self, rows: range) -> Tensor:
        """Returns the rollout (R, T) of some rows."""
        return _downwards(rows, (weights.double() for weights, _ in reversed(self._layers)))

    def even(self, rows: range) -> Tensor:
        """Returns the rollout (R, T) of some rows for uniform attention."""
        return _downwards(rows, (self._uniform(module) for _, module in reversed(self._layers)))

    def _uniform(self, module: Attention) -> Tensor:
        allowed = self._reading.allowed(module.part, self._all, module.window).cpu().double()
        return allowed.div_(allowed.sum(-1, keepdim=True))


def _downwards(rows: range, layers: Iterable[Tensor]) -> Tensor:
    """Returns rows (R, T) of a rollout. `layers` are the averaged weights (T, T), the last layer first."""
    found: Tensor | None = None
    for weights in layers:
        if found is None:
            found = torch.eye(len(weights), dtype=weights.dtype)[rows.start : rows.stop]
            found = (weights[rows.start : rows.stop] + found) / 2
        else:
            found = (found @ weights + found) / 2
    assert found is not None
    return found
