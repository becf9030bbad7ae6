"""`attncli circuit why`: decomposes one attention score of a text, and prints the terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from attncli.circuits.graph import refuse_graph
from attncli.circuits.scores import attribute_score, default_source
from attncli.cli.bodies.results import show_result, write_asked
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.errors import UsageProblem
from attncli.explain.locate import find_token
from attncli.explain.question import refuse_length, refuse_missing
from attncli.render.circuit_why import why_document, why_screen


def run(
    text: str,
    source: ModelSource,
    head: tuple[int, int],
    edge: str | None,
    npz: Path | None,
    pictures: Pictures,
    *,
    json: bool,
) -> None:
    """Finds the two tokens, and prints why the head looks from one at the other."""
    loaded = load(source)
    refuse_graph(loaded.model.config, loaded.name)
    pieces = loaded.pieces(text)
    refuse_length(pieces, loaded.model.config.context)
    refuse_missing("layer", head[0], loaded.model.config.layers)
    refuse_missing("head", head[1], loaded.model.config.heads)
    if edge is None:
        query = len(pieces) - 1
        looked = default_source(loaded.model, pieces, head, query)
    else:
        one, colon, two = edge.partition(":")
        if not (one and colon and two):
            raise UsageProblem(f"--edge {edge!r} is not an edge.", "Use QUERY:SOURCE, such as 6:4 or bank:river.")
        query, looked = find_token(pieces, one), find_token(pieces, two)
    finding = attribute_score(loaded.model, loaded.tokenizer, pieces, head, query, looked)
    show_result(
        lambda: why_document(finding, loaded.name),
        lambda console: why_screen(finding, loaded.name, console.width),
        json=json,
        title="attncli circuit why",
        pictures=pictures,
    )
    arrays: dict[str, Any] = {"terms": finding.terms, "average": finding.average, "chance": finding.chance}
    arrays |= {"components": np.array(finding.components), "shares": finding.written.shares}
    write_asked(npz, "--npz", lambda file: np.savez(file, **arrays))
