"""Llama 2 and 3, including scaled rotary frequencies. SmolLM, TinyLlama and Yi have the same architecture."""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import Family, Settings, read_sizes, write_sizes
from attncli.checkpoint.families.tensor_names import LLAMA_NAMES
from attncli.config import ModelConfig


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("hidden_act", "silu")
    attention_bias = settings.flag("attention_bias")
    return ModelConfig(
        **read_sizes(settings),
        qk_norm=False,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        feed_forward_bias=settings.flag("mlp_bias"),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_sizes(config) | {
        "hidden_act": "silu",
        "attention_bias": config.output_bias,
        "mlp_bias": config.feed_forward_bias,
    }


LLAMA = Family("llama", "LlamaForCausalLM", _read, _write, LLAMA_NAMES)
