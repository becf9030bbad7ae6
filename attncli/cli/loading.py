"""From the options --model, --device and --dtype to a model ready to use."""

from __future__ import annotations

from attncli.checkpoint.directory import find_model
from attncli.checkpoint.store import LoadedModel, load_model
from attncli.model.device import pick_device, pick_dtype


def load(model: str | None, device: str, dtype: str) -> LoadedModel:
    """Finds a model and reads it. Raises BadCheckpoint or UsageProblem."""
    path = find_model(model)
    place = pick_device(device)
    return load_model(path, place, pick_dtype(dtype, place))
