"""Loads the model that --model, --revision, --device and --dtype describe, while a status line shows the progress."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.cli.resolving import find
from attncli.cli.shared import ModelSource
from attncli.generation.loading import choose_engine
from attncli.model.backend import Backend
from attncli.model.device import pick_device, pick_dtype
from attncli.model.native import round_to_int8
from attncli.render.console import print_note
from attncli.render.status import status


def load(source: ModelSource, dtype: str = "float32") -> LoadedModel:
    """Finds and loads a model. Raises BadCheckpoint, UsageProblem, or OutOfRoom if a download does not fit."""
    path = find(source.model, source.revision)
    place = pick_device(source.device)
    status(f"reading {path.name}")
    loaded = load_model(path, place, pick_dtype(dtype, place))
    status(f"running {path.name}")
    return loaded


def load_to_score(source: ModelSource, dtype: str) -> LoadedModel:
    """Loads a model as `load` does. For `int8`, rounds the weights to their int8 values and computes in float32."""
    loaded = load(source, "float32" if dtype == "int8" else dtype)
    if dtype == "int8":
        round_to_int8(loaded.model)
    return loaded


def load_to_generate(source: ModelSource, dtype: str, *, keep: bool = False) -> tuple[LoadedModel, Backend]:
    """Loads a model and its backend, as `Engine.load` does; prints a note if a CPU runs PyTorch instead of C."""
    engine = choose_engine(source.device, dtype)
    if engine.note:
        print_note(engine.note)
    path = find(source.model, source.revision)
    status(f"reading {path.name}")
    loaded = engine.load(path, keep=keep)
    status(f"running {path.name}")
    return loaded
