"""`attncli circuit compose`: scores the composition of all pairs of heads, and measures their edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from attncli.circuits.batteries import battery
from attncli.circuits.composition import by_heads, composing_edges, composition
from attncli.circuits.graph import refuse_graph
from attncli.circuits.known_heads import known_heads
from attncli.circuits.network import Network
from attncli.circuits.search import CircuitSearch
from attncli.cli.bodies.circuit.progress import PatchedRuns
from attncli.cli.bodies.results import show_result, write_asked
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.render.circuit_compose import compose_arrays, compose_document, compose_screen
from attncli.render.console import print_note
from attncli.render.numbers import duration, plural


def run(
    source: ModelSource,
    task: str,
    count: int,
    seed: int,
    npz: Path | None,
    pictures: Pictures,
    *,
    check: bool,
    json: bool,
) -> None:
    """Scores all pairs of heads; with `check`, also measures the exact effect of every edge between heads."""
    loaded = load(source)
    refuse_graph(loaded.model.config, loaded.name)
    network = Network(loaded.model.requires_grad_(False))
    finding = composition(network, seed)
    if check:
        pairs = battery(loaded, network, task, count, seed).pairs
        progress = PatchedRuns()
        search, edges = CircuitSearch(network, pairs, ran=progress.more), composing_edges(network.graph)
        progress.total = search.runs(edges)
        told = f"{plural(int(edges.sum()), 'edge')}, {plural(len(pairs), 'pair')}"
        print_note(f"{told}: {plural(progress.total, 'patched run')}, about {duration(search.seconds(progress.total))}")
        finding = replace(finding, effects=by_heads(network.graph, search.exact(edges)))
    names, checked = known_heads(loaded), f"over {plural(count, 'pair')} of the task {task}"
    show_result(
        lambda: compose_document(finding, loaded.name, names),
        lambda console: compose_screen(finding, loaded.name, console.width, names, checked),
        json=json,
        title="attncli circuit compose",
        pictures=pictures,
    )
    write_asked(npz, "--npz", lambda file: np.savez(file, **compose_arrays(finding)))
