"""What other tools call our settings: `config.json` of the Hugging Face formats.

Owns its translation, both ways, for the families that are read and written: Qwen3, Qwen2, Llama, Mistral and GPT-2.
SmolLM is a Llama by another name. Knows nothing of files, nor of weights; no torch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from attncli.config import ModelConfig, RopeScaling, shown_value
from attncli.errors import BadCheckpoint, UsageProblem

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_ROPE_KINDS = ("default", "linear", "llama3", "yarn", "dynamic")

# What transformers takes where a config does not say.
_WINDOW = 4096
_QWEN_FIRST_WINDOW = 28
_QWEN3_HEAD_WIDTH = 128
_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
_AGAIN = "Copy it again from its source."


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
        **(_gpt2_to_json(config) if family == "gpt2" else _common_to_json(config)),
        "tie_word_embeddings": config.tied,
        "bos_token_id": start_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }
    if family in ("qwen3", "qwen2"):
        described |= {
            "use_sliding_window": config.window is not None,
            "sliding_window": config.window,
            "max_window_layers": config.window_from,
        }
    if family in ("qwen3", "llama"):
        described |= {"attention_bias": config.biased_output}
    if family == "llama":
        described |= {"mlp_bias": config.biased_feed_forward}
    elif family == "mistral":
        described |= {"sliding_window": config.window}
    return described


def _common_to_json(config: ModelConfig) -> dict[str, Any]:
    described = {
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
    }
    return (
        described if config.rope_scaling is None else described | {"rope_scaling": _rope_to_json(config.rope_scaling)}
    )


def _rope_to_json(scaling: RopeScaling) -> dict[str, Any]:
    described: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        described |= {"original_max_position_embeddings": scaling.original_context}
    if scaling.kind == "llama3":
        described |= {"low_freq_factor": scaling.low_frequency, "high_freq_factor": scaling.high_frequency}
    elif scaling.kind == "yarn":
        described |= {
            "beta_slow": scaling.beta_slow,
            "beta_fast": scaling.beta_fast,
            "truncate": scaling.truncate,
            "attention_factor": scaling.attention_factor,
        }
    return described


def _gpt2_to_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_inner": config.feed_forward_width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
    }


def _family(config: ModelConfig) -> str:
    kinds = config.norm, config.positions, config.activation
    if kinds == ("layer", "learned", "gelu"):
        even = config.kv_heads == config.heads and config.heads * config.head_width == config.width
        if even and config.bias and not config.qk_norm and config.window is None:
            return "gpt2"
    elif kinds == ("rms", "rotary", "swiglu"):
        biases = config.biased_inputs, config.biased_output, config.biased_feed_forward
        if config.qk_norm and biases in ((False, False, False), (True, True, False)):
            return "qwen3"
        if not config.qk_norm and biases == (True, False, False):
            return "qwen2"
        if not config.qk_norm and biases[0] == biases[1] and config.window is None:
            return "llama"
        if not config.qk_norm and not any(biases) and config.window_from == 0:
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
        shown = shown_value(family) if family is not None else "missing"
        raise BadCheckpoint(
            f"{where}: model_type is {shown}, which is not supported.", f"Supported: {', '.join(ARCHITECTURES)}."
        )
    if described.get("quantization_config"):
        raise BadCheckpoint(
            f"{where}: quantized weights are not supported.", "Use the float16, bfloat16 or float32 model."
        )
    try:
        if family == "gpt2":
            return ModelConfig(**_gpt2(described, where))
        return ModelConfig(**_common(family, described, where), **_particular(family, described, where))
    except UsageProblem as problem:
        raise BadCheckpoint(f"{where}: {problem.message}"[:300], _AGAIN) from None
    except KeyError as missing:
        raise BadCheckpoint(f"{where} lacks {missing.args[0]!r}.", _AGAIN) from None


def _gpt2(described: dict[str, Any], where: str) -> dict[str, Any]:
    _require_activation(described, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), where)
    switches = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    for name, usual in switches.items():
        if _flag(described, name, where, usual) != usual:
            raise BadCheckpoint(f"{where}: {name} is {not usual}, which is not supported.")
    heads, width, inner = described["n_head"], described["n_embd"], described.get("n_inner")
    return {
        "vocab_size": described["vocab_size"],
        "layers": described["n_layer"],
        "width": width,
        "heads": heads,
        "kv_heads": heads,
        "head_width": _head_width(width, heads, where),
        "feed_forward_width": _or(inner, 4 * width if isinstance(width, int) else 1),
        "context": described["n_positions"],
        "norm": "layer",
        "norm_eps": described.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "activation": "gelu",
        "qk_norm": False,
        "bias": True,
        "tied": _flag(described, "tie_word_embeddings", where, True),
    }


def _common(family: str, described: dict[str, Any], where: str) -> dict[str, Any]:
    _require_activation(described, "hidden_act", ("silu",), where)
    heads, width = described["num_attention_heads"], described["hidden_size"]
    head_width = described.get("head_dim", _QWEN3_HEAD_WIDTH if family == "qwen3" else None)
    kv_heads = described.get("num_key_value_heads")
    return {
        "vocab_size": described["vocab_size"],
        "layers": described["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "head_width": _head_width(width, heads, where) if head_width is None else head_width,
        "feed_forward_width": described["intermediate_size"],
        "context": described["max_position_embeddings"],
        "norm_eps": described.get("rms_norm_eps", 1e-6),
        **_rope(described, where),
        "tied": _flag(described, "tie_word_embeddings", where),
    }


def _head_width(width: object, heads: object, where: str) -> int:
    """The share of each head; 1 of values that cannot be meant, which are named later."""
    if not isinstance(heads, int) or not isinstance(width, int) or heads < 1 or width < 1:
        return 1
    if width % heads:
        raise BadCheckpoint(
            f"{where}: a width of {shown_value(width)} cannot be shared evenly by {shown_value(heads)} heads.", _AGAIN
        )
    return width // heads


def _require_activation(described: dict[str, Any], name: str, known: tuple[str, ...], where: str) -> None:
    activation = described.get(name, known[0])
    if activation not in known:
        raise BadCheckpoint(f"{where}: {name} is {shown_value(activation)}; only {known[0]} is supported.")


def _flag(described: dict[str, Any], name: str, where: str, unsaid: bool = False) -> bool:
    """A yes or no; `unsaid` is what it means when it is not there."""
    value = described.get(name)
    if not isinstance(value, bool | None):
        raise BadCheckpoint(f"{where}: {name} is {shown_value(value)}, and must be true or false.")
    return unsaid if value is None else value


def _rope(described: dict[str, Any], where: str) -> dict[str, Any]:
    """The base of the rotary frequencies and how they are slowed, from either generation of the format."""
    rope = described.get("rope_scaling") or described.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise BadCheckpoint(f"{where}: the rotary settings are not an object.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise BadCheckpoint(
            f"{where}: rotary scaling {shown_value(kind)} is not supported.", f"Supported: {', '.join(_ROPE_KINDS)}."
        )
    if rope.get("partial_rotary_factor", described.get("partial_rotary_factor", 1)) not in (None, 1):
        raise BadCheckpoint(f"{where}: rotation of only a part of each head (partial_rotary_factor) is not supported.")
    theta = rope.get("rope_theta", described.get("rope_theta", 10_000.0))
    # 'dynamic' scales only beyond max_position_embeddings, and that is the most that is ever read here.
    scaling = None if kind in ("default", "dynamic") else _scaling(kind, rope, described)
    return {"rope_theta": theta, "rope_scaling": scaling}


def _scaling(kind: str, rope: dict[str, Any], described: dict[str, Any]) -> RopeScaling:
    """Raises UsageProblem or KeyError for settings that cannot be meant or are not there."""
    if kind == "linear":
        return RopeScaling(kind="linear", factor=rope["factor"])
    context = described["max_position_embeddings"]
    original = described.get("original_max_position_embeddings", rope.get("original_max_position_embeddings", context))
    if kind == "llama3":
        return RopeScaling(
            kind="llama3", factor=rope["factor"], original_context=original,
            low_frequency=rope["low_freq_factor"], high_frequency=rope["high_freq_factor"],
        )  # fmt: skip
    factor = rope["factor"]
    scaling = RopeScaling(
        kind="yarn", factor=factor, original_context=original, truncate=_or(rope.get("truncate"), True),
        beta_slow=_or(rope.get("beta_slow"), 1.0), beta_fast=_or(rope.get("beta_fast"), 32.0),
        attention_factor=_or(rope.get("attention_factor"), 1.0),
    )  # fmt: skip
    if rope.get("attention_factor") is not None:
        return scaling
    above, below = rope.get("mscale"), rope.get("mscale_all_dim")
    if not (above and below):
        above, below = 1.0, 0.0
    for name, value in (("mscale", above), ("mscale_all_dim", below)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value <= _LARGEST_MAGNITUDE):
            rule = f"a number from 0 to {_LARGEST_MAGNITUDE:g}"
            raise UsageProblem(f"rope {name} is {shown_value(value)}, and must be {rule}.")
    return replace(scaling, attention_factor=_magnitude(factor, above) / _magnitude(factor, below))


_LARGEST_MAGNITUDE = 1e6


def _magnitude(factor: float, size: float) -> float:
    """How much longer YaRN makes queries and keys for a context of `factor` times (Peng et al., 2023, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * size * math.log(factor) + 1


def _or(value: Any, unsaid: Any) -> Any:
    return unsaid if value is None else value


def _particular(family: str, described: dict[str, Any], where: str) -> dict[str, Any]:
    """What sets the families apart: query/key norm, biases, and which layers have a window."""
    attention_bias, mlp_bias = _flag(described, "attention_bias", where), _flag(described, "mlp_bias", where)
    if family == "llama":
        if attention_bias and mlp_bias:
            return {"qk_norm": False, "bias": True}
        return {"qk_norm": False, "attention_bias": attention_bias, "feed_forward_bias": mlp_bias}
    if family == "mistral":
        if attention_bias or mlp_bias:
            raise BadCheckpoint(f"{where}: biases are not supported for mistral.")
        window = _at_most(described.get("sliding_window", _WINDOW), described["max_position_embeddings"])
        return {"qk_norm": False, "window": window}
    if mlp_bias or (attention_bias and family == "qwen2"):
        raise BadCheckpoint(f"{where}: {'mlp_bias' if mlp_bias else 'attention_bias'} is not supported for {family}.")
    kind = {"qk_norm": False, "qkv_bias": True} if family == "qwen2" else {"attention_bias": attention_bias}
    return kind | _qwen_window(described, where)


def _qwen_window(described: dict[str, Any], where: str) -> dict[str, Any]:
    window = described.get("sliding_window", _WINDOW)
    if not _flag(described, "use_sliding_window", where) or window is None:
        return {}
    first, layers = described.get("max_window_layers", _QWEN_FIRST_WINDOW), described["num_hidden_layers"]
    first, kinds = _at_most(first, layers), described.get("layer_types")
    if not isinstance(first, int) or not isinstance(kinds, list | None):
        raise BadCheckpoint(f"{where}: max_window_layers or layer_types is not what it should be.")
    if kinds is not None:
        expected = ["full_attention" if layer < first else "sliding_attention" for layer in range(len(kinds))]
        if len(kinds) != layers or kinds != expected:
            raise BadCheckpoint(f"{where}: windows on layers other than the last ones are not supported.")
    return {"window": _at_most(window, described["max_position_embeddings"]), "window_from": first}


def _at_most(value: Any, limit: Any) -> Any:
    """The limit for a whole number above it, where both mean the same: a window longer than the context.

    Values of other types stay as they are; the config refuses them.
    """
    whole = isinstance(value, int) and isinstance(limit, int) and not isinstance(value, bool)
    return min(value, limit) if whole else value
