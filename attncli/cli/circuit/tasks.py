"""`attncli circuit tasks`."""

from __future__ import annotations

from attncli.circuits.defaults import FAITHFULNESS, PAIRS, TASKS
from attncli.cli.circuit.shared import SHARE
from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.limits import at_least
from attncli.config.option import option


def tasks(
    *,
    source: ModelSource,
    task: tuple[str, ...] = option((), "Only this task; may be repeated.", choices=tuple(TASKS), metavar="TASK"),
    count: int = option(PAIRS, "The pairs that are searched; as many others test the circuit.", limit=at_least(1)),
    keep: float = option(FAITHFULNESS, "The share of the effect that a circuit must keep.", limit=SHARE),
    seed: int = option(0, "Draws the words of induction.", "--seed", "-s", limit=at_least(0)),
    json: bool = JSON,
    pictures: Pictures,
) -> None:
    """Run a model on tasks with known circuits: its accuracy, and how few edges keep most of the effect.

    attncli circuit tasks
    attncli circuit tasks --task induction --count 2
    """
    pictures.refuse()
    from attncli.cli.bodies.circuit.tasks import run

    run(source, tuple(dict.fromkeys(task)) or tuple(TASKS), count, keep, seed, pictures, json=json)
