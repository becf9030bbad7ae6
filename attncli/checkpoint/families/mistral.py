"""Mistral 7B: a Llama with sliding-window attention."""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import WINDOW, Family, Settings, at_most, read_sizes, write_sizes
from attncli.checkpoint.families.tensor_names import LLAMA_NAMES
from attncli.config import ModelConfig


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("hidden_act", "silu")
    settings.require(attention_bias=False, mlp_bias=False)
    sizes = read_sizes(settings)
    return ModelConfig(**sizes, qk_norm=False, window=at_most(settings.get("sliding_window", WINDOW), sizes["context"]))


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_sizes(config) | {"hidden_act": "silu", "sliding_window": config.window}


MISTRAL = Family("mistral", "MistralForCausalLM", _read, _write, LLAMA_NAMES)
