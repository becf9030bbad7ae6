"""Chooses the backend of a generation, and loads a model for this backend.

The backend is native.c on a CPU with a C compiler, else PyTorch. The choice depends on the device and the dtype alone,
so its errors are raised before a model is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from attncli.checkpoint.load import LoadedModel, load_model
from attncli.errors import UsageProblem
from attncli.model import native, native_library
from attncli.model.backend import Backend, TorchBackend
from attncli.model.device import DTYPES, pick_device, pick_dtype
from attncli.model.native import NativeBackend
from attncli.model.transformer import Transformer

_SLOWER = "about four times slower"  # benchmarks/README.md, "Generating"


@dataclass(frozen=True)
class Engine:
    """The choice of backend, device and dtype for a generation."""

    device: torch.device
    dtype: str
    native: bool  # whether the backend is native.c
    note: str  # why native.c is not used or its compiled library cannot be stored; else empty

    def load(self, path: Path, adapter: Path | None = None, *, keep: bool = False) -> tuple[LoadedModel, Backend]:
        """Reads a model, merges an adapter into it, and returns it with its backend. Raises BadCheckpoint.

        The native backend copies the weights; then the model's own weights are freed, unless `keep` is true. With the
        dtype `auto`, the native backend keeps the stored dtype: no precision is lost, and the fewest bytes are read.
        """
        if not self.native:
            loaded = load_model(path, self.device, pick_dtype(self.dtype, self.device), adapter)
            return loaded, TorchBackend(loaded.model)
        stored = self.dtype in ("auto", "int8")
        dtype = None if stored else pick_dtype(self.dtype, self.device)
        loaded = load_model(path, self.device, dtype, adapter)
        if not native.supports(loaded.model.config):
            loaded.model.to(pick_dtype("auto" if stored else self.dtype, self.device))
            return loaded, TorchBackend(loaded.model)
        return loaded, NativeBackend(loaded.model, int8=self.dtype == "int8", releasing=not keep)


def backend_for(model: Transformer, *, narrow: bool = False) -> Backend:
    """Returns a backend that generates with a loaded model: native.c with a copy of the weights, or PyTorch.

    With `narrow`, native.c keeps the weights in bfloat16 or float16 if this changes no weight. It then reads half the
    bytes and computes the same logits.
    """
    on_cpu = model.embedding.weight.device.type == "cpu"
    if on_cpu and native.available() and native.supports(model.config):
        small = _narrowed(model) if narrow else None
        return NativeBackend(model) if small is None else NativeBackend(small, releasing=True)
    return TorchBackend(model)


def _narrowed(model: Transformer) -> Transformer | None:
    """Returns a copy of a float32 model in bfloat16 or float16 that has the same weights; None if there is none."""
    weights = model.state_dict()
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights.values()):
            with torch.device("meta"):
                copy = Transformer(model.config)
            copy.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
            return copy.eval()
    return None


def choose_engine(device: str, dtype: str) -> Engine:
    """Returns the choice of backend for the names of a device and a dtype. Waits for the C compiler.

    Raises UsageProblem for an unknown name, and for a device or dtype that this machine does not support.
    """
    place = pick_device(device)
    if dtype not in ("auto", "int8", *DTYPES):
        raise UsageProblem.naming(
            lambda named: (f"{named('dtype')} {dtype!r} is not a type.", f"Use auto, {', '.join(DTYPES)} or int8.")
        )
    in_c = place.type == "cpu" and native.available()
    problem = native_library.problem() if place.type == "cpu" else ""
    if dtype == "int8" and not in_c:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('dtype')} int8 needs a CPU, a C compiler (cc, gcc or clang), and ATTNCLI_NATIVE not set to 0.",
                f"Use auto. On this machine, {problem}." if problem else "Use auto.",
            )
        )
    note = ""
    if problem:
        note = f"the network in C: {problem}" if in_c else f"PyTorch generates, {_SLOWER} than C would: {problem}"
    return Engine(place, dtype, in_c, note)
