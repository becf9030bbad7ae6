"""What a prediction loses when attention is cut: one forward pass, each row of its batch cut in another way.

An edge is cut by a score of -inf before the softmax (Geva et al., 2023), so the other sources share what it had.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.model.attention import Observer


@dataclass(frozen=True)
class Cut:
    """Edges that are cut together: (query, source) pairs, in all heads, or in those named by layer."""

    edges: frozenset[tuple[int, int]]
    heads: Mapping[int, Collection[int]] | None = None  # layer -> heads


class Knockout(Observer):
    """Makes the cuts of a forward pass: cuts[b] in row b of the batch. A query never loses its last key."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self._cuts = cuts

    def scores(self, layer: int, scores: Tensor) -> Tensor:
        """(B, H, T, S) -> the same with -inf where an edge is cut."""
        everyone = range(scores.shape[1])
        cut = torch.zeros_like(scores, dtype=torch.bool)
        for row, one in enumerate(self._cuts):
            heads = everyone if one.heads is None else one.heads.get(layer, ())
            if one.edges and heads:
                queries, sources = (list(column) for column in zip(*one.edges, strict=True))
                cut[row, torch.tensor(list(heads))[:, None], queries, sources] = True
        left = scores.masked_fill(cut, -math.inf)
        blind = left.isneginf().all(-1, keepdim=True)
        return torch.where(blind, scores, left)
