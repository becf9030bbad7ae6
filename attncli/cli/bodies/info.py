"""`attncli info`: prints the shape, the parameters and the training run of a model, or the shape of a preset."""

from __future__ import annotations

from attncli.checkpoint.catalog import status_of
from attncli.checkpoint.directory import CONFIG, RUN, name_of
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.gguf.folder import open_folder
from attncli.cli.bodies.results import show_result
from attncli.cli.resolving import find
from attncli.cli.shared import ModelChoice
from attncli.model.count import PRESETS
from attncli.render.models import info_document, info_screen


def run(choice: ModelChoice, preset: str | None, *, json: bool) -> None:
    """Prints the facts about a model or a preset. Raises BadCheckpoint if the model cannot be read."""
    if preset is not None:
        title, config = PRESETS[preset]
        made, where = {}, None
    else:
        path = find(choice.model, choice.revision, weights=False)
        folder = open_folder(path)
        config = config_from_json(folder.json(CONFIG), str(folder.where(CONFIG)))
        made = folder.json_if_any(RUN)
        if made:
            made["status"] = status_of(path, made)
        title, where = name_of(path), str(path)
    show_result(
        lambda: info_document(title, config, made, where),
        lambda console: info_screen(title, config, made, where, console.width),
        json=json,
    )
