"""What does every head look like on this text? All maps, small: one layer's weights are held at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.findings import Grid
from attncli.explain.first_screen import Focus, ids_of, question
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

_MOST_CELLS = 32  # along the side of a thumbnail


@torch.inference_mode()
def grid(model: Transformer, pieces: Sequence[Piece], focus: Focus) -> Grid:
    """Every head's weights, pooled by maximum. Raises BadInput and UsageProblem as `explain` does."""
    asked = question(model, pieces, focus)
    watch = _Thumbnails(math.ceil(len(pieces) / _MOST_CELLS))
    model.hidden(ids_of(model, pieces), observe=watch)
    return Grid(asked, watch.pool, torch.stack(watch.found).cpu().double().numpy())


class _Thumbnails(Observer):
    def __init__(self, pool: int) -> None:
        self.pool = pool
        self.found: list[Tensor] = []  # (H, P, P) per layer

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.found.append(F.max_pool2d(steps.weights[0], self.pool, ceil_mode=True))
