"""Lists the models that -m can name, with their shapes and the default model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from attncli.checkpoint.catalog import ModelEntry, find_model, known_models
from attncli.checkpoint.directory import CONFIG
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.gguf.folder import open_folder
from attncli.config import ModelConfig
from attncli.errors import AttnError
from attncli.paths import is_file, real


@dataclass(frozen=True)
class Listing:
    """The models, the shape of each one that can be used, and the name of the default."""

    entries: Sequence[ModelEntry]
    shapes: dict[str, ModelConfig]
    default: str | None


def list_known() -> Listing:
    """Returns the models that -m can name."""
    entries = known_models()
    shapes = {}
    for entry in entries:
        with suppress(AttnError):  # the table shows that the model cannot be used
            config = open_folder(entry.path).json(CONFIG) if is_file(entry.path) else entry.config
            shapes[entry.name] = config_from_json(config)
    default = None
    with suppress(AttnError):  # there is no model, or ATTNCLI_MODEL names none
        chosen = real(find_model(None))
        default = next((entry.name for entry in entries if real(entry.path) == chosen), None)
    return Listing(entries, shapes, default)
