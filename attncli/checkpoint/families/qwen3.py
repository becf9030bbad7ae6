"""Qwen3: Qwen2 with an RMSNorm of every query and key head instead of biases. `attncli train` makes such models."""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.qwen2 import read_windows, write_windows
from attncli.checkpoint.families.shared import Family, Settings, read_sizes, write_sizes
from attncli.checkpoint.families.tensor_names import LLAMA_NAMES
from attncli.config import ModelConfig

_HEAD_WIDTH = 128  # the default of transformers for a missing head_dim


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("hidden_act", "silu")
    settings.require(mlp_bias=False)
    attention_bias = settings.flag("attention_bias")
    sizes, windows = read_sizes(settings, _HEAD_WIDTH), read_windows(settings)
    return ModelConfig(**sizes, **windows, qk_norm=True, qkv_bias=attention_bias, output_bias=attention_bias)


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_sizes(config) | {"hidden_act": "silu", "attention_bias": config.output_bias} | write_windows(config)


QWEN3 = Family("qwen3", "Qwen3ForCausalLM", _read, _write, LLAMA_NAMES)
