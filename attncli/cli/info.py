"""`attncli info`."""

from __future__ import annotations

from attncli.cli.options import Given
from attncli.cli.shared import JSON, MODEL_ARGUMENT, ModelChoice
from attncli.config import alternatives
from attncli.config.option import option
from attncli.errors import UsageProblem
from attncli.model.count import PRESETS

_PRESET = f"Describe the shape of a well-known model instead: {alternatives(PRESETS)}."


def info(
    *,
    name: str | None = MODEL_ARGUMENT,
    choice: ModelChoice,
    preset: str | None = option(None, _PRESET, suggestions=tuple(PRESETS)),
    json: bool = JSON,
    given: Given,
) -> None:
    """Show a model's shape, its parameter counts, its memory, and how it was trained.

    attncli info
    attncli info --preset gpt3
    """
    if preset is not None and preset not in PRESETS:
        raise UsageProblem(f"There is no preset {preset!r}.", f"The presets are {', '.join(PRESETS)}.")
    if preset is not None:
        why = "--preset describes a shape without a model"
        given.refuse(("model", "revision"), why)
        if name is not None:
            raise UsageProblem(f"{why}, so {name} cannot be given.", f"Leave {name} out.")
    from attncli.cli.bodies.info import run

    run(choice.named(name), preset, json=json)
