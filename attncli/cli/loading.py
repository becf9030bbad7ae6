"""From the options --model, --revision, --device and --dtype to a model ready to use."""

from __future__ import annotations

from pathlib import Path

import torch

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.cli.finding import find
from attncli.errors import UsageProblem
from attncli.model.backend import Backend, TorchBackend
from attncli.model.device import DTYPES, pick_device, pick_dtype
from attncli.render.status import status

_SLOWER = "about four times slower"  # benchmarks/README.md, "Generating"


def load(model: str | None, device: str, dtype: str, revision: str | None = None) -> LoadedModel:
    """Finds a model and reads it. Raises BadCheckpoint, UsageProblem, or OutOfRoom for one that is downloaded."""
    path = find(model, revision)
    place = pick_device(device)
    return _read(path, place, pick_dtype(dtype, place))


def load_to_score(model: str | None, device: str, dtype: str, revision: str | None = None) -> LoadedModel:
    """The same; `int8` is float32 with weights rounded as generating with int8 rounds them."""
    if dtype != "int8":
        return load(model, device, dtype, revision)
    from attncli.model.native import round_to_int8

    loaded = load(model, device, "float32", revision)
    round_to_int8(loaded.model)
    return loaded


def load_to_generate(
    model: str | None, device: str, dtype: str, revision: str | None = None, *, keep: bool = False
) -> tuple[LoadedModel, Backend]:
    """The same, and what reads tokens with it: on a CPU in C, where there is a compiler; elsewhere PyTorch.

    What reads in C has weights of its own, and then the model keeps none, unless told to `keep` them.

    On a CPU `auto` then is the type that the weights are stored in, which loses nothing and reads the fewest bytes, and
    `int8` makes them integers.
    """
    from attncli.model import native, native_library
    from attncli.render.console import print_note

    place = pick_device(device)
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
        loaded = load(model, device, dtype, revision)
        return loaded, TorchBackend(loaded.model)
    stored = dtype in ("auto", "int8")
    loaded = _read(find(model, revision), place, None if stored else pick_dtype(dtype, place))
    return loaded, native.NativeBackend(loaded.model, int8=dtype == "int8", releasing=not keep)


def _read(path: Path, place: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    status(f"reading {path.name}")
    loaded = load_model(path, place, dtype)
    status(f"running {path.name}")
    return loaded
