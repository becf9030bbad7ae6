"""Computes the share of every source in one token's attention output: where the token gets its information.

Shares are computed layer by layer during one forward pass, then averaged over the layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attncli.explain.contributions import normalized
from attncli.explain.defaults import Measure
from attncli.explain.question import Floats, Focus, MapAxes
from attncli.explain.ranking import ranked
from attncli.explain.units import Units


@dataclass(frozen=True)
class Sources:
    """The share of every source in one token's attention output.

    `shares` sums to 1 and is averaged over `layers`. With weights 'norm', a share is the norm of the vector that a
    source contributes, divided by the sum of these norms (Kobayashi et al., 2020). With weights 'raw', a share is the
    attention weight of a source, averaged over heads.
    """

    focus: int  # the row
    weights: Measure
    layers: tuple[int, ...]  # the layers averaged over
    head: int | None  # None: all heads
    shares: Floats  # (S,)
    by_layer: Floats  # (number of layers, S), each row sums to 1
    raw: Floats  # (S,), the attention weight averaged over the same layers, heads and attentions
    reach: int  # the sources that are not masked: 0 to reach - 1
    apart: tuple[int, ...] = ()  # sources that are listed separately, because idle heads attend to them
    beside_stream: float | None = None  # |attention output| / |stream after the layer|, mean over layers

    def ranked(self) -> list[int]:
        """Returns the sources by share, the greatest first, without the sources that are listed separately."""
        return ranked(self.shares, (at for at in range(self.reach) if at not in self.apart))

    def named(self, most: int) -> list[int]:
        """Returns the sources shown by name: the `most` greatest, then the sources that are listed separately."""
        return [*self.ranked()[:most], *self.apart]


@dataclass
class SourceShares:
    """Computes the shares of the unit in focus, layer by layer."""

    focus: Focus
    units: Units
    axes: MapAxes  # in units
    layers: list[int] = field(default_factory=list)
    _shares: list[Tensor] = field(default_factory=list)  # (S,) per layer
    _raw: list[Tensor] = field(default_factory=list)  # (S,) per layer
    _outputs: dict[int, Tensor] = field(default_factory=dict)  # layer -> lengths of attention's outputs (queries,)
    _beside: list[Tensor] = field(default_factory=list)  # () per layer: mean of output length / stream length

    def take(self, layer: int, weights: Tensor, output: Tensor, contributed: list[tuple[Tensor, Tensor]]) -> None:
        """Observes one layer: weights (H, R, S), output (B, R, C), and the contribution norms of each row in focus."""
        head = self.focus.head
        self.layers.append(layer)
        self._outputs[layer] = self._lengths(output)
        raw, shares = [], []
        for row, (per_head, together) in zip(self.units.query_rows, contributed, strict=True):
            row_weights = weights[:, row].float()  # (H, S)
            raw.append(row_weights.mean(0) if head is None else row_weights[head])
            norms = together if head is None else per_head[head]
            shares.append(normalized(norms) if self.focus.weights == "norm" else raw[-1])
        self._shares.append(torch.stack(shares).mean(0))
        self._raw.append(torch.stack(raw).mean(0))

    def compare(self, layer: int, stream: Tensor) -> None:
        """Compares the attention output of the previous layer with the residual stream (B, R, C) after that layer.

        The output of a single head is not compared.
        """
        if self.focus.head is None and (output := self._outputs.get(layer - 1)) is not None:
            self._beside.append((output / self._lengths(stream).clamp_min(1e-30)).mean())

    def _lengths(self, vectors: Tensor) -> Tensor:
        """Returns the lengths of the vectors in focus: (B, R, C) -> (queries,)."""
        rows = self.units.query_rows
        lengths: Tensor = torch.linalg.vector_norm(vectors[0, rows.start : rows.stop].float(), dim=-1)
        return lengths

    def sources(self) -> Sources:
        """Returns the shares, averaged over the layers."""
        by_layer = self.units.sum_sources(torch.stack(self._shares))
        return Sources(
            focus=self.units.focus,
            weights=self.focus.weights,
            layers=tuple(self.layers),
            head=self.focus.head,
            shares=by_layer.mean(0),
            by_layer=by_layer,
            raw=self.units.sum_sources(torch.stack(self._raw)).mean(0),
            reach=self.axes.reach[self.units.focus],
            apart=self.axes.apart(self.units.focus),
            beside_stream=float(torch.stack(self._beside).mean()) if self._beside else None,
        )
