"""The exact effect of every edge: the measure when one reader gets one write of the other run, and all else follows.

For an edge from a writer to a reader, the input of the reader is the residual stream of the base run, minus what the
writer wrote there, plus what it wrote in the other run. The rest of the model is recomputed: everything that depends on
the reader. Every run begins at the layer of its reader with the streams, keys and values that the base run has
recorded, and all edges of a layer share batches. A write that is equal in both runs has no effect and needs no run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attncli.circuits.graph import Mask
from attncli.circuits.measure import Answer
from attncli.circuits.network import Network, Recorded, in_batches
from attncli.explain.question import Floats

Progress = Callable[[int], None]


def runs_needed(network: Network, base: Recorded, other: Recorded, only: Mask | None = None) -> int:
    """Returns the number of patched runs that `exact_effects` makes: the edges whose write differs."""
    differs = _differing(base, other).cpu().numpy()[network.graph.ends[0]]
    return int((differs if only is None else differs & only).sum())


@torch.inference_mode()
def exact_effects(
    network: Network,
    base: Recorded,
    other: Recorded,
    answer: Answer,
    progress: Progress | None = None,
    only: Mask | None = None,
) -> Floats:
    """Returns the measure (E,) of the base run with each edge patched, minus the measure of the base run.

    If `only` (E,) is given, the other edges are not patched, and their effects are 0. `progress` is called with the
    number of runs since its last call.
    """
    effects = np.zeros(network.graph.size)
    layered = _Layered(network, base, other, answer, progress, np.ones(len(effects), bool) if only is None else only)
    starts = {reader: int(at) for reader, at in zip(network.graph.readers, network.graph.starts, strict=False)}
    for reader, measured in layered.by_reader():
        effects[starts[network.graph.readers[reader]] :][: len(measured)] = measured
    return effects


def _differing(base: Recorded, other: Recorded) -> Tensor:
    """Returns which writers (U,) wrote something else in the other run."""
    return (base.writes != other.writes).flatten(1).any(1)


@dataclass
class _Layered:
    """Computes the edges into the parts of one layer after another."""

    network: Network
    base: Recorded
    other: Recorded
    answer: Answer
    progress: Progress | None
    only: Mask

    def __post_init__(self) -> None:
        self.changes = self.other.writes - self.base.writes  # (U, T, C)
        self.differs = _differing(self.base, self.other)
        self.before = float(self.answer.of(self.base.logits[None]))

    def by_reader(self) -> list[tuple[int, Floats]]:
        """Returns every reader, as an index, with the effects of all writers before it."""
        graph, found = self.network.graph, list[tuple[int, Floats]]()
        per_layer = graph.heads + 2 * graph.kv_heads + 1
        for layer in range(graph.layers):
            first = layer * per_layer
            found += enumerate(self._attention(layer, first), first)
            found.append((first + per_layer - 1, self._mlp(layer, first + per_layer - 1)))
        found.append((len(graph.readers) - 1, self._output()))
        return found

    def _writers(self, reader: int) -> Tensor:
        """Returns which of the writers before a reader (U',) are patched."""
        start, end = self.network.graph.starts[reader : reader + 2]
        chosen = torch.from_numpy(self.only[start:end]).to(self.differs.device)
        return self.differs[: end - start] & chosen

    def _effects(self, patched: Tensor, measured: list[Tensor]) -> Floats:
        """Returns the effects (U',) on the measure, which was taken for the patched writers (U',) only."""
        effects = np.zeros(len(patched))
        if measured:
            effects[patched.cpu().numpy()] = torch.cat(measured).double().cpu().numpy() - self.before
        return effects

    def _measure(self, logits: Tensor) -> Tensor:
        if self.progress is not None:
            self.progress(len(logits))
        return self.answer.of(logits)

    def _attention(self, layer: int, first: int) -> list[Floats]:
        """Returns the effects (U',) of the edges into each query, key and value of a layer."""
        network, graph, base = self.network, self.network.graph, self.base
        readers = graph.readers[first : first + graph.heads + 2 * graph.kv_heads]
        patched = torch.stack([self._writers(first + at) for at in range(len(readers))])  # (R, U')
        measured: list[list[Tensor]] = [[] for _ in readers]
        before = network.written(layer, base.mixed[layer][None])  # (1, H, T, C)
        query, key, value = (side[layer][None] for side in (base.query, base.key, base.value))
        for writers in in_batches(patched.any(0).nonzero()[:, 0], base.streams.shape[1]):
            rows = (base.streams[layer] + self.changes[writers])[:, None]  # (N, 1, T, C)
            mixes = {
                "query": network.mix(layer, network.queries(layer, rows), key, value),
                "key": network.mix(layer, query, network.keys(layer, rows), value),
                "value": network.mix(layer, query, key, network.values(layer, rows)),
            }
            added = {port: network.written(layer, mixed) - before for port, mixed in mixes.items()}  # (N, H, T, C)
            for at, reader in enumerate(readers):
                changed = added[reader.port][patched[at, writers]][:, list(reader.heads)].sum(1)
                if len(changed):
                    measured[at].append(self._measure(network.from_middle(layer, base.middles[layer] + changed)))
        return [self._effects(*each) for each in zip(patched, measured, strict=True)]

    def _mlp(self, layer: int, reader: int) -> Floats:
        """Returns the effects (U',) of the edges into the feed-forward part of a layer."""
        patched, middle, measured = self._writers(reader), self.base.middles[layer], list[Tensor]()
        for writers in in_batches(patched.nonzero()[:, 0], len(middle)):
            after = middle + self.network.feed(layer, middle + self.changes[writers])
            measured.append(self._measure(self.network.from_layer(layer + 1, after)))
        return self._effects(patched, measured)

    def _output(self) -> Floats:
        """Returns the effects (U,) of the edges into the output."""
        patched = self._writers(len(self.network.graph.readers) - 1)
        writers = patched.nonzero()[:, 0]
        last = self.base.streams[-1, -1] + self.changes[writers, -1]  # (N, C)
        return self._effects(patched, [self._measure(self.network.logits(last[:, None]))])
