"""Writes a loaded model as a GGUF file.

First, a model that llama.cpp cannot compute is refused: for its shape, its tokenizer or its width. Then the file is
written, one tensor at a time. `gguf.verify` checks a written file. The tensors of norms, biases and positions are
float32 in every file, as llama.cpp requires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from attncli.checkpoint.chat import read_chat_template
from attncli.checkpoint.families.tensor_names import StoredTensor
from attncli.checkpoint.gguf.architectures import (
    ROPE_FACTORS,
    Architecture,
    architecture_of,
    exported_context,
    rope_factors,
    shape_metadata,
)
from attncli.checkpoint.gguf.layout import BF16, BLOCK, ENDS, F16, F32, Q8_0, TensorType
from attncli.checkpoint.gguf.tensors import encode, permuted
from attncli.checkpoint.gguf.vocabulary import Vocabulary, vocabulary_of
from attncli.checkpoint.gguf.writing import write_gguf
from attncli.checkpoint.load import LoadedModel
from attncli.config import ModelConfig
from attncli.errors import UsageProblem

TYPES = {"float32": F32, "bfloat16": BF16, "float16": F16, "q8_0": Q8_0}
_FILE_TYPES = {F32: 0, F16: 1, Q8_0: 7, BF16: 32}  # the numbers of general.file_type
_FLOATS = ("position_embd",)  # matrices that llama.cpp requires as float32


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: its type, its shape, and our tensors that it contains. `factors` are the rotary divisors."""

    type: TensorType
    shape: tuple[int, ...]
    held: StoredTensor | None = None
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """The contents of a GGUF file before it is written. `notes` name the differences in llama.cpp."""

    config: ModelConfig
    architecture: Architecture
    dtype: str
    metadata: dict[str, Any]
    tensors: dict[str, PlannedTensor]
    notes: tuple[str, ...]
    untested: str  # characters that llama.cpp tokenizes differently; `notes` name the reason

    @property
    def bytes(self) -> int:
        """The size of the tensors."""
        return sum(tensor.type.size(tensor.shape) for tensor in self.tensors.values())


def stored_type(loaded: LoadedModel) -> str:
    """Returns the name of the type of a model's weights, as `plan_export` takes it."""
    names = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return names.get(loaded.model.embedding.weight.dtype, "float32")


def plan_export(loaded: LoadedModel, dtype: str) -> ExportPlan:
    """Returns the plan of a file with matrices of the type `dtype`, a name in TYPES.

    Raises UsageProblem for a model that llama.cpp cannot compute, or that the type cannot store.
    """
    config = loaded.model.config
    architecture = architecture_of(config)
    vocabulary = vocabulary_of(json.loads(loaded.tokenizer.to_json()), config.vocab_size)
    tensors = _tensors(loaded.model.state_dict(), config, architecture, TYPES[dtype])
    notes = [*vocabulary.notes]
    if (context := exported_context(config)) < config.context:
        notes.append(f"the context is {context:,} tokens, the window: llama.cpp has no windows in {architecture.name}")
    if (ends := len(loaded.end_ids)) > len(ENDS):
        notes.append(f"{ends} tokens end a text, and the file has places for {len(ENDS)} of them")
    kept = [name for name, each in tensors.items() if dtype == "q8_0" and each.type is F16]
    if kept:
        notes.append(f"{len(kept)} matrices are float16, because their rows are not whole blocks of {BLOCK} numbers")
    metadata = _metadata(loaded, architecture, vocabulary, TYPES[dtype])
    return ExportPlan(config, architecture, dtype, metadata, tensors, tuple(notes), vocabulary.untested)


def _tensors(
    weights: Mapping[str, Tensor], config: ModelConfig, architecture: Architecture, kind: TensorType
) -> dict[str, PlannedTensor]:
    found: dict[str, PlannedTensor] = {}
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        factors = tuple(rope_factors(config.rope_scaling, config.rope_theta, config.head_width))
        found[ROPE_FACTORS] = PlannedTensor(F32, (len(factors),), factors=factors)
    for name, held in architecture.names.stored(weights).items():
        first = weights[held.ours[0]]
        shape = (sum(weights[own].shape[0] for own in held.ours), *first.shape[1:])
        found[name] = PlannedTensor(_type_of(name, shape, config, kind), shape, held)
    return found


def _type_of(name: str, shape: tuple[int, ...], config: ModelConfig, kind: TensorType) -> TensorType:
    """Returns the type of a tensor. Raises UsageProblem if the model is too narrow for the blocks of its type."""
    if len(shape) == 1 or name.startswith(_FLOATS):
        return F32
    if shape[-1] % kind.numbers == 0:
        return kind
    if config.width % kind.numbers:
        raise UsageProblem.naming(
            lambda named: (
                f"The model has a width of {config.width}, and {kind.name} stores rows in blocks of {kind.numbers}.",
                f"Use {named('dtype')} bfloat16 or float16.",
            )
        )
    return F16


def _metadata(
    loaded: LoadedModel, architecture: Architecture, vocabulary: Vocabulary, kind: TensorType
) -> dict[str, Any]:
    template = read_chat_template(loaded.path)
    return {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": loaded.name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
        **shape_metadata(loaded.model.config, architecture),
        **vocabulary.metadata(),
        **_special_ids(loaded),
        **({} if template is None else {"tokenizer.chat_template": template.source}),
    }


def _special_ids(loaded: LoadedModel) -> dict[str, Any]:
    """Returns the ids of special tokens. Without them, llama.cpp would use token 11 or tokens 1 and 2.

    Raises UsageProblem if the model has no token that ends a text, or if several tokens begin a text.
    """
    tokenizer = loaded.tokenizer
    if len(tokenizer.opening) > 1:
        raise UsageProblem(
            f"The model cannot be written as GGUF: {len(tokenizer.opening)} tokens begin every text.",
            "llama.cpp begins a text with at most one token.",
        )
    ends = sorted(loaded.end_ids, key=lambda id_: (id_ != tokenizer.end_of_text, id_))
    if not ends:
        raise UsageProblem(
            "The model cannot be written as GGUF: no token ends a text.", "Set eos_token_id in generation_config.json."
        )
    start = tokenizer.opening[0] if tokenizer.opening else loaded.start_of_text
    ids = dict(zip(ENDS, ends, strict=False)) | {"bos": start}
    if tokenizer.pad is not None:
        ids["padding"] = tokenizer.pad
    return {f"tokenizer.ggml.{name}_token_id": id_ for name, id_ in ids.items()} | {
        "tokenizer.ggml.add_bos_token": bool(tokenizer.opening),
        "tokenizer.ggml.add_eos_token": False,
    }


def write_export(file: BinaryIO, plan: ExportPlan, weights: Mapping[str, Tensor]) -> None:
    """Writes the file of a plan. `weights` are the model's tensors."""
    shapes = [(name, tensor.type, tensor.shape) for name, tensor in plan.tensors.items()]

    def data(name: str) -> memoryview:
        tensor = encode(exported(plan, name, weights), plan.tensors[name].type)
        found: memoryview = tensor.numpy().data
        return found

    write_gguf(file, plan.metadata, shapes, data)


def exported(plan: ExportPlan, name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """Returns a tensor of a plan in the layout of llama.cpp, before it is rounded to its type."""
    planned, config = plan.tensors[name], plan.config
    if planned.held is None:
        return torch.tensor(planned.factors)
    own = planned.held.ours[0]
    if plan.architecture.permuted and ".attention.query." in own:
        return permuted(weights[own].cpu(), config.heads)
    if plan.architecture.permuted and ".attention.key." in own:
        return permuted(weights[own].cpu(), config.kv_heads)
    tensor = torch.cat([weights[part].cpu() for part in planned.held.ours])
    return tensor.float() + 1 if plan.architecture.unit_offset and name.endswith("norm.weight") else tensor
