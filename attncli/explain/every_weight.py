"""Collects all attention weights of a text in one array, for other programs.

The views do not need this array: they read one layer at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput
from attncli.explain.question import MapAxes, refuse_length
from attncli.explain.reading import Reading
from attncli.model.attention import Attention, AttentionSteps, Observer

MOST_BYTES = 10**9


@dataclass(frozen=True)
class EveryWeight:
    """All attention weights of one text, as one attention of the model reads it."""

    axes: MapAxes
    weights: NDArray[np.float32]  # (layers, heads, T, S): row attends to column, rows sum to 1


def every_weight(reading: Reading) -> EveryWeight:
    """Returns the weights of every layer and head in float32: 4 x layers x heads x T x S bytes.

    Raises BadInput for a text with no tokens, with more tokens than the context, or with more than MOST_BYTES of
    weights.
    """
    for text in reading.texts:
        refuse_length(text, reading.model.config.context)
    axes = reading.axes
    shape = reading.layers, reading.heads, len(axes.rows), len(axes.columns)
    if (size := 4 * math.prod(shape)) > MOST_BYTES:
        fitting = math.isqrt(MOST_BYTES // (4 * shape[0] * shape[1]))
        raise BadInput(
            f"All weights of {len(axes.rows):,} tokens are {size / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:g} GB.",
            f"Give a text of at most {fitting:,} tokens.",
        )
    watch = _Copy(np.empty(shape, np.float32))
    reading.run(range(len(axes.rows)), watch)
    return EveryWeight(axes, watch.weights)


class _Copy(Observer):
    """Copies each layer's weights into one array."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights = weights

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.weights[layer] = steps.weights[0].float().cpu().numpy()
