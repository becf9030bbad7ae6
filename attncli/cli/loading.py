"""Loads the model that --model, --revision, --device and --dtype describe, while a status line shows the progress."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.cli.resolving import find_adapted
from attncli.cli.shared import ModelSource
from attncli.generation.loading import choose_engine
from attncli.model.backend import Backend
from attncli.model.device import pick_device, pick_dtype
from attncli.model.native import round_to_int8
from attncli.render.console import print_note
from attncli.render.status import status


def load(source: ModelSource, dtype: str = "float32") -> LoadedModel:
    """Loads and returns the model that the options choose. Raises BadCheckpoint, UsageProblem or OutOfRoom."""
    found = find_adapted(source)
    place = pick_device(source.device)
    status(f"reading {found.model.name}")
    loaded = load_model(found.model, place, pick_dtype(dtype, place), found.adapter)
    _note(loaded)
    return loaded


def _note(loaded: LoadedModel) -> None:
    """Prints the notes on a loaded model."""
    for note in loaded.notes:
        print_note(note)
    status(f"running {loaded.path.name}")


def load_to_score(source: ModelSource, dtype: str) -> LoadedModel:
    """Returns a loaded model for scoring. For `int8`, its matrices are rounded to int8 values and stored as float32."""
    loaded = load(source, "float32" if dtype == "int8" else dtype)
    loaded.refuse_encoder("predicts no next token, so it has no perplexity")
    if dtype == "int8":
        round_to_int8(loaded.model)
    return loaded


def load_to_generate(source: ModelSource, dtype: str, *, keep: bool = False) -> tuple[LoadedModel, Backend]:
    """Returns a loaded model and its backend for generation.

    Prints a note if a CPU cannot run the network in C, or cannot store the compiled library. With `keep`, the model
    keeps its weights although the backend has its own copy.
    """
    engine = choose_engine(source.device, dtype)
    if engine.note:
        print_note(engine.note)
    found = find_adapted(source)
    status(f"reading {found.model.name}")
    loaded, backend = engine.load(found.model, found.adapter, keep=keep)
    loaded.refuse_encoder("continues no text")
    _note(loaded)
    return loaded, backend
