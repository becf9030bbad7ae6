"""`attncli circuit find`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attncli.circuits.defaults import DIRECTIONS, FAITHFULNESS, METHODS, PAIRS, TASKS, Direction, Method
from attncli.cli.circuit.shared import NPZ, SHARE, Measured
from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.limits import at_least
from attncli.config.option import argument, check, option
from attncli.errors import UsageProblem

_TASK = f"Instead of prompts, the pairs of a task: {', '.join(TASKS)}."
_METHOD = "Rank edges by exact patching, or by gradients. Unset: exact if that takes at most a minute."
_SEED = "Draws the words of induction, the random circuits, and the edges that check an approximation."


@dataclass(frozen=True, kw_only=True)
class Searching:
    """How a circuit is searched."""

    method: Method | None = option(None, _METHOD, choices=METHODS)
    direction: Direction = option(
        "noising", "Corrupt edges of the clean run, or restore edges of the corrupt run.", choices=DIRECTIONS, rare=True
    )
    keep: float = option(FAITHFULNESS, "The share of the effect that the circuit must keep.", limit=SHARE)
    by_token: bool = option(False, "Also show at which tokens the strongest edges have their effect.")
    prune: bool = option(True, "Remove edges that the circuit does not need.", rare=True)
    check: bool = option(True, "Compare gradients with exact effects.", rare=True)
    random: int = option(10, "Random circuits to compare with.", limit=at_least(0), rare=True)
    seed: int = option(0, _SEED, "--seed", "-s", limit=at_least(0), rare=True)

    def __post_init__(self) -> None:
        check(self)


def find(
    *,
    clean: str | None = argument(None, "A prompt that the model continues correctly."),
    corrupt: str | None = argument(None, "The same prompt, changed so that another continuation is correct."),
    source: ModelSource,
    pairs: Path | None = option(
        None, "Instead of prompts, a file of pairs: JSON Lines with clean, corrupt, target, against.", metavar="FILE"
    ),
    task: str | None = option(None, _TASK, choices=tuple(TASKS)),
    count: int = option(PAIRS, "The number of pairs of the task; as many others test the circuit.", limit=at_least(1)),
    measured: Measured,
    searching: Searching,
    json: bool = JSON,
    npz: Path | None = NPZ,
    graph: Path | None = option(None, "Also draw the circuit as an SVG graph.", metavar="FILE.svg"),
    pictures: Pictures,
) -> None:
    """Find the circuit of a prediction: the few edges between components that carry it, with tests of the circuit.

    attncli circuit find --task induction
    attncli circuit find --task agreement --count 2 --method eap-ig
    """
    pictures.refuse({"--npz": npz, "--graph": graph})
    given = [clean is not None, pairs is not None, task is not None]
    if sum(given) != 1 or (clean is None) != (corrupt is None):
        raise UsageProblem(
            "Give two prompts, or --pairs FILE, or --task NAME, and only one of these.",
            "attncli circuit find --task induction",
        )
    if graph is not None and graph.suffix.lower() != ".svg":
        raise UsageProblem(
            f"--graph {graph} does not end in .svg.", f"For example: --graph {graph.with_suffix('.svg')}"
        )
    from attncli.cli.bodies.circuit.find import run

    prompts = None if clean is None or corrupt is None else (clean, corrupt)
    run(prompts, source, pairs, task, count, measured, searching, npz, graph, pictures, json=json)
