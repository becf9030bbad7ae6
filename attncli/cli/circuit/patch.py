"""`attncli circuit patch`."""

from __future__ import annotations

from pathlib import Path

from attncli.circuits.defaults import ALIGNMENTS, DIRECTIONS, PLACES, Align, Direction, Place
from attncli.cli.circuit.shared import NPZ, Measured
from attncli.cli.shared import JSON, ModelSource, Pictures
from attncli.config.option import REQUIRED, argument, option

_AT = "Patch these activations; may be repeated. Unset: residual and head."
_DIRECTION = "Copy clean activations into the corrupt run, or corrupt activations into the clean run."
_ALIGN = "Which parts of the prompts are counterparts: tokens, or words that may have different numbers of tokens."


def patch(
    *,
    clean: str = argument(REQUIRED, "A prompt that the model continues correctly."),
    corrupt: str = argument(REQUIRED, "The same prompt, changed so that another continuation is correct."),
    source: ModelSource,
    at: tuple[Place, ...] = option((), _AT, choices=PLACES, metavar="|".join(PLACES)),
    measured: Measured,
    direction: Direction = option("denoising", _DIRECTION, choices=DIRECTIONS),
    align: Align = option("token", _ALIGN, choices=ALIGNMENTS),
    json: bool = JSON,
    npz: Path | None = NPZ,
    pictures: Pictures,
) -> None:
    """Show which activations carry a prediction: copy each one from a clean run into a corrupt run, and measure.

    attncli circuit patch "A red bird, big dog. A red" "A big bird, red dog. A red"
    attncli circuit patch "Tom and Lily" "Tim and Lily" --target said --against ran
    """
    pictures.refuse({"--npz": npz})
    from attncli.cli.bodies.circuit.patch import run

    run(clean, corrupt, source, at, measured, direction, align, npz, pictures, json=json)
