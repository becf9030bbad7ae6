"""Reads the weights of an untrusted model directory: one file, or shards that an index lists.

First, the headers are checked: the number of layers, then the name, shape and dtype of every tensor. Memory is
allocated after this check. The tensors are read one at a time, and their values and the file's digest are checked. No
code is executed, and no file outside the directory is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from attncli.checkpoint import directory
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.families.tensor_names import StoredTensor, TensorNames
from attncli.checkpoint.gguf.folder import GgufFolder
from attncli.checkpoint.gguf.tensors import GgufTensors, open_gguf_tensors
from attncli.checkpoint.tensors import Entry, TensorFile, open_tensors
from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint
from attncli.model.transformer import Transformer

_FIRST_BLOCK = "blocks.0."
Change = Callable[[StoredTensor, Tensor], Tensor]  # a tensor of a file -> the tensor that the model uses
Files = Sequence[TensorFile | GgufTensors]


def read_weights(
    folder: ModelFolder,
    config: ModelConfig,
    names: TensorNames,
    device: torch.device,
    dtype: torch.dtype | None,
    change: Change = lambda held, tensor: tensor,
) -> Transformer:
    """Returns a model with the shape `config` and the weights of a directory, in evaluation mode. Raises BadCheckpoint.

    `names` are the tensor names of the model's family. The weights have the given dtype; None keeps the stored dtype.
    `change` returns each tensor of a file as it is used. The peak memory is the size of the weights plus one tensor in
    the stored dtype.
    """
    hashed = folder.holds(directory.MANIFEST)
    with _open(folder, hashed, dtype) as files:
        recognized = names.recognize((entry.name for file in files for entry in file.entries), config.tied)
        _check_layers(folder, files, config, names.count_layers(recognized.values()))
        shapes = our_shapes(config)
        stored = names.stored(shapes)
        expected = {name: stored_shape(held, shapes) for name, held in stored.items()}
        absent = _check_headers(files, recognized, expected, names.zeros)
        weights: dict[str, Tensor] = {}
        for file in files:
            unfit = ""
            for name, tensor in file.tensors(recognized.__contains__):
                held = stored[recognized[name]]
                changed = change(held, tensor)
                if not is_finite(changed):
                    unfit = unfit or name
                weights |= _parts(held, changed, shapes, device, dtype or tensor.dtype)
                del tensor, changed  # freed before the next tensor is read
            if hashed:
                folder.check(file.path.name, file.sha256())
            if unfit:
                raise BadCheckpoint(
                    f"{file.path}: {unfit} holds a value that is not a finite number.", "Copy it again, or train again."
                )
    present = next(iter(weights.values()))
    weights |= {own: present.new_zeros(shapes[own]) for name in absent for own in stored[name].ours}
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is finite. The check does not copy the tensor, even if its dtype has 16 bits."""
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())


def _parts(
    held: StoredTensor, tensor: Tensor, shapes: Mapping[str, torch.Size], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Splits a tensor of a file into the model's tensors; returns them by name, on `device` and in `dtype`."""
    whole = tensor.T if held.transposed else tensor[0] if held.as_row else tensor
    parts = torch.split(whole, [shapes[name][0] for name in held.ours])
    moved = (part.to(device, dtype, memory_format=torch.contiguous_format).contiguous() for part in parts)
    return dict(zip(held.ours, moved, strict=True))


def stored_shape(held: StoredTensor, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
    """Returns the shape that a tensor of a file must have."""
    rows = sum(shapes[name][0] for name in held.ours)
    shape = (rows, *shapes[held.ours[0]][1:])
    return shape[::-1] if held.transposed else (1, *shape) if held.as_row else shape


@contextmanager
def _open(folder: ModelFolder, hashed: bool, dtype: torch.dtype | None) -> Iterator[Files]:
    """Opens every file of weights, reads the headers, and yields the open files. Raises BadCheckpoint.

    The tensors of a GGUF file, which may be quantized, are read with the given dtype.
    """
    if isinstance(folder, GgufFolder):
        with open_gguf_tensors(folder, dtype) as file:
            yield [file]
        return
    index = None
    if not folder.holds(directory.WEIGHTS) and folder.holds(directory.INDEX):
        index = directory.shards(folder.json(directory.INDEX), folder.path / directory.INDEX)
    names = [directory.WEIGHTS] if index is None else sorted(set(index.values()))
    with ExitStack() as stack:
        paths = [folder.file(name) if index is None else folder.file_inside(name) for name in names]
        files = [stack.enter_context(open_tensors(path, hashed)) for path in paths]
        if index is not None:
            _check_index(folder, index, files)
        yield files


def _check_index(folder: ModelFolder, index: dict[str, str], files: Files) -> None:
    """Raises BadCheckpoint unless each tensor is in the shard that the index names and in no other shard."""
    found = {(entry.name, file.path.name) for file in files for entry in file.entries}
    missing, extra = sorted(index.items() - found), sorted(found - index.items())
    for name, file in missing or extra:
        wrong = "does not hold" if missing else "holds"
        unlisted = "" if missing else f", which {directory.INDEX} does not list"
        raise BadCheckpoint(
            f"{folder.path / file} {wrong} {ascii(name)[:80]}{unlisted} ({len(missing)} missing, {len(extra)} extra).",
            "Copy the model again from its source.",
        )


def _check_layers(folder: ModelFolder, files: Files, config: ModelConfig, layers: tuple[int, int]) -> None:
    """Raises BadCheckpoint if the numbers of `layers` in the files, decoder and encoder, are not the config's.

    This check runs first, because the other checks take time for each layer of the config.
    """
    counted = (("", layers[0], config.layers), ("encoder ", layers[1], config.encoder_layers))
    for kind, found, expected in counted:
        if found != expected:
            where = files[0].path if len(files) == 1 else folder.path
            raise BadCheckpoint(
                f"{where} holds {found} {kind}layers, and {directory.CONFIG} says {expected}.",
                "The files belong to different models.",
            )


def our_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Returns the shape of every tensor of a model, by the names of the attributes of `Transformer`.

    Builds a model of one layer per stack, because building many layers takes seconds.
    """
    with torch.device("meta"):
        one = Transformer(replace(config, layers=1, encoder_layers=min(config.encoder_layers, 1))).state_dict()
    shapes: dict[str, torch.Size] = {}
    for name, tensor in one.items():
        stack, first, inside = name.rpartition(_FIRST_BLOCK)
        layers = config.encoder_layers if stack else config.layers
        names = [f"{stack}blocks.{layer}.{inside}" for layer in range(layers)] if first else [name]
        shapes |= dict.fromkeys(names, tensor.shape)
    return shapes


def _check_headers(
    files: Files, recognized: Mapping[str, str], expected: Mapping[str, tuple[int, ...]], optional: frozenset[str]
) -> set[str]:
    """Raises BadCheckpoint if a name, shape or dtype differs from `expected`, before any weight is read.

    `recognized` maps the names in the files to the names in `expected`. Returns the names of the `optional` tensors
    that the files do not contain.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for entry in file.entries:
            name = recognized.get(entry.name)
            if name is None:  # a buffer, or a copy of a tied tensor
                continue
            if name in found:
                raise BadCheckpoint(
                    f"{file.path} holds {ascii(entry.name)[:80]} twice.", "The file is of another model."
                )
            found[name] = file.path, entry
    absent = expected.keys() - found.keys()
    missing, extra = sorted(absent - optional), sorted(found.keys() - expected.keys())
    if missing or extra:
        unknown = "" if missing else ascii(found[extra[0]][1].name)[:80]
        named = f"lacks {missing[0]}" if missing else f"holds {unknown}, which the model does not have"
        where = files[0].path if len(files) == 1 else files[0].path.parent
        raise BadCheckpoint(
            f"{where} {named} ({len(missing)} missing, {len(extra)} extra).", "The file is of another model."
        )
    for name, (path, entry) in found.items():
        shape = expected[name]
        if entry.shape != shape:
            raise BadCheckpoint(
                f"{path}: {name} has shape {list(entry.shape)}, and {directory.CONFIG} says {list(shape)}.",
                "The file is of another model.",
            )
        if not entry.dtype.is_floating_point:
            raise BadCheckpoint(f"{path}: {name} has type {entry.dtype}.", "Weights are floating-point numbers.")
    return absent
