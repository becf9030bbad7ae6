"""What other tools call our tensors and settings: the Hugging Face formats.

Owns both translations, of `config.json` and of tensor names, for the families that are read and written:
Qwen3, Llama and Mistral. Knows nothing of files; no torch.
"""

from __future__ import annotations

import re
from typing import Any

from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint, UsageProblem

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

# Ours -> theirs. Inside a block, after "blocks.N." and "model.layers.N.".
_OUTER = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_INNER = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
# What transformers takes where a config does not say.
_MISTRAL_WINDOW = 4096
_QWEN_FIRST_WINDOW = 28
_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")


def tensor_name(ours: str) -> str:
    """'blocks.3.attention.query.weight' -> 'model.layers.3.self_attn.q_proj.weight'."""
    module, _, kind = ours.rpartition(".")
    if inside := re.fullmatch(r"blocks\.(\d+)\.(.+)", module):
        return f"model.layers.{inside[1]}.{_INNER[inside[2]]}.{kind}"
    return f"{_OUTER[module]}.{kind}"


def config_to_json(
    config: ModelConfig, *, start_of_text: int, end_of_text: int | list[int] | None, dtype: str = "float32"
) -> dict[str, Any]:
    """The `config.json` of a model of ours, `dtype` being that of its weights.

    Raises ValueError for a shape that no family here has.
    """
    family = _family(config)
    described: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "bos_token_id": start_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }
    if family == "qwen3":
        described |= {
            "attention_bias": False,
            "use_sliding_window": config.window is not None,
            "sliding_window": config.window,
            "max_window_layers": config.window_from,
        }
    elif family == "llama":
        described |= {"attention_bias": config.bias, "mlp_bias": config.bias}
    else:
        described |= {"sliding_window": config.window}
    return described


def _family(config: ModelConfig) -> str:
    common = (
        config.norm == "rms" and config.positions == "rotary" and config.activation == "swiglu" and not config.qkv_bias
    )
    if common and config.qk_norm and not config.bias:
        return "qwen3"
    if common and not config.qk_norm and config.window is None:
        return "llama"
    if common and not config.qk_norm and not config.bias and config.window_from == 0:
        return "mistral"
    raise ValueError(f"no family with this shape is written: {config}")


def config_from_json(described: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """The shape that a `config.json` describes.

    Raises BadCheckpoint for a family or a setting that is not supported, for values that cannot be meant, and for
    keys that name code.
    """
    for key in _CODE_KEYS:
        if described.get(key):
            raise BadCheckpoint(
                f"{where} names code of its own ({key}), which is never run.", "Use a model of a built-in family."
            )
    family = described.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        shown = ascii(family)[:40] if family is not None else "missing"
        raise BadCheckpoint(
            f"{where}: model_type is {shown}, which is not supported.", f"Supported: {', '.join(ARCHITECTURES)}."
        )
    if described.get("quantization_config"):
        raise BadCheckpoint(
            f"{where}: quantized weights are not supported.", "Use the float16, bfloat16 or float32 model."
        )
    try:
        return ModelConfig(**_common(described, where), **_particular(family, described, where))
    except UsageProblem as problem:
        raise BadCheckpoint(f"{where}: {problem.message}"[:300], "Copy it again from its source.") from None
    except KeyError as missing:
        raise BadCheckpoint(f"{where} lacks {missing.args[0]!r}.", "Copy it again from its source.") from None


def _common(described: dict[str, Any], where: str) -> dict[str, Any]:
    activation = described.get("hidden_act", "silu")
    if activation != "silu":
        raise BadCheckpoint(f"{where}: hidden_act is {ascii(activation)[:40]}; only silu is supported.")
    heads, width = described["num_attention_heads"], described["hidden_size"]
    head_width = described.get("head_dim")
    if head_width is None and isinstance(heads, int) and isinstance(width, int) and heads > 0:
        head_width = width // heads
    kv_heads = described.get("num_key_value_heads")
    return {
        "vocab_size": described["vocab_size"],
        "layers": described["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "head_width": head_width,
        "feed_forward_width": described["intermediate_size"],
        "context": described["max_position_embeddings"],
        "norm_eps": described.get("rms_norm_eps", 1e-6),
        "rope_theta": _rope_theta(described, where),
        "tied": _flag(described, "tie_word_embeddings", where),
    }


def _flag(described: dict[str, Any], name: str, where: str) -> bool:
    """A yes or no, no when it is not said."""
    value = described.get(name)
    if not isinstance(value, bool | None):
        raise BadCheckpoint(f"{where}: {name} is {ascii(value)[:40]}, and must be true or false.")
    return bool(value)


def _rope_theta(described: dict[str, Any], where: str) -> float:
    """The base of the rotary frequencies, from either generation of the format."""
    rope = described.get("rope_parameters") or described.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise BadCheckpoint(f"{where}: the rotary settings are not an object.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise BadCheckpoint(
            f"{where}: rotary scaling {ascii(kind)[:40]} is not supported.", "Supported: none ('default')."
        )
    return rope.get("rope_theta", described.get("rope_theta", 10_000.0))  # type: ignore[no-any-return]


def _particular(family: str, described: dict[str, Any], where: str) -> dict[str, Any]:
    """What sets the families apart: query/key norm, biases, and which layers have a window."""
    attention_bias, mlp_bias = _flag(described, "attention_bias", where), _flag(described, "mlp_bias", where)
    if family == "llama":
        if attention_bias != mlp_bias:
            raise BadCheckpoint(f"{where}: biases on only one of attention and feed-forward are not supported.")
        return {"qk_norm": False, "bias": attention_bias}
    if attention_bias:
        raise BadCheckpoint(f"{where}: attention_bias is not supported for {family}.")
    if family == "mistral":
        return {"qk_norm": False, "window": described.get("sliding_window", _MISTRAL_WINDOW)}
    if not _flag(described, "use_sliding_window", where):
        return {}
    first, layers = described.get("max_window_layers", _QWEN_FIRST_WINDOW), described["num_hidden_layers"]
    if not isinstance(first, int) or not isinstance(described.get("layer_types", []), list | None):
        raise BadCheckpoint(f"{where}: max_window_layers or layer_types is not what it should be.")
    if (kinds := described.get("layer_types")) is not None:
        expected = ["full_attention" if layer < first else "sliding_attention" for layer in range(len(kinds))]
        if len(kinds) != layers or kinds != expected:
            raise BadCheckpoint(f"{where}: windows on layers other than the last ones are not supported.")
    return {"window": described.get("sliding_window", _MISTRAL_WINDOW), "window_from": first}
