"""All attention weights of a text at once, for other programs. What a person looks at needs one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from attncli.errors import BadInput
from attncli.explain.findings import EveryWeight
from attncli.explain.first_screen import refuse_length
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

MOST_BYTES = 10**9


def every_weight(model: Transformer, pieces: Sequence[Piece]) -> EveryWeight:
    """The weights of every layer and head, in float32: 4 x layers x heads x T x T bytes.

    Raises BadInput for no tokens, more than the context, or more than MOST_BYTES of weights.
    """
    config = model.config
    refuse_length(pieces, config.context)
    a_pair = 4 * config.layers * config.heads
    if (size := a_pair * len(pieces) ** 2) > MOST_BYTES:
        raise BadInput(
            f"All weights of {len(pieces):,} tokens are {size / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:g} GB.",
            f"Give a text of at most {math.isqrt(MOST_BYTES // a_pair):,} tokens.",
        )
    kept = _Keep(np.empty((config.layers, config.heads, len(pieces), len(pieces)), np.float32))
    ids = torch.tensor([[piece.id for piece in pieces]], device=model.embedding.weight.device)
    with torch.inference_mode():
        model.hidden(ids, observe=kept)
    return EveryWeight(tuple(pieces), kept.weights)


class _Keep(Observer):
    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights = weights

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.weights[layer] = steps.weights[0].float().cpu().numpy()
