"""Collects all attention weights of a text in one array, for other programs.

The views do not need this array: they read one layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attncli.errors import BadInput
from attncli.explain.question import refuse_length
from attncli.explain.reading import ids_of
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

MOST_BYTES = 10**9


@dataclass(frozen=True)
class EveryWeight:
    """All attention weights of one text."""

    pieces: tuple[Piece, ...]
    weights: NDArray[np.float32]  # (layers, heads, T, T): row attends to column, rows sum to 1


def every_weight(model: Transformer, pieces: Sequence[Piece]) -> EveryWeight:
    """Returns the weights of every layer and head in float32: 4 x layers x heads x T x T bytes.

    Raises BadInput for a text with no tokens, with more tokens than the context, or with more than MOST_BYTES of
    weights.
    """
    config = model.config
    refuse_length(pieces, config.context)
    bytes_a_pair = 4 * config.layers * config.heads
    if (size := bytes_a_pair * len(pieces) ** 2) > MOST_BYTES:
        raise BadInput(
            f"All weights of {len(pieces):,} tokens are {size / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:g} GB.",
            f"Give a text of at most {math.isqrt(MOST_BYTES // bytes_a_pair):,} tokens.",
        )
    watch = _Copy(np.empty((config.layers, config.heads, len(pieces), len(pieces)), np.float32))
    with torch.inference_mode():
        model.hidden(ids_of(model, pieces), observe=watch)
    return EveryWeight(tuple(pieces), watch.weights)


class _Copy(Observer):
    """Copies each layer's weights into one array."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights = weights

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.weights[layer] = steps.weights[0].float().cpu().numpy()
