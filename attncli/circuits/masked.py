"""Runs a model under circuits: an edge of a circuit carries the value of the run, every other edge the corrupt value.

Each reader of a run gets its own input: the residual stream of the run, minus, for every writer whose edge is not in
the circuit, what the writer adds in this run beyond what it added in the corrupt run. With every edge, this is the
clean run itself; with none, the corrupt run (Conmy et al., 2023; Hanna et al., 2024).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attncli.circuits.graph import Mask
from attncli.circuits.measure import Answer
from attncli.circuits.network import TOKENS_AT_ONCE, Network, Recorded
from attncli.explain.question import Floats

_MOST_NUMBERS = 1 << 26  # of the inputs of one layer


@torch.inference_mode()
def circuit_measures(network: Network, clean: Recorded, corrupt: Recorded, answer: Answer, circuits: Mask) -> Floats:
    """Returns the measure (N,) of the clean run under each circuit (N, E)."""
    graph, tokens = network.graph, clean.streams.shape[1]
    numbers = tokens * network.config.width * (len(graph.writers) + graph.heads + 2 * graph.kv_heads)
    at_once = max(min(TOKENS_AT_ONCE // tokens, _MOST_NUMBERS // numbers), 1)
    measured = [
        answer.of(circuit_logits(network, clean, corrupt, circuits[start : start + at_once]))
        for start in range(0, len(circuits), at_once)
    ]
    return torch.cat(measured).double().cpu().numpy() if measured else np.zeros(0)


def circuit_logits(network: Network, clean: Recorded, corrupt: Recorded, circuits: Mask) -> Tensor:
    """Returns the logits (N, V) after the last token of the clean run under each circuit (N, E)."""
    run, graph = _MaskedRun(network, clean, corrupt, circuits), network.graph
    per_layer = graph.heads + 2 * graph.kv_heads + 1
    for layer in range(graph.layers):
        first = layer * per_layer
        query, key, value = run.inputs(first, graph.heads), first + graph.heads, first + graph.heads + graph.kv_heads
        mixed = network.mix(
            layer,
            network.queries(layer, query),
            network.keys(layer, run.inputs(key, graph.kv_heads)),
            network.values(layer, run.inputs(value, graph.kv_heads)),
        )
        bias = network.attention(layer).output.bias
        written = network.written(layer, mixed)
        run.write(written, bias)
        run.write(network.feed(layer, run.inputs(first + per_layer - 1, 1)[:, 0])[:, None])
    return network.logits(run.inputs(len(graph.readers) - 1, 1)[:, 0])


class _MaskedRun:
    """The state of runs under N circuits: the streams, and by how much every writer differs from the corrupt run."""

    def __init__(self, network: Network, clean: Recorded, corrupt: Recorded, circuits: Mask) -> None:
        self.graph, self.corrupt = network.graph, corrupt
        self.left_out = torch.from_numpy(~circuits).to(clean.streams.device)
        count = len(circuits)
        self.stream = clean.streams[0].expand(count, -1, -1)
        self.corrupt_stream = corrupt.streams[0]
        self.changes = (clean.writes[0] - corrupt.writes[0]).expand(count, 1, -1, -1)  # (N, writers so far, T, C)

    def inputs(self, first: int, count: int) -> Tensor:
        """Returns the inputs (N, count, T, C) of `count` readers from the reader `first` on.

        A reader all of whose edges are left out reads the corrupt stream itself, and one with all edges the stream of
        the run, so both are free of rounding errors.
        """
        writers = self.changes.shape[1]
        start = int(self.graph.starts[first])
        left_out = self.left_out[:, start : start + count * writers].reshape(-1, count, writers)
        removed = torch.einsum("nru,nutc->nrtc", left_out.to(self.stream.dtype), self.changes)
        inputs = self.stream[:, None] - removed
        none = left_out.all(-1)[..., None, None]
        return torch.where(none, self.corrupt_stream, inputs)

    def write(self, written: Tensor, bias: Tensor | None = None) -> None:
        """Adds writes (N, writers, T, C) and a constant bias (C,) to the streams."""
        known = self.changes.shape[1]
        corrupt = self.corrupt.writes[known : known + written.shape[1]]
        self.changes = torch.cat((self.changes, written - corrupt), 1)
        self.stream = self.stream + written.sum(1)
        self.corrupt_stream = self.corrupt_stream + corrupt.sum(0)
        if bias is not None:
            self.stream, self.corrupt_stream = self.stream + bias, self.corrupt_stream + bias
