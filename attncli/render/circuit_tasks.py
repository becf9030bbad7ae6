"""The screen of `attncli circuit tasks`: a row for each task, with its accuracy and the size of its circuit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.circuits.defaults import TASKS
from attncli.render.circuit_ends import signed_share
from attncli.render.escape import fold
from attncli.render.heading import shape_of
from attncli.render.numbers import percent

if TYPE_CHECKING:
    from attncli.circuits.tasks import TaskScore

_WIDE = 76  # cells from which all columns are shown


def tasks_screen(
    finding: Mapping[str, TaskScore | None], model: str, shape: tuple[int, int], width: int, *, wanted: float, seed: int
) -> RenderableType:
    """Draws a row for each task."""
    table, wide = Table.grid(padding=(0, 2)), width >= _WIDE
    sides: tuple[JustifyMethod, ...] = ("left", "right", "right", "right", "right", "left")
    shown = range(6) if wide else (0, 1, 3, 4)  # the size of a circuit needs what it keeps on other pairs
    for at in shown:
        table.add_column(justify=sides[at], no_wrap=True, overflow="ellipsis")
    heads = ("task", "right", "nats", "edges", "other pairs", "strongest between heads")
    table.add_row(*(Text(name, "dim") for name in (heads[at] for at in shown)))
    for name, score in finding.items():
        cells = _cells(name, score)
        table.add_row(*(cells[at] for at in shown))
    notes = [f"{name}: {TASKS[name]}" for name in finding]
    notes += [
        "right: the share of prompts, clean and corrupt, whose right answer beats the wrong one (chance 50%).",
        *(["nats: the mean difference of their logits."] if wide else []),
        f"edges: of the smallest circuit found that keeps {percent(wanted)} of the effect, by EAP-IG and pruning.",
        f"other pairs: what this circuit keeps on pairs that were not searched. Seed {seed}.",
    ]
    if left := sum(score.left_out for score in finding.values() if score):
        notes.append(f"{left} pairs do not align in the vocabulary of this model and were left out.")
    lines = [Text(fold(note, width), "dim") for note in notes]
    return Group(Text(fold(shape_of(model, *shape), width), "bold"), Text(), table, Text(), *lines)


def _cells(name: str, score: TaskScore | None) -> list[str]:
    if score is None:
        return [name, "no pair aligns", "", "", "", ""]
    size = "no effect" if score.size is None else f"{score.size} ({score.size / score.edges:.1%})"
    held = "" if score.held_out is None else signed_share(score.held_out)
    return [name, percent(score.accuracy), f"{score.difference:+.2f}", size, held, score.strongest]


def tasks_document(finding: Mapping[str, TaskScore | None], model: str, wanted: float, seed: int) -> dict[str, Any]:
    """Returns the scores as a JSON-ready dictionary; null for a task that does not align."""
    scores = [{"task": name} if score is None else asdict(score) for name, score in finding.items()]
    return {"model": model, "wanted": wanted, "seed": seed, "tasks": scores}
