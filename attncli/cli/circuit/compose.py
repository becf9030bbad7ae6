"""`attncli circuit compose`."""

from __future__ import annotations

from pathlib import Path

from attncli.circuits.defaults import PAIRS, TASKS
from attncli.cli.circuit.shared import NPZ
from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.limits import at_least
from attncli.config.option import option


def compose(
    *,
    source: ModelSource,
    task: str = option("induction", "The task whose pairs measure the effect of each edge.", choices=tuple(TASKS)),
    count: int = option(PAIRS, "The number of pairs of the task.", limit=at_least(1)),
    check: bool = option(True, "Measure the effects of the edges between heads.", "--check/--no-check"),
    seed: int = option(0, "Draws the random matrices and the words of induction.", "--seed", "-s", limit=at_least(0)),
    json: bool = JSON,
    npz: Path | None = NPZ,
    pictures: Pictures,
) -> None:
    """Show which heads feed which: how well weights fit together, and what each edge is worth when patched.

    attncli circuit compose
    attncli circuit compose --task agreement --count 2
    """
    pictures.refuse({"--npz": npz})
    from attncli.cli.bodies.circuit.compose import run

    run(source, task, count, seed, npz, pictures, check=check, json=json)
