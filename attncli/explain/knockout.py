"""Cuts edges of attention during a forward pass. Each row of the batch has its own cut.

An edge is cut by a score of -inf before the softmax (Geva et al., 2023), so the other sources share its weight.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.model.attention import Attention, Observer


@dataclass(frozen=True)
class Cut:
    """Edges that are cut together, as (query, source) pairs: in all heads, or only in the given heads of each layer."""

    edges: frozenset[tuple[int, int]]
    heads: Mapping[int, Collection[int]] | None = None  # layer -> heads; None: all


class Knockout(Observer):
    """Applies cuts[b] to row b of the batch. A query whose keys would all be cut keeps all its keys."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self._cuts = cuts

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        """Sets the scores (B, H, T, S) of cut edges to -inf."""
        every_head = range(scores.shape[1])
        mask = torch.zeros_like(scores, dtype=torch.bool)
        for row, cut in enumerate(self._cuts):
            heads = every_head if cut.heads is None else cut.heads.get(layer, ())
            if cut.edges and heads:
                queries, sources = (list(column) for column in zip(*cut.edges, strict=True))
                mask[row, torch.tensor(list(heads))[:, None], queries, sources] = True
        left = scores.masked_fill(mask, -math.inf)
        blind = left.isneginf().all(-1, keepdim=True)
        return torch.where(blind, scores, left)
