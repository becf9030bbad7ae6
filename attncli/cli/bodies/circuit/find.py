"""`attncli circuit find`: searches for the circuit of prompts, of a file of pairs or of a task, and prints it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attncli.checkpoint.load import LoadedModel
from attncli.circuits.batteries import PairLine, Prepared, battery, pairs_of_lines, prepared_texts
from attncli.circuits.defaults import EXACT_SECONDS, Method
from attncli.circuits.graph import refuse_graph
from attncli.circuits.known_heads import known_heads
from attncli.circuits.network import Network
from attncli.circuits.search import CircuitSearch, find_circuit
from attncli.cli.bodies.circuit.progress import PatchedRuns
from attncli.cli.bodies.results import show_result, write_asked
from attncli.cli.circuit.find import Searching
from attncli.cli.circuit.shared import Measured
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.errors import UsageProblem
from attncli.render.circuit_find import find_arrays, find_document, find_screen
from attncli.render.circuit_svg import circuit_svg
from attncli.render.console import print_note
from attncli.render.numbers import duration, plural, precise_duration
from attncli.render.themes import DEFAULT_THEME
from attncli.text.files import read_text


def run(
    prompts: tuple[str, str] | None,
    source: ModelSource,
    file: Path | None,
    task: str | None,
    count: int,
    measured: Measured,
    searching: Searching,
    npz: Path | None,
    graph: Path | None,
    pictures: Pictures,
    *,
    json: bool,
) -> None:
    """Prepares the pairs, searches, and prints the circuit."""
    loaded = load(source)
    refuse_graph(loaded.model.config, loaded.name)
    network = Network(loaded.model.requires_grad_(False))
    prepared, told = _prepared(loaded, network, prompts, file, task, count, measured, searching.seed)
    used = prepared.pairs if task is None else prepared.pairs[:count]
    progress = PatchedRuns()
    search = CircuitSearch(network, used, searching.direction, ran=progress.more, held=prepared.pairs[len(used) :])
    method = _method(search, searching.method, progress)
    finding = find_circuit(
        search,
        method,
        wanted=searching.keep,
        prune=searching.prune,
        randoms=searching.random,
        seed=searching.seed,
        compare=searching.check,
        by_token=searching.by_token,
    )
    print_note(
        f"{plural(finding.runs, 'patched run')} and the tests of the circuit: {precise_duration(finding.seconds)}"
    )
    if searching.by_token and finding.by_token is None:
        print_note("the pairs have different numbers of tokens, so --by-token shows nothing")
    names = known_heads(loaded)
    show_result(
        lambda: find_document(finding, loaded.name, names, prepared.left_out),
        lambda console: find_screen(finding, loaded.name, console, names, pairs=told),
        json=json,
        title="attncli circuit find",
        pictures=pictures,
    )
    title = f"The circuit of {told} in {loaded.name}: {finding.size} of {finding.graph.size} edges"
    drawn = circuit_svg(finding, title, names, pictures.theme or DEFAULT_THEME)
    write_asked(graph, "--graph", lambda opened: opened.write(drawn.encode()))
    write_asked(npz, "--npz", lambda opened: np.savez(opened, **find_arrays(finding)))


def _prepared(
    loaded: LoadedModel,
    network: Network,
    prompts: tuple[str, str] | None,
    file: Path | None,
    task: str | None,
    count: int,
    measured: Measured,
    seed: int,
) -> tuple[Prepared, str]:
    """Returns the pairs, of a task twice as many, and what they are in words."""
    if task is not None:
        if measured.target is not None or measured.against is not None:
            raise UsageProblem("A task has its own answers.", "Leave --target and --against out.")
        prepared = battery(loaded, network, task, 2 * count, seed, measured.measure)
        return prepared, f"task {task}, {plural(min(count, len(prepared.pairs)), 'pair')}"
    if prompts is not None:
        lines = [PairLine(*prompts, measured.target, measured.against)]
        return prepared_texts(loaded, network, lines, measured.measure), plural(1, "pair")
    lines = pairs_of_lines(read_text(str(file)).splitlines(), str(file))
    return prepared_texts(loaded, network, lines, measured.measure), plural(len(lines), "pair")


def _method(search: CircuitSearch, chosen: Method | None, progress: PatchedRuns) -> Method:
    """Returns the method, and prints the number of patched runs and their time."""
    runs = search.runs()
    seconds = search.seconds(runs)
    exact = chosen == "exact" or (chosen is None and seconds <= EXACT_SECONDS)
    edges = f"{plural(search.network.graph.size, 'edge')}, {plural(len(search.pairs), 'pair')}"
    if exact:
        print_note(f"{edges}: {plural(runs, 'patched run')}, about {duration(max(seconds, 1))}")
        progress.total = runs
        return "exact"
    if chosen is None:
        print_note(f"{edges}: exact effects would take about {duration(seconds)}, so gradients rank the edges")
    return chosen or "eap-ig"
