"""`attncli circuit tasks`: scores a model on every battery, and prints a table."""

from __future__ import annotations

from attncli.circuits.graph import refuse_graph
from attncli.circuits.network import Network
from attncli.circuits.tasks import score_task
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.render.circuit_tasks import tasks_document, tasks_screen
from attncli.render.status import status


def run(
    source: ModelSource, tasks: tuple[str, ...], count: int, keep: float, seed: int, pictures: Pictures, *, json: bool
) -> None:
    """Scores the tasks one after another, and prints the table."""
    loaded = load(source)
    refuse_graph(loaded.model.config, loaded.name)
    network = Network(loaded.model.requires_grad_(False))
    scores = {}
    for task in tasks:
        status(f"searching the circuit of {task}")
        scores[task] = score_task(loaded, network, task, count=count, wanted=keep, seed=seed)
    shape = loaded.model.config.layers, loaded.model.config.heads
    show_result(
        lambda: tasks_document(scores, loaded.name, keep, seed),
        lambda console: tasks_screen(scores, loaded.name, shape, console.width, wanted=keep, seed=seed),
        json=json,
        title="attncli circuit tasks",
        pictures=pictures,
    )
