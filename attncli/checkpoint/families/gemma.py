"""Gemma 1: a Llama with GEGLU, an RMSNorm with gain 1 + weight, an embedding scaled by sqrt(width), and wide heads.

Gemma 2 and 3 have other model types and are not supported. Both add norms after attention and feed-forward; Gemma 2
also adds soft caps of scores and logits.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import Family, Settings, read_sizes, write_sizes
from attncli.checkpoint.families.tensor_names import LLAMA_NAMES
from attncli.config import ModelConfig

_HEAD_WIDTH = 256  # the default of transformers for a missing head_dim
_ACTIVATIONS = "gelu_pytorch_tanh", "gelu"  # in the first releases, 'gelu' means the tanh approximation


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("hidden_act", *_ACTIVATIONS)
    settings.require_activation("hidden_activation", *_ACTIVATIONS)
    settings.require(use_bidirectional_attention=False)
    attention_bias = settings.flag("attention_bias")
    sizes = read_sizes(settings, _HEAD_WIDTH) | {"tied": settings.flag("tie_word_embeddings", True)}
    return ModelConfig(
        **sizes,
        unit_offset=True,
        scaled_embedding=True,
        qk_norm=False,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        activation="gelu_tanh",
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_sizes(config) | {"hidden_act": "gelu_pytorch_tanh", "attention_bias": config.output_bias}


GEMMA = Family("gemma", "GemmaForCausalLM", _read, _write, LLAMA_NAMES)
