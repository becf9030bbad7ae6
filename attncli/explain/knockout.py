"""Cuts edges of attention during a forward pass. Each row of the batch has its own cut.

An edge is cut by a score of -inf before the softmax (Geva et al., 2023), so the other sources share its weight.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.model.attention import Attention, Observer, Part


@dataclass(frozen=True)
class Cut:
    """Edges that are cut together, as (query, source) pairs: in all heads, or only in the given heads of each layer."""

    edges: frozenset[tuple[int, int]]
    heads: Mapping[int, Collection[int]] | None = None  # layer -> heads; None: all


class Knockout(Observer):
    """Applies cuts[b] to row b of the batch. A query whose keys would all be cut keeps all its keys."""

    def __init__(self, cuts: Sequence[Cut], columns: Mapping[Part, range] | None = None) -> None:
        """`columns` are the sources of each attention in which edges are cut; None: all keys of self-attention."""
        self._cuts, self._columns = cuts, columns

    def watches(self, part: Part) -> bool:
        """Whether edges of this attention are cut."""
        return super().watches(part) if self._columns is None else part in self._columns

    def _edges(self, cut: Cut, part: Part) -> list[tuple[int, int]]:
        """Returns the edges of a cut that belong to one attention, with sources counted from its first key."""
        if self._columns is None:
            return list(cut.edges)
        own = self._columns[part]
        return [(query, source - own.start) for query, source in cut.edges if source in own]

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        """Sets the scores (B, H, T, S) of cut edges to -inf."""
        every_head = range(scores.shape[1])
        mask = torch.zeros_like(scores, dtype=torch.bool)
        for row, cut in enumerate(self._cuts):
            heads = every_head if cut.heads is None else cut.heads.get(layer, ())
            edges = self._edges(cut, module.part)
            if edges and heads:
                queries, sources = (list(column) for column in zip(*edges, strict=True))
                mask[row, torch.tensor(list(heads))[:, None], queries, sources] = True
        left = scores.masked_fill(mask, -math.inf)
        blind = left.isneginf().all(-1, keepdim=True)
        return torch.where(blind, scores, left)
