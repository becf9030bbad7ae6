"""`attncli models`: lists the models that -m can name, with their sizes."""

from __future__ import annotations

from attncli.checkpoint.catalog import MODELS_FOLDER
from attncli.checkpoint.directory import TRAIN_FIRST
from attncli.checkpoint.listing import list_known
from attncli.cli.bodies.results import show_result
from attncli.model.count import count_parameters
from attncli.render.console import print_note
from attncli.render.models import models_document, models_table


def run(*, json: bool) -> None:
    """Prints a table of the models, or a note if there are none."""
    listing = list_known()
    entries, default = listing.entries, listing.default
    parameters = {name: sum(count_parameters(shape).values()) for name, shape in listing.shapes.items()}
    if not entries and not json:
        print_note(f"There is no model in ./{MODELS_FOLDER} yet. {TRAIN_FIRST}")
        return
    show_result(
        lambda: models_document(entries, parameters, default),
        lambda console: models_table(entries, parameters, default, console.width),
        json=json,
    )
