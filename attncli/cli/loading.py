"""From the options --model, --revision, --device and --dtype to a model ready to use."""

from __future__ import annotations

from attncli.checkpoint.store import LoadedModel, load_model
from attncli.cli.finding import find
from attncli.model.device import pick_device, pick_dtype


def load(model: str | None, device: str, dtype: str, revision: str | None = None) -> LoadedModel:
    """Finds a model and reads it. Raises BadCheckpoint, UsageProblem, or OutOfRoom for one that is downloaded."""
    path = find(model, revision)
    place = pick_device(device)
    return load_model(path, place, pick_dtype(dtype, place))
