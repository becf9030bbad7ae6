"""`attncli models`."""

from __future__ import annotations

from attncli.cli.options import JsonOption
from attncli.errors import AttnError


def models(json: JsonOption = False) -> None:
    """List the models in ./checkpoints and ATTNCLI_MODELS, and the one that comes with attncli; the default is marked.

    attncli models
    attncli models --json
    """
    from attncli.checkpoint.catalog import MODELS_FOLDER, find_model, known_models
    from attncli.checkpoint.directory import TRAIN_FIRST
    from attncli.checkpoint.families.registry import config_from_json
    from attncli.model.count import count_parameters
    from attncli.paths import real
    from attncli.render.console import output, print_json, print_note, show
    from attncli.render.models import models_document, models_table

    entries = known_models()
    parameters = {}
    for entry in entries:
        try:
            parameters[entry.name] = sum(count_parameters(config_from_json(entry.config)).values())
        except AttnError:
            continue  # listed all the same, as a model that cannot be used
    try:
        chosen = real(find_model(None))
        default = next((entry.name for entry in entries if real(entry.path) == chosen), None)
    except AttnError:
        default = None  # what ATTNCLI_MODEL names is not there
    if json:
        print_json(models_document(entries, parameters, default))
    elif entries:
        console = output()
        show(console, models_table(entries, parameters, default, console.width))
    else:
        print_note(f"There is no model in ./{MODELS_FOLDER} yet. {TRAIN_FIRST}")
