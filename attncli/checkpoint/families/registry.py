"""Lists the model families. Each family has a file, which translates its `config.json` and tensor names to ours.

To add a family, write a file that defines a `Family`, and add the family to FAMILIES. To read a directory,
`read_config` selects the family by `model_type`. To write a model, `family_of` selects the first family that can
express the model's shape: writing the shape and reading it again must return an equal shape. Reads no files; no torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from attncli.checkpoint.families.bart import BART
from attncli.checkpoint.families.bert import BERT
from attncli.checkpoint.families.gemma import GEMMA
from attncli.checkpoint.families.gpt2 import GPT2
from attncli.checkpoint.families.llama import LLAMA
from attncli.checkpoint.families.m2m100 import M2M100
from attncli.checkpoint.families.marian import MARIAN
from attncli.checkpoint.families.mistral import MISTRAL
from attncli.checkpoint.families.qwen2 import QWEN2
from attncli.checkpoint.families.qwen3 import QWEN3
from attncli.checkpoint.families.shared import Family, Settings
from attncli.checkpoint.families.t5 import T5
from attncli.config import ModelConfig, shown_value
from attncli.errors import COPY_AGAIN, AttnError, BadCheckpoint, UsageProblem

_FAMILIES = (QWEN3, QWEN2, LLAMA, MISTRAL, GEMMA, GPT2, M2M100, MARIAN, BART, T5, BERT)
FAMILIES = {family.model_type: family for family in _FAMILIES}
_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")


def read_config(described: dict[str, Any], where: str = "config.json") -> tuple[Family, ModelConfig]:
    """Returns the family and the shape that a `config.json` describes. `where` is the file's path, for errors.

    Raises BadCheckpoint for an unsupported family or setting, for a value outside its limits, and for a config that
    names its own code.
    """
    for key in _CODE_KEYS:
        if described.get(key):
            raise BadCheckpoint(
                f"{where} names its own code ({key}), which is never run.", "Use a model of a built-in family."
            )
    model_type = described.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        shown = shown_value(model_type) if model_type is not None else "missing"
        raise BadCheckpoint(
            f"{where}: model_type is {shown}, which is not supported.", f"Supported: {', '.join(FAMILIES)}."
        )
    if described.get("quantization_config"):
        raise BadCheckpoint(
            f"{where}: quantized weights are not supported.", "Use the float16, bfloat16 or float32 model."
        )
    family = FAMILIES[model_type]
    try:
        return family, family.read(Settings(described, where))
    except UsageProblem as problem:
        raise BadCheckpoint(f"{where}: {problem.message}"[:300], COPY_AGAIN) from None


def config_from_json(described: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Returns the shape that a `config.json` describes. Raises BadCheckpoint as `read_config` does."""
    return read_config(described, where)[1]


def config_to_json(
    config: ModelConfig, *, start_of_text: int, end_of_text: int | list[int] | None, dtype: str = "float32"
) -> dict[str, Any]:
    """Returns the content of `config.json` for a shape and for weights of the dtype `dtype`.

    Raises ValueError if no family can express the shape.
    """
    return _described(family_of(config), config) | start_and_end(config, start_of_text, end_of_text) | {"dtype": dtype}


def start_and_end(config: ModelConfig, start_of_text: int, end_of_text: int | list[int] | None) -> dict[str, Any]:
    """Returns the settings that name the tokens with which generated text begins and ends."""
    start = {"decoder_start_token_id": start_of_text} if config.encoder_layers else {}
    return {"bos_token_id": start_of_text, **start, "eos_token_id": end_of_text}


def _described(family: Family, config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        **family.write(config),
        "tie_word_embeddings": config.tied,
    }


@lru_cache(maxsize=64)
def family_of(config: ModelConfig) -> Family:
    """Returns the first family that can express a shape. Raises ValueError if no family can."""
    for family in FAMILIES.values():
        try:
            if family.read(Settings(_described(family, config), "")) == config:
                return family
        except AttnError:
            continue  # the settings of this family cannot express the shape
    raise ValueError(f"no family expresses this shape: {config}")
