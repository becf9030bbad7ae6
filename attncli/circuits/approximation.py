"""Approximates the effects of all edges from gradients: edge attribution patching (EAP), and EAP-IG.

The effect of an edge is about the change of its write times the gradient of the measure in the input of its reader
(Syed et al., 2023, arXiv 2310.10348). EAP takes the gradient at the base run. EAP-IG averages the gradients of runs
whose embeddings lie between those of both prompts (Hanna et al., 2024, arXiv 2403.17806), here at the midpoints of
equal steps. One forward and one backward pass per step serves all edges.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attncli.circuits.measure import Answer
from attncli.circuits.network import Network, Recorded
from attncli.explain.question import Floats

IG_STEPS = 5  # as Hanna et al. use


def approximate_effects(
    network: Network, base: Recorded, other: Recorded, answer: Answer, steps: int | None = IG_STEPS
) -> Floats:
    """Returns the approximate change (E,) of the measure when each edge of the base run is patched.

    `steps` is the number of gradients of EAP-IG; None stands for EAP.
    """
    shares = [0.0] if steps is None else [(step + 0.5) / steps for step in range(steps)]
    changes = (other.writes - base.writes).flatten(1)  # (U, T x C)
    start, end = base.streams[0], other.streams[0]
    effects = np.zeros(network.graph.size)
    for share in shares:
        gradients = _gradients(network, start + share * (end - start), answer)
        found = [
            changes[: network.graph.before(reader)] @ gradient.flatten()
            for reader, gradient in zip(network.graph.readers, gradients, strict=True)
        ]
        effects += torch.cat(found).double().cpu().numpy() / len(shares)
    return effects


def _gradients(network: Network, embedded: Tensor, answer: Answer) -> list[Tensor]:
    """Returns the gradient (T, C) of the measure in the input of every reader, for an embedded text (T, C)."""
    graph, leaves = network.graph, list[Tensor]()

    def read(stream: Tensor, count: int) -> Tensor:
        """Returns the inputs (1, count, T, C) of readers, which all read the stream (1, T, C)."""
        leaf = torch.zeros(count, *stream.shape[1:], dtype=stream.dtype, device=stream.device, requires_grad=True)
        leaves.append(leaf)
        return stream[:, None] + leaf

    with torch.enable_grad():
        x = embedded[None].clone()
        for layer in range(graph.layers):
            query = network.queries(layer, read(x, graph.heads))
            key, value = (part(layer, read(x, graph.kv_heads)) for part in (network.keys, network.values))
            mixed = network.mix(layer, query, key, value)
            output = network.attention(layer).output
            x = x + output(mixed.transpose(1, 2).flatten(2))
            x = x + network.feed(layer, read(x, 1)[:, 0])
        measured = answer.of(network.logits(read(x, 1)[:, 0]))
        gradients = torch.autograd.grad(measured.sum(), leaves)
    return [gradient for each in gradients for gradient in each]
