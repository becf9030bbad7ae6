"""The architectures of llama.cpp that attncli writes and reads: names of tensors, keys of the metadata, limits.

An `Architecture` is a table. Writing turns a shape into metadata, and refuses what llama.cpp does not compute. Reading
turns metadata into the settings of a `config.json`, which the model families check. Only the architecture `llama`
rotates pairs of adjacent numbers, so the rows of its queries and keys are permuted. No torch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attncli.checkpoint.families.registry import family_of
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig, RopeScaling
from attncli.errors import BadCheckpoint, UsageProblem

ROPE_FACTORS = "rope_freqs.weight"  # divisors of the rotary frequencies, one for each pair of numbers
_LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=8192)  # of Llama 3.1 to 3.3
_YARN = RopeScaling(kind="yarn", factor=1.0, original_context=1)
_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
_OUTER = {"embedding": "token_embd", "position": "position_embd", "norm": "output_norm", "head": "output"}


def _names(**inner: str) -> TensorNames:
    return TensorNames(base="", layers="blk.", outer=_OUTER, inner=_BLOCK | inner, buffers=r"rope_freqs\.weight")


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp. `model_type` is the family of the models that are read."""

    name: str
    model_type: str
    names: TensorNames
    permuted: bool = False  # the rows of queries and keys alternate between the two halves of a head
    rope_factors: bool = False  # reads the tensor ROPE_FACTORS
    output_bias: bool = False  # adds a bias to the output of attention
    square: bool = False  # heads x head_width must be the width
    untied: bool = True  # reads an output head that is not the token embedding
    unit_offset: bool = False  # norms are stored as 1 + weight, and multiply by what is stored


_QKV = "attn_qkv"
ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("llama", "llama", _names(), permuted=True, rope_factors=True, output_bias=True),
        Architecture("qwen2", "qwen2", _names(), square=True),
        Architecture("qwen3", "qwen3", _names()),
        Architecture("gemma", "gemma", _names(), untied=False, unit_offset=True),
        Architecture(
            "gpt2",
            "gpt2",
            _names(**{"attention.query": _QKV, "attention.key": _QKV, "attention.value": _QKV}),
            output_bias=True,
            square=True,
        ),
    )
}
_ALIASES = {"mistral": "llama"}


def architecture_of(config: ModelConfig) -> Architecture:
    """Returns the architecture that computes a shape. Raises UsageProblem, which names what llama.cpp lacks."""
    if config.kind != "decoder":
        which = "an encoder alone" if config.kind == "encoder" else "an encoder-decoder"
        raise _inexpressible(f"the model is {which}", "only decoders are exported")
    family = family_of(config).model_type
    found = ARCHITECTURES.get(_ALIASES.get(family, family))
    if found is None:
        raise _inexpressible(
            f"the model is of the family {family}", f"exported: {', '.join(ARCHITECTURES)} and mistral"
        )
    if config.output_bias and not found.output_bias:
        raise _inexpressible(
            f"{family} has a bias on the output of attention", f"llama.cpp supports no such bias in {found.name}"
        )
    if found.square and config.heads * config.head_width != config.width:
        raise _inexpressible(
            f"{config.heads} heads of width {config.head_width} do not have the width of the model ({config.width})",
            f"llama.cpp requires equal widths in {found.name}",
        )
    if not config.tied and not found.untied:
        raise _inexpressible("the output head is not the token embedding", f"llama.cpp ties them in {found.name}")
    _refuse_scaling(config, found)
    return found


def _refuse_scaling(config: ModelConfig, architecture: Architecture) -> None:
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "llama3" and not architecture.rope_factors:
        raise _inexpressible(
            "the rotary scaling is llama3", f"llama.cpp supports this scaling in llama, not in {architecture.name}"
        )
    if scaling.kind == "yarn":
        for name in ("beta_slow", "beta_fast", "truncate"):
            if (value := getattr(scaling, name)) != (usual := getattr(_YARN, name)):
                raise _inexpressible(f"the {name} of yarn is {value}", f"llama.cpp always uses {usual}")
        if scaling.factor < 1:
            raise _inexpressible(f"the factor of yarn is {scaling.factor}", "llama.cpp needs at least 1")


def _inexpressible(what: str, why: str) -> UsageProblem:
    return UsageProblem(f"The model cannot be written as GGUF: {what}.", f"{why[0].upper()}{why[1:]}.")


def exported_context(config: ModelConfig) -> int:
    """Returns the context of the file: the window, if any layer has one, since llama.cpp has none in these models.

    For texts no longer than the window, the layers attend to the same tokens with and without a window.
    """
    windowed = config.window is not None and config.window_from < config.layers
    return min(config.context, config.window) if windowed and config.window else config.context


def shape_metadata(config: ModelConfig, architecture: Architecture) -> dict[str, Any]:
    """Returns the keys that describe a shape."""
    eps = "layer_norm_epsilon" if config.norm == "layer" else "layer_norm_rms_epsilon"
    found: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": exported_context(config),
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.feed_forward_width,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        f"attention.{eps}": float(config.norm_eps),
    }
    if config.positions == "rotary":
        found |= {
            "attention.key_length": config.head_width,
            "attention.value_length": config.head_width,
            "rope.dimension_count": config.head_width,
            "rope.freq_base": float(config.rope_theta),
            **_scaling_metadata(config.rope_scaling),
        }
    return {f"{architecture.name}.{key}": value for key, value in found.items()}


def _scaling_metadata(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    if scaling.kind == "llama3":  # llama.cpp reads the tensor ROPE_FACTORS; `scaling_settings` reads these keys
        return {
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.low_freq_factor": float(scaling.low_frequency),
            "rope.scaling.high_freq_factor": float(scaling.high_frequency),
        }
    found: dict[str, Any] = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        found |= {
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.attn_factor": scaling.attention_factor / _yarn_magnitude(scaling.factor),
        }
    return found


def _yarn_magnitude(factor: float) -> float:
    """Returns the attention factor of YaRN (Peng et al., 2023, equation 22), which llama.cpp multiplies by its key."""
    return 0.1 * math.log(factor) + 1


def rope_factors(scaling: RopeScaling, theta: float, head_width: int) -> list[float]:
    """Returns the divisor of each rotary frequency for the scaling `llama3`."""
    found = []
    for index in range(0, head_width, 2):
        turns = (scaling.original_context or 1) * theta ** (-index / head_width) / (2 * math.pi)
        share = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
        share = min(max(share, 0.0), 1.0)
        found.append(1 / (share + (1 - share) / scaling.factor))
    return found


class Metadata:
    """Reads the keys of an untrusted file; its errors name the file and the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where
        name = self.get("general.architecture", str)
        name = _ALIASES.get(name, name)
        if name not in ARCHITECTURES:
            shown = ascii(name)[:40] if name else "missing"
            raise BadCheckpoint(
                f"{where}: general.architecture is {shown}, which is not supported.",
                f"Supported: {', '.join([*ARCHITECTURES, *_ALIASES])}.",
            )
        self.architecture = ARCHITECTURES[name]
        self._prefix = self.get("general.architecture", str)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns the value of a key, or the default if it is missing. Raises BadCheckpoint for another type."""
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) is not kind:
            raise BadCheckpoint(f"{self.where}: {key} is {ascii(value)[:40]}, which is no {kind.__name__}.")
        return value

    def own(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns the value of a key of the architecture, such as `llama.block_count`."""
        return self.get(f"{self._prefix}.{key}", kind, default)

    def required(self, key: str, kind: type) -> Any:
        """Returns the value of a key of the architecture. Raises BadCheckpoint if it is missing."""
        if (value := self.own(key, kind)) is None:
            raise BadCheckpoint(f"{self.where} lacks {self._prefix}.{key}.")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a number of the architecture, as the shortest decimal number that 32 bits round to it."""
        value: float = self.required(key, float) if default is None else self.own(key, float, default)
        return _shortest(value)


def _shortest(value: float) -> float:
    """Returns the decimal number with the fewest digits that has the same value in 32 bits: 0.00999999977 -> 0.01."""
    if not math.isfinite(value) or abs(value) > 3e38:
        return value
    rounded = struct.pack("<f", value)
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((each for each in candidates if abs(each) < 3e38 and struct.pack("<f", each) == rounded), value)


def settings_of(metadata: Metadata, tensors: Container[str], factors: Sequence[float] | None) -> dict[str, Any]:
    """Returns the settings of the `config.json` that metadata describes. `tensors` are the names of the tensors.

    `factors` are the numbers of the tensor ROPE_FACTORS, or None. Raises BadCheckpoint.
    """
    architecture = metadata.architecture
    tied = "output.weight" not in tensors
    if architecture.name == "gpt2":
        return {
            "model_type": "gpt2",
            "n_embd": metadata.required("embedding_length", int),
            "n_inner": metadata.required("feed_forward_length", int),
            "n_layer": metadata.required("block_count", int),
            "n_head": metadata.required("attention.head_count", int),
            "n_positions": metadata.required("context_length", int),
            "activation_function": "gelu_new",
            "layer_norm_epsilon": metadata.number("attention.layer_norm_epsilon"),
            "tie_word_embeddings": tied,
        }
    biased, output_biased = "blk.0.attn_q.bias" in tensors, "blk.0.attn_output.bias" in tensors
    qwen2 = architecture.model_type == "llama" and biased and not output_biased  # the family with such biases
    heads = metadata.required("attention.head_count", int)
    width, theta = metadata.required("embedding_length", int), metadata.number("rope.freq_base", 10_000.0)
    head_width = metadata.own("attention.key_length", int, width // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := metadata.own(key, int, head_width)) != head_width:
            raise BadCheckpoint(f"{metadata.where}: {key} is {found}, and a head has {head_width} numbers.")
    return {
        "model_type": "qwen2" if qwen2 else architecture.model_type,
        "hidden_size": width,
        "intermediate_size": metadata.required("feed_forward_length", int),
        "num_hidden_layers": metadata.required("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.own("attention.head_count_kv", int, heads),
        "head_dim": head_width,
        "max_position_embeddings": metadata.required("context_length", int),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": _scaling_settings(metadata, theta, head_width, factors),
        "attention_bias": biased and not qwen2 and architecture.model_type != "qwen2",
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "tie_word_embeddings": tied,
    }


def _scaling_settings(
    metadata: Metadata, theta: float, head_width: int, factors: Sequence[float] | None
) -> dict[str, Any] | None:
    """Returns the setting `rope_scaling`."""
    if factors is not None:
        return _llama3_settings(metadata, theta, head_width, factors)
    kind = metadata.own("rope.scaling.type", str, "linear")
    factor = metadata.number("rope.scaling.factor", metadata.number("rope.scale_linear", 1.0))
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": kind, "factor": factor}
    if kind != "yarn":
        raise BadCheckpoint(f"{metadata.where}: rotary scaling {ascii(kind)[:40]} is not supported.")
    attention = metadata.number("rope.scaling.attn_factor", 1.0) * _yarn_magnitude(max(factor, 1.0))
    return {
        "rope_type": kind,
        "factor": factor,
        "original_max_position_embeddings": metadata.own("rope.scaling.original_context_length", int),
        "attention_factor": _shortest(attention),
    }


def _llama3_settings(
    metadata: Metadata, theta: float, head_width: int, factors: Sequence[float]
) -> dict[str, Any] | None:
    """Returns the scaling whose divisors are `factors`. Raises BadCheckpoint if no known scaling has them."""
    largest = max(factors, default=1.0)
    if all(factor == 1.0 for factor in factors):
        return None
    described = {
        "rope_type": "llama3",
        "factor": _shortest(largest),
        "low_freq_factor": metadata.number("rope.scaling.low_freq_factor", _LLAMA3.low_frequency),
        "high_freq_factor": metadata.number("rope.scaling.high_freq_factor", _LLAMA3.high_frequency),
        "original_max_position_embeddings": metadata.own(
            "rope.scaling.original_context_length", int, _LLAMA3.original_context
        ),
    }
    try:
        scaling = RopeScaling(
            kind="llama3",
            factor=described["factor"],
            original_context=described["original_max_position_embeddings"],
            low_frequency=described["low_freq_factor"],
            high_frequency=described["high_freq_factor"],
        )
        expected = rope_factors(scaling, theta, head_width)
    except (UsageProblem, ValueError, OverflowError, ZeroDivisionError):
        expected = []
    if len(expected) != len(factors) or not all(map(_close, expected, factors)):
        raise BadCheckpoint(f"{metadata.where}: the scaling in {ROPE_FACTORS} is not the one of Llama 3.1.")
    return described


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4)
