"""Which heads feed which: how much of what one head writes a later head can read, from the weights and from patching.

A head writes W_O W_V x, a later head reads it through its query, key or value. Composition compares the norm of the
product of both matrices with the product of their norms (Elhage et al., 2021). The gain of the norm before attention is
folded into what it multiplies, and the mean that LayerNorm subtracts, because both are linear. Norms of queries and
keys and the rotation are left out, because they are not a matrix. Random matrices of the same shapes are the baseline.

Letters: H heads, D head width, C model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attncli.circuits.defaults import PORTS, HeadPort
from attncli.circuits.graph import ComponentGraph, Mask
from attncli.circuits.network import Network
from attncli.explain.question import Floats
from attncli.model.attention import norm_gain

_DRAWS = 40  # of random matrices


@dataclass(frozen=True)
class Composition:
    """How strongly each pair of heads composes by the weights. Scores of heads that cannot feed each other are NaN."""

    graph: ComponentGraph
    scores: Floats  # (3, L, H, L, H): port, writer, reader
    random: Floats  # (3,): the mean score of random matrices
    spread: Floats  # (3,): their standard deviation
    normed: bool  # queries and keys have norms of their own, which are left out
    rotated: bool  # queries and keys are rotated, which is left out
    effects: Floats | None = None  # (3, L, H, L, H): exact effects of the edges, as shares; for grouped heads shared
    seed: int = 0

    def ranked(self, port: HeadPort) -> list[tuple[int, int, int, int]]:
        """Returns the pairs (writer's layer and head, reader's layer and head), the strongest first."""
        scores = self.scores[PORTS.index(port)]
        flat = np.flatnonzero(np.isfinite(scores))
        order = flat[np.argsort(-scores.ravel()[flat], kind="stable")]
        places = zip(*(axis.tolist() for axis in np.unravel_index(order, scores.shape)), strict=True)
        return [(layer, head, later, other) for layer, head, later, other in places]


@dataclass(frozen=True)
class _HeadMatrices:
    """The matrices of one head, with the norm before attention folded in: query, key, value (D, C), output (C, D)."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


@torch.inference_mode()
def composition(network: Network, seed: int = 0) -> Composition:
    """Returns the composition scores of all pairs of heads in float64."""
    config, graph = network.config, network.graph
    heads = [[_matrices(network, layer, head) for head in range(config.heads)] for layer in range(config.layers)]
    scores = np.full((3, config.layers, config.heads, config.layers, config.heads), np.nan)
    for later in range(config.layers):
        for earlier in range(later):
            for one in range(config.heads):
                for two in range(config.heads):
                    scores[:, earlier, one, later, two] = _scores(heads[earlier][one], heads[later][two])
    drawn = _random_scores(config.head_width, config.width, seed)
    return Composition(
        graph, scores, drawn.mean(0), drawn.std(0), config.qk_norm, config.positions == "rotary", seed=seed
    )


def _matrices(network: Network, layer: int, head: int) -> _HeadMatrices:
    attention, width, config = network.attention(layer), network.config.head_width, network.config
    norm = network.block(layer).attention_norm
    group = head * config.kv_heads // config.heads

    def folded(linear: nn.Linear, at: int) -> Tensor:
        matrix = linear.weight[at * width : (at + 1) * width].double() * norm_gain(norm).double()
        return matrix - matrix.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else matrix

    output = attention.output.weight[:, head * width : (head + 1) * width].double()
    return _HeadMatrices(
        folded(attention.query, head), folded(attention.key, group), folded(attention.value, group), output
    )


def _scores(earlier: _HeadMatrices, later: _HeadMatrices) -> list[float]:
    """Returns the query, key and value composition of two heads: |A B| / (|A| |B|) in Frobenius norms.

    All matrices have rank D, so the norms are computed from matrices (D, D).
    """
    wrote = _product_norm(earlier.output, earlier.value)
    sides = [(later.key.T, later.query), (later.query.T, later.key), (later.output, later.value)]  # what reads: L R
    found = []
    for left, right in sides:
        whole = _product_norm(left, right) * wrote
        found.append(_through(left, right @ earlier.output, earlier.value) / whole if whole else 0.0)
    return found


def _through(left: Tensor, middle: Tensor, right: Tensor) -> float:
    """Returns |L M R| for L (C, D), M (D, D), R (D, C)."""
    grams = middle.T @ (left.T @ left) @ middle * (right @ right.T)
    return float(grams.sum().clamp_min(0).sqrt())


def _product_norm(left: Tensor, right: Tensor) -> float:
    """Returns |L R| for L (C, D) and R (D, C)."""
    return float(((left.T @ left) * (right @ right.T)).sum().clamp_min(0).sqrt())


def _random_scores(head_width: int, width: int, seed: int) -> Floats:
    """Returns the scores (draws, 3) of pairs of heads with independent normal weights."""
    generator = torch.Generator().manual_seed(seed)

    def head() -> _HeadMatrices:
        sides = [torch.randn(head_width, width, generator=generator, dtype=torch.float64) for _ in range(4)]
        return _HeadMatrices(sides[0], sides[1], sides[2], sides[3].T)

    return np.array([_scores(head(), head()) for _ in range(_DRAWS)])


def composing_edges(graph: ComponentGraph) -> Mask:
    """Returns the edges (E,) from heads into queries, keys and values."""
    writers, readers = graph.ends
    from_head = np.array([writer.kind == "head" for writer in graph.writers])[writers]
    chosen: Mask = from_head & np.array([reader.port in PORTS for reader in graph.readers])[readers]
    return chosen


def by_heads(graph: ComponentGraph, effects: Floats) -> Floats:
    """Returns the effects (E,) of edges between heads as (3, L, H, L, H); NaN for other pairs."""
    found = np.full((3, graph.layers, graph.heads, graph.layers, graph.heads), np.nan)
    for edge in np.flatnonzero(composing_edges(graph)):
        writer, reader = (ends[edge] for ends in graph.ends)
        wrote, read = graph.writers[writer], graph.readers[reader]
        for head in read.heads:
            port = [*PORTS].index(read.port)
            found[port, wrote.layer, wrote.head, read.layer, head] = effects[edge]
    return found
