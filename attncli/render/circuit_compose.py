"""The screen of `attncli circuit compose`: which heads feed which, by the weights and by patching."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.circuits.defaults import PORTS
from attncli.render.circuit_ends import signed_share
from attncli.render.escape import fold
from attncli.render.heading import shape_of, titled

if TYPE_CHECKING:
    from attncli.circuits.composition import Composition

_SHOWN = 6  # pairs for each port
_READS = {"query": "Q: what a head looks for", "key": "K: what a head is found by", "value": "V: what a head moves"}


def compose_screen(
    finding: Composition, model: str, width: int, names: Mapping[tuple[int, int], str], checked: str
) -> RenderableType:
    """Draws the strongest pairs for each port, with random matrices and the effect of each edge beside them."""
    graph = finding.graph
    parts: list[RenderableType] = [Text(fold(shape_of(model, graph.layers, graph.heads), width), "bold")]
    for at, port in enumerate(PORTS):
        facts = f"random matrices {finding.random[at]:.3f} ± {finding.spread[at]:.3f}"
        parts += [Text(), titled(_READS[port], facts, width), _table(finding, at, names, width)]
    left_out = [
        name
        for name, there in (("the norms of query and key", finding.normed), ("the rotation", finding.rotated))
        if there
    ]
    notes = [
        "score: |A B| / (|A| |B|) of the matrix with which a head writes and the matrix with which a later head reads. "
        "The norm before attention is folded in."
        + (f" Left out, because they are no matrices: {' and '.join(left_out)}." if left_out else "")
    ]
    if finding.effects is not None:
        notes.append(f"effect: the share of the effect that is lost with this edge alone corrupt, {checked}.")
    notes.append("A large score says that one head could feed another; only the effect says that it does.")
    return Group(*parts, Text(), *(Text(fold(note, width), "dim") for note in notes))


def _table(finding: Composition, at: int, names: Mapping[tuple[int, int], str], width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    measured = finding.effects is not None
    sides: tuple[JustifyMethod, ...] = ("right", "left", "right", "right", "right", "left")
    for justify, cells in zip(sides, (4, 4, 5, 8, 6, 0), strict=True):  # the names of the heads alone are shortened
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis", min_width=cells)
    head = ("from", "to", "score", "x random", "effect" if measured else "", "")
    table.add_row(*(Text(name, "dim") for name in head))
    for pair in finding.ranked(PORTS[at])[:_SHOWN]:
        layer, one, later, two = pair
        score = float(finding.scores[at][pair])
        known = " → ".join(name for name in (names.get((layer, one), ""), names.get((later, two), "")) if name)
        effect = "" if finding.effects is None else signed_share(float(finding.effects[at][pair]))
        times = f"{score / finding.random[at]:.1f}"
        table.add_row(f"{layer}.{one}", f"{later}.{two}", f"{score:.3f}", times, effect, Text(known, "dim"))
    return table


def compose_document(finding: Composition, model: str, names: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    graph = finding.graph

    def pairs(at: int) -> list[dict[str, Any]]:
        found = []
        for pair in finding.ranked(PORTS[at]):
            effect = None if finding.effects is None else float(finding.effects[at][pair])
            found.append(
                {
                    "writer": list(pair[:2]),
                    "reader": list(pair[2:]),
                    "score": float(finding.scores[at][pair]),
                    "effect": None if effect is None or math.isnan(effect) else effect,
                }
            )
        return found

    return {
        "model": model,
        "layers": graph.layers,
        "heads": graph.heads,
        "kv_heads": graph.kv_heads,
        "random": dict(zip(PORTS, finding.random.tolist(), strict=True)),
        "random_spread": dict(zip(PORTS, finding.spread.tolist(), strict=True)),
        "seed": finding.seed,
        "known_heads": [{"layer": layer, "head": head, "kind": kind} for (layer, head), kind in names.items()],
        **{port: pairs(at) for at, port in enumerate(PORTS)},
    }


def compose_arrays(finding: Composition) -> dict[str, Any]:
    """Returns the scores and the effects (3, L, H, L, H): port, writer, reader."""
    effects = np.full_like(finding.scores, np.nan) if finding.effects is None else finding.effects
    return {"scores": finding.scores, "effects": effects, "random": finding.random}
