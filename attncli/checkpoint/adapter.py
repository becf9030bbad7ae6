"""Reads and writes the weights of LoRA adapters in the format of PEFT, and merges them into the weights of a model.

An adapter of a matrix W (out, in) is A (r, in) and B (out, r): the model computes with W + scale x B A (Hu et al.,
2021). `read_adapter` checks every name and shape of an untrusted file against the shape of the model, before it reads a
tensor. The weights are merged while the model is read, one matrix at a time, so every backend runs an adapted model as
any other. `adapted` says which of our matrices an adapter changes: GPT-2 has one adapter for query, key and value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attncli.checkpoint import directory
from attncli.checkpoint.adapter_config import AdapterConfig, adapter_config_to_json, ends_with, read_adapter_config
from attncli.checkpoint.directory import ModelFolder, name_of
from attncli.checkpoint.families.registry import family_of
from attncli.checkpoint.families.tensor_names import StoredTensor, TensorNames
from attncli.checkpoint.tensors import Entry, TensorFile, open_tensors
from attncli.checkpoint.weights import is_finite, our_shapes, stored_shape
from attncli.config import ModelConfig
from attncli.config.lora import LoraConfig, LoraTargets
from attncli.errors import BadCheckpoint
from attncli.model.lora import DOWN, UP

_PREFIX = "base_model.model."  # before every name in a file of PEFT
_WEIGHT = re.compile(r"(.+)\.lora_([AB])\.weight")
_TABLES = ("embedding", "position", "segment", "distance")  # matrices that are not linear layers
_OTHER_MODEL = "The adapter is of another model."


@dataclass(frozen=True)
class Adapter:
    """The adapters of a model, by the names of the modules in files of the model's family.

    Each has A (r, in) and B (out, r), in float32.
    """

    path: Path
    config: AdapterConfig
    weights: Mapping[str, tuple[Tensor, Tensor]]
    run: dict[str, Any]  # the content of run.json; empty if attncli did not train the adapter
    modules: Mapping[tuple[str, ...], str]  # our weights that a linear layer contains -> the name of its module

    def change(self, held: StoredTensor, tensor: Tensor) -> Tensor:
        """Returns a tensor of the model's files with its adapter, in float32 or wider; unchanged without an adapter."""
        module = self.modules.get(held.ours)  # by our name, because a GGUF file has other names
        if module is None or module not in self.weights:
            return tensor
        down, up = self.weights[module]
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        left, right = (down.T, up.T) if held.transposed else (up, down)
        return torch.addmm(wide, left.to(wide.dtype), right.to(wide.dtype), alpha=self.config.scale_of(module))

    def refuse_other_tokenizer(self, digest: str, model: Path) -> None:
        """Raises BadCheckpoint if the adapter was trained with another tokenizer than that of a model.

        `digest` is the digest of the model's tokenizer. An adapter that attncli did not train records none.
        """
        recorded = self.run.get("base")
        trained = recorded.get("tokenizer") if isinstance(recorded, dict) else None
        if isinstance(trained, str) and trained != digest:
            named = "another model" if self.config.base is None else self.config.base
            raise BadCheckpoint(
                f"The adapter {self.path} was trained for {named}, whose tokenizer is not that of {name_of(model)}.",
                f"Use it with {named}.",
            )

    def note_on(self, model: Path) -> str:
        """Returns a note if the adapter was trained for another model than the one in a directory; else nothing."""
        trained = self.config.base
        recorded = self.run.get("base")
        digest = recorded.get("weights") if isinstance(recorded, dict) else None
        folder = ModelFolder(model)
        if isinstance(digest, str) and folder.holds(directory.MANIFEST):
            if folder.digest_of_weights() == digest:
                return ""
        elif trained is None or _last(trained) == _last(name_of(model)):
            return ""
        named = "" if trained is None else f", {trained}"
        return (
            f"the adapter {self.path} was trained for another model{named}: its effect on {name_of(model)} is unknown"
        )


def _last(name: str) -> str:
    """Returns the last part of a path or of a name of the hub, in lower case: 'owner/Name' -> 'name'."""
    return Path(name).name.casefold()


def adapted(config: ModelConfig, names: TensorNames, targets: LoraTargets) -> dict[str, tuple[str, ...]]:
    """Returns the modules with an adapter: a name in the family's files -> the names of our layers.

    Several of our layers can be one module, such as query, key and value in GPT-2: they share A, and each has its rows
    of B.
    """
    parts = ("attention.",) if targets == "attention" else ("attention.", "feed_forward.")
    modules = _modules(config, names)
    return {name: ours for name, ours in modules.items() if "blocks." in ours[0] and any(p in ours[0] for p in parts)}


def _modules(config: ModelConfig, names: TensorNames) -> dict[str, tuple[str, ...]]:
    """Returns the linear layers of a model: the names in the family's files -> the names of our layers."""
    shapes = our_shapes(config)
    linear = (name for name in shapes if name.endswith(".weight") and len(shapes[name]) == 2)
    ours = [name for name in linear if not name.removeprefix("encoder.").startswith(_TABLES)]
    return {
        stored.name.removesuffix(".weight"): tuple(own.removesuffix(".weight") for own in stored.ours)
        for stored in names.stored(ours).values()
    }


def adapter_settings(lora: LoraConfig, config: ModelConfig, base: Path) -> dict[str, Any]:
    """Returns the content of `adapter_config.json` for adapters of the model in the directory `base`."""
    names = family_of(config).tensor_names
    with_adapter, all_modules = adapted(config, names, lora.targets), _modules(config, names)
    return adapter_config_to_json(
        lora,
        with_adapter,
        all_modules.keys() - with_adapter.keys(),
        name if "/" in (name := name_of(base)) else str(base.absolute()),
        encodes=config.encoder_layers > 0,
        transposed=bool(names.transposed),
    )


def adapter_tensors(config: ModelConfig, lora: LoraConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of `adapter_model.safetensors`, given the trained tensors by our names."""
    stored = {}
    for module, layers in adapted(config, family_of(config).tensor_names, lora.targets).items():
        parts = [ours[f"{layer}.{UP}"].detach() for layer in layers]
        stored[f"{_PREFIX}{module}.lora_A.weight"] = ours[f"{layers[0]}.{DOWN}"].detach()
        stored[f"{_PREFIX}{module}.lora_B.weight"] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return stored


def trained_tensors(config: ModelConfig, lora: LoraConfig, adapter: Adapter) -> dict[str, Tensor]:
    """Returns the tensors of an adapter that attncli trained, by our names: the opposite of `adapter_tensors`.

    Raises BadCheckpoint if the adapter has other modules.
    """
    shapes, ours = our_shapes(config), {}
    modules = adapted(config, family_of(config).tensor_names, lora.targets)
    if modules.keys() != adapter.weights.keys():
        raise BadCheckpoint(f"{adapter.path} holds adapters of modules that its run does not adapt.", _OTHER_MODEL)
    for module, layers in modules.items():
        down, up = adapter.weights[module]
        ours[f"{layers[0]}.{DOWN}"] = down
        rows = [shapes[f"{layer}.weight"][0] for layer in layers]
        ours |= {f"{layer}.{UP}": part for layer, part in zip(layers, torch.split(up, rows), strict=True)}
    return ours


def read_adapter(path: Path, config: ModelConfig, names: TensorNames) -> Adapter:
    """Reads the adapter in a directory, for a model with the shape `config` and a family's tensor names.

    Raises BadCheckpoint for a file that is missing, damaged, unsafe or not supported, and for an adapter of another
    model.
    """
    folder = ModelFolder(path)
    where = path / directory.ADAPTER_CONFIG
    settings = read_adapter_config(folder.json(directory.ADAPTER_CONFIG), str(where))
    shapes = our_shapes(config)
    stored = names.stored(f"{own}.weight" for ours in _modules(config, names).values() for own in ours)
    matrices = {name: stored_shape(held, shapes) for name, held in stored.items()}
    modules = {
        name.removesuffix(".weight"): shape[::-1] if stored[name].transposed else shape
        for name, shape in matrices.items()
    }
    _check_targets(settings, modules, config, where)
    with open_tensors(folder.file(directory.ADAPTER_WEIGHTS), folder.holds(directory.MANIFEST)) as file:
        places = _check_names(file, settings, modules, names)
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in file.tensors():
            if not is_finite(tensor):
                raise BadCheckpoint(f"{file.path}: {name} holds a value that is not a finite number.", _OTHER_MODEL)
            module, part = places[name]
            found.setdefault(module, {})[part] = tensor.float()
        if folder.holds(directory.MANIFEST):
            folder.check(directory.ADAPTER_WEIGHTS, file.sha256())
    weights = {module: (parts["A"], parts["B"]) for module, parts in found.items()}
    held = {tensor.ours: name.removesuffix(".weight") for name, tensor in stored.items()}
    return Adapter(path, settings, weights, folder.json_if_any(directory.RUN), held)


def _check_targets(settings: AdapterConfig, modules: Iterable[str], config: ModelConfig, where: Path) -> None:
    """Raises BadCheckpoint for a target module that the model lacks."""
    for target in settings.targets or ():
        if not any(ends_with(module, target) for module in modules):
            tied = ", which shares its weights with the embedding" if config.tied and "head" in target else ""
            lacks = f"{where}: target_modules names {ascii(target)[:80]}{tied}, and the model has no such linear layer."
            raise BadCheckpoint(lacks, _OTHER_MODEL)


def _check_names(
    file: TensorFile, settings: AdapterConfig, modules: Mapping[str, tuple[int, ...]], names: TensorNames
) -> dict[str, tuple[str, str]]:
    """Returns the module and the part, 'A' or 'B', of each tensor in a file. Raises BadCheckpoint for a misfit."""
    places: dict[str, tuple[str, str]] = {}
    for entry in file.entries:
        place = _place(entry.name, names)
        why = ""
        if place is None:
            why = "which is not a part of a LoRA adapter"
        elif place[0] not in modules:
            why = "and the model has no such linear layer"
        elif not settings.is_target(place[0]):
            why = "and target_modules does not name its module"
        if place is None or why:
            raise BadCheckpoint(f"{file.path} holds {ascii(entry.name)[:100]}, {why}.", _OTHER_MODEL)
        if place in places.values():
            raise BadCheckpoint(f"{file.path} holds {ascii(entry.name)[:100]} twice.", _OTHER_MODEL)
        _check_shape(file.path, entry, place, settings, modules[place[0]])
        places[entry.name] = place
    if not places:
        raise BadCheckpoint(f"{file.path} holds no adapter.", _OTHER_MODEL)
    held = set(places.values())
    for module, part in sorted(held):
        if (module, "B" if part == "A" else "A") not in held:
            raise BadCheckpoint(f"{file.path} holds one of the two matrices of {module}.", _OTHER_MODEL)
    return places


def _place(name: str, names: TensorNames) -> tuple[str, str] | None:
    """Returns the module and the part of a tensor in a file of PEFT; None if it is not a part of LoRA."""
    found = _WEIGHT.fullmatch(name.removeprefix(_PREFIX))
    return None if found is None else (names.full(found[1]), found[2])


def _check_shape(
    path: Path, entry: Entry, place: tuple[str, str], settings: AdapterConfig, shape: tuple[int, ...]
) -> None:
    """Raises BadCheckpoint for integers, and for another shape than the module (out, in) and the rank require."""
    rank, (rows, columns) = settings.rank_of(place[0]), shape
    expected = (rank, columns) if place[1] == "A" else (rows, rank)
    if entry.shape != expected:
        is_not = f"has shape {list(entry.shape)}, and must have {list(expected)}, by the model and the rank"
        raise BadCheckpoint(f"{path}: {ascii(entry.name)[:100]} {is_not}.", _OTHER_MODEL)
    if not entry.dtype.is_floating_point:
        raise BadCheckpoint(
            f"{path}: {ascii(entry.name)[:100]} has type {entry.dtype}.", "Weights are floating-point numbers."
        )
