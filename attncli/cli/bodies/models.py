"""`attncli models`: lists the models that -m can name, with their sizes."""

from __future__ import annotations

from contextlib import suppress

from attncli.checkpoint.catalog import MODELS_FOLDER, find_model, known_models
from attncli.checkpoint.directory import TRAIN_FIRST
from attncli.checkpoint.families.registry import config_from_json
from attncli.cli.bodies.results import show_result
from attncli.errors import AttnError
from attncli.model.count import count_parameters
from attncli.paths import real
from attncli.render.console import print_note
from attncli.render.models import models_document, models_table


def run(*, json: bool) -> None:
    """Prints a table of the models, or a note if there are none."""
    entries = known_models()
    parameters = {}
    for entry in entries:
        with suppress(AttnError):  # the table shows that the model cannot be used
            parameters[entry.name] = sum(count_parameters(config_from_json(entry.config)).values())
    default = None
    with suppress(AttnError):  # there is no model, or ATTNCLI_MODEL names none
        chosen = real(find_model(None))
        default = next((entry.name for entry in entries if real(entry.path) == chosen), None)
    if not entries and not json:
        print_note(f"There is no model in ./{MODELS_FOLDER} yet. {TRAIN_FIRST}")
        return
    show_result(
        lambda: models_document(entries, parameters, default),
        lambda console: models_table(entries, parameters, default, console.width),
        json=json,
    )
