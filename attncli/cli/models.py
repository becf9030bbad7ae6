"""`attncli models`."""

from __future__ import annotations

from attncli.cli.shared import JSON


def models(*, json: bool = JSON) -> None:
    """List the models in ./checkpoints and ATTNCLI_MODELS, and the model that comes with attncli; mark the default.

    attncli models
    attncli models --json
    """
    from attncli.cli.bodies.models import run

    run(json=json)
