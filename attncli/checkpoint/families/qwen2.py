"""Qwen2 and Qwen2.5: a Llama with biases of query, key and value. The last layers may have sliding windows."""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import WINDOW, Family, Settings, at_most, read_sizes, write_sizes
from attncli.checkpoint.families.tensor_names import LLAMA_NAMES
from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint

_FIRST_WINDOW = 28  # the default of transformers for a missing max_window_layers


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("hidden_act", "silu")
    settings.require(attention_bias=False, mlp_bias=False)
    return ModelConfig(**read_sizes(settings), **read_windows(settings), qk_norm=False, qkv_bias=True)


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_sizes(config) | {"hidden_act": "silu"} | write_windows(config)


def read_windows(settings: Settings) -> dict[str, Any]:
    """Returns the window size and the first layer with a window, as fields of ModelConfig; no fields without windows.

    Raises BadCheckpoint unless the layers with windows are the last layers.
    """
    window = settings.get("sliding_window", WINDOW)
    if not settings.flag("use_sliding_window") or window is None:
        return {}
    layers, kinds = settings.required("num_hidden_layers"), settings.get("layer_types")
    first = at_most(settings.get("max_window_layers", _FIRST_WINDOW), layers)
    if not isinstance(first, int) or not isinstance(kinds, list | None):
        raise BadCheckpoint(f"{settings.where}: max_window_layers must be an integer, and layer_types a list.")
    if kinds is not None:
        expected = ["full_attention" if layer < first else "sliding_attention" for layer in range(len(kinds))]
        if len(kinds) != layers or kinds != expected:
            raise BadCheckpoint(f"{settings.where}: only the last layers may have windows.")
    return {"window": at_most(window, settings.required("max_position_embeddings")), "window_from": first}


def write_windows(config: ModelConfig) -> dict[str, Any]:
    """Returns the settings of the windows, in the format that `read_windows` reads."""
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": config.window_from,
    }


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _read, _write, LLAMA_NAMES)
