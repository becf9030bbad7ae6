"""From the options --model, --revision, --device and --dtype to a model ready to use."""

from __future__ import annotations

from pathlib import Path

import torch

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.cli.finding import find
from attncli.cli.shared import ModelSource
from attncli.errors import UsageProblem
from attncli.model.backend import Backend, TorchBackend
from attncli.model.device import DTYPES, pick_device, pick_dtype
from attncli.render.status import status

_SLOWER = "about four times slower"  # benchmarks/README.md, "Generating"


def load(source: ModelSource, dtype: str = "float32") -> LoadedModel:
    """Finds a model and reads it. Raises BadCheckpoint, UsageProblem, or OutOfRoom for one that is downloaded."""
    path = find(source.model, source.revision)
    place = pick_device(source.device)
    return _read(path, place, pick_dtype(dtype, place))


def load_to_score(source: ModelSource, dtype: str) -> LoadedModel:
    """Loads as `load` does; `int8` is float32 with weights rounded as generating with int8 rounds them."""
    if dtype != "int8":
        return load(source, dtype)
    from attncli.model.native import round_to_int8

    loaded = load(source)
    round_to_int8(loaded.model)
    return loaded


def load_to_generate(source: ModelSource, dtype: str, *, keep: bool = False) -> tuple[LoadedModel, Backend]:
    """Loads a model and its backend: on a CPU with a compiler the network in C, elsewhere PyTorch.

    The network in C packs the weights into its own arrays, and the model's are then freed unless `keep`. On a CPU
    `auto` is the type that the weights are stored in, which loses nothing and reads the fewest bytes; `int8` rounds
    them to integers.
    """
    from attncli.model import native, native_library
    from attncli.render.console import print_note

    place = pick_device(source.device)
    if dtype not in ("auto", "int8", *DTYPES):
        raise UsageProblem(f"--dtype {dtype!r} is not a type.", f"Use auto, {', '.join(DTYPES)} or int8.")
    in_c = place.type == "cpu" and native.available()
    why = native_library.problem() if place.type == "cpu" else ""
    if dtype == "int8" and not in_c:
        raise UsageProblem(
            "--dtype int8 is for a CPU with a C compiler (cc, gcc or clang), and ATTNCLI_NATIVE not 0.",
            f"Use auto. Here {why}." if why else "Use auto.",
        )
    if why:
        print_note(f"the network in C: {why}" if in_c else f"PyTorch generates, {_SLOWER} than C would: {why}")
    if not in_c:
        loaded = load(source, dtype)
        return loaded, TorchBackend(loaded.model)
    stored = dtype in ("auto", "int8")
    loaded = _read(find(source.model, source.revision), place, None if stored else pick_dtype(dtype, place))
    return loaded, native.NativeBackend(loaded.model, int8=dtype == "int8", releasing=not keep)


def _read(path: Path, place: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    status(f"reading {path.name}")
    loaded = load_model(path, place, dtype)
    status(f"running {path.name}")
    return loaded
