"""`attncli circuit patch`: patches the activations of two prompts and prints what each one restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from attncli.circuits.defaults import Align, Direction, Place
from attncli.circuits.pairs import paired
from attncli.circuits.patching import patch_activations
from attncli.cli.bodies.circuit.progress import PatchedRuns
from attncli.cli.bodies.results import show_result, write_asked
from attncli.cli.circuit.shared import Measured
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.render.circuit_patch import patch_document, patch_screen


def run(
    clean: str,
    corrupt: str,
    source: ModelSource,
    at: tuple[Place, ...],
    measured: Measured,
    direction: Direction,
    align: Align,
    npz: Path | None,
    pictures: Pictures,
    *,
    json: bool,
) -> None:
    """Pairs two prompts, patches, and prints the tables."""
    loaded = load(source)
    pair = paired(loaded.pieces(clean), loaded.pieces(corrupt), loaded.model.config.context, align)
    finding = patch_activations(
        loaded.model,
        loaded.tokenizer.target if loaded.translates else loaded.tokenizer,
        pair,
        start=loaded.target() if loaded.translates else (),
        places=tuple(dict.fromkeys(at)) or ("residual", "head"),
        direction=direction,
        target=measured.target,
        against=measured.against,
        kind=measured.measure,
        progress=PatchedRuns(),
    )
    show_result(
        lambda: patch_document(finding, loaded.name),
        lambda console: patch_screen(finding, loaded.name, console),
        json=json,
        title="attncli circuit patch",
        pictures=pictures,
    )
    arrays: dict[str, Any] = {place: finding.shares(place) for place in finding.tables}
    write_asked(npz, "--npz", lambda file: np.savez(file, **arrays))
