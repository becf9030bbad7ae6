"""Runs every battery on a model: can it do the task, and how many edges does that take?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attncli.checkpoint.load import LoadedModel
from attncli.circuits.batteries import battery
from attncli.circuits.network import Network
from attncli.circuits.search import CircuitSearch, Ran, find_circuit
from attncli.errors import BadInput


@dataclass(frozen=True)
class TaskScore:
    """How well a model does one task, and the size of its circuit."""

    task: str
    pairs: int  # with two prompts each
    left_out: int  # pairs that do not align in this model's vocabulary
    accuracy: float  # the share of the prompts whose right answer is more probable than the wrong one
    difference: float  # the mean logit of the right answer minus that of the wrong one, in nats
    edges: int  # of the graph
    size: int | None  # edges of the circuit; None if clean and corrupt runs do not differ
    faithfulness: float | None
    held_out: float | None  # the faithfulness on the pairs that were not searched
    strongest: str  # the edge between heads with the largest effect; empty without one


def score_task(
    loaded: LoadedModel, network: Network, task: str, *, count: int, wanted: float, seed: int, ran: Ran | None = None
) -> TaskScore | None:
    """Scores one task on up to 2 x `count` pairs, and finds the circuit of the first `count` by EAP-IG.

    Returns None if no pair of the task aligns in the vocabulary of the model.
    """
    try:
        prepared = battery(loaded, network, task, 2 * count, seed)
    except BadInput:
        return None
    right = np.array([(each.ends.clean, -each.ends.corrupt) for each in prepared.pairs])
    facts = (task, len(prepared.pairs), prepared.left_out, float((right > 0).mean()), float(right.mean()))
    graph = network.graph
    try:
        search = CircuitSearch(network, prepared.pairs[:count], ran=ran, held=prepared.pairs[count:])
    except BadInput:
        return TaskScore(*facts, graph.size, None, None, None, "")
    found = find_circuit(search, "eap-ig", wanted=wanted, randoms=0, seed=seed, compare=False)
    between = [
        edge
        for edge in found.order()
        if graph.writers[graph.ends[0][edge]].kind == "head" and graph.readers[graph.ends[1][edge]].heads
    ]
    strongest = graph.name(between[0]) if between else ""
    return TaskScore(*facts, graph.size, found.size, found.faithfulness, found.held_out, strongest)
