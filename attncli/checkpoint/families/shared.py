"""Code that the families share: the class `Family`, and functions that read and write settings of a `config.json`.

A `config.json` is untrusted. So settings are read through `Settings`, whose errors name the setting and the file.
ModelConfig checks the values. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import Activation, ModelConfig, RopeScaling, shown_value
from attncli.errors import COPY_AGAIN, BadCheckpoint, UsageProblem

WINDOW = 4096  # the default of transformers for the size of a window
_ROPE_KINDS = ("default", "linear", "llama3", "yarn", "dynamic")
_LARGEST_MAGNITUDE = 1e6
# The names of activations in transformers. A config.json is written with the first name.
_ACTIVATION_NAMES: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
    "relu": "relu",
}
ACTIVATIONS = {ours: theirs for theirs, ours in reversed(_ACTIVATION_NAMES.items())}


@dataclass(frozen=True)
class Settings:
    """Reads the settings of a `config.json`; its errors name the file."""

    values: dict[str, Any]
    where: str

    def required(self, name: str) -> Any:
        """Returns the value of a setting. Raises BadCheckpoint if the setting is missing."""
        if name not in self.values:
            raise BadCheckpoint(f"{self.where} lacks {name!r}.", COPY_AGAIN)
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of a setting, or the default if the setting is missing."""
        return self.values.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns a boolean setting, or the default if it is missing or null. Raises BadCheckpoint for another type."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            raise BadCheckpoint(f"{self.where}: {name} is {shown_value(value)}, and must be true or false.")
        return default if value is None else value

    def require(self, **supported: object) -> None:
        """Raises BadCheckpoint if a setting is present and its value is not the supported one."""
        for name, value in supported.items():
            if (found := self.get(name)) is not None and found != value:
                raise BadCheckpoint(f"{self.where}: {name} is {shown_value(found)}, which is not supported.")

    def require_activation(self, name: str, *supported: str) -> None:
        """Raises BadCheckpoint if the activation is present and not supported."""
        activation = self.get(name)
        if activation is not None and activation not in supported:
            raise BadCheckpoint(
                f"{self.where}: {name} is {shown_value(activation)}, which is not supported.",
                f"Supported: {', '.join(supported)}.",
            )


@dataclass(frozen=True)
class Family:
    """A model family: translates its `config.json` and its tensor names to ours.

    `read` returns the shape that the settings describe, and raises BadCheckpoint for a setting that the network does
    not support. `write` returns the settings of a shape; `config_to_json` adds the settings that all families have.
    """

    model_type: str  # the name of the family in config.json
    architecture: str  # the name of its class in transformers
    read: Callable[[Settings], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    tensor_names: TensorNames


def read_sizes(settings: Settings, head_width: int | None = None) -> dict[str, Any]:
    """Returns sizes, norm epsilon, rotary settings and whether embeddings are tied, as fields of ModelConfig.

    Reads the names that all families except GPT-2 use. `head_width` is the family's default for a missing `head_dim`;
    None means the width divided by the number of heads.
    """
    heads, width = settings.required("num_attention_heads"), settings.required("hidden_size")
    kv_heads, head_dim = settings.get("num_key_value_heads"), settings.get("head_dim", head_width)
    return {
        "vocab_size": settings.required("vocab_size"),
        "layers": settings.required("num_hidden_layers"),
        "width": width,
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "head_width": divide_width(settings, width, heads) if head_dim is None else head_dim,
        "feed_forward_width": settings.required("intermediate_size"),
        "context": settings.required("max_position_embeddings"),
        "norm_eps": settings.get("rms_norm_eps", 1e-6),
        **read_rotary(settings),
        "tied": settings.flag("tie_word_embeddings"),
    }


def write_sizes(config: ModelConfig) -> dict[str, Any]:
    """Returns the settings that `read_sizes` reads, except the vocabulary size and tied embeddings."""
    return {
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        **write_rotary(config),
    }


def divide_width(settings: Settings, width: object, heads: object) -> int:
    """Returns the width of a head: the model's width divided by the number of heads.

    Raises BadCheckpoint if the division has a remainder. Returns 1 if a value is not a positive integer, because
    ModelConfig raises an error for such a value.
    """
    if not isinstance(heads, int) or not isinstance(width, int) or heads < 1 or width < 1:
        return 1
    if width % heads:
        raise BadCheckpoint(
            f"{settings.where}: a width of {shown_value(width)} cannot be divided among {shown_value(heads)} heads.",
            COPY_AGAIN,
        )
    return width // heads


def read_activation(settings: Settings, name: str, default: str) -> Activation:
    """Returns the activation that a setting names. Raises BadCheckpoint for an activation that is not supported."""
    settings.require_activation(name, *_ACTIVATION_NAMES)
    return _ACTIVATION_NAMES[settings.get(name) or default]


def require_equal_stacks(settings: Settings) -> tuple[Any, Any]:
    """Returns the number of heads and the feed-forward width, which must be equal in encoder and decoder.

    Raises BadCheckpoint if a setting is missing, or if the two stacks differ.
    """
    for part in ("attention_heads", "ffn_dim"):
        encoder, decoder = settings.required(f"encoder_{part}"), settings.required(f"decoder_{part}")
        if encoder != decoder:
            raise BadCheckpoint(
                f"{settings.where}: encoder_{part} is {shown_value(encoder)} and decoder_{part} is "
                f"{shown_value(decoder)}; different values are not supported."
            )
    return settings.values["encoder_attention_heads"], settings.values["encoder_ffn_dim"]


def read_encoder_layers(settings: Settings, name: str) -> Any:
    """Returns the number of encoder layers. Raises BadCheckpoint if the setting is missing or 0."""
    layers = settings.required(name)
    if layers == 0:
        raise BadCheckpoint(f"{settings.where}: {name} is {shown_value(layers)}, and must be at least 1.", COPY_AGAIN)
    return layers


def at_most(value: Any, limit: Any) -> Any:
    """Returns the smaller of two integers. For example, limits a window to the context, because more has no effect.

    If a value is not an integer, returns `value` unchanged, because ModelConfig raises an error for such a value.
    """
    whole = isinstance(value, int) and isinstance(limit, int) and not isinstance(value, bool)
    return min(value, limit) if whole else value


def read_rotary(settings: Settings) -> dict[str, Any]:
    """Returns the base and the scaling of the rotary frequencies, as fields of ModelConfig.

    Reads the formats of transformers 4 and 5.
    """
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise BadCheckpoint(f"{settings.where}: the rotary settings are not an object.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise BadCheckpoint(
            f"{settings.where}: rotary scaling {shown_value(kind)} is not supported.",
            f"Supported: {', '.join(_ROPE_KINDS)}.",
        )
    if rope.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1)) not in (None, 1):
        raise BadCheckpoint(
            f"{settings.where}: rotation of only a part of each head (partial_rotary_factor) is not supported."
        )
    return {
        "rope_theta": rope.get("rope_theta", settings.get("rope_theta", 10_000.0)),
        "rope_scaling": _read_scaling(kind, Settings(rope, settings.where), settings),
    }


def _read_scaling(kind: str, rope: Settings, settings: Settings) -> RopeScaling | None:
    if kind in ("default", "dynamic"):  # 'dynamic' scales only positions beyond the context, which are never used
        return None
    factor = rope.required("factor")
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor)
    name = "original_max_position_embeddings"
    context = settings.get(name, rope.get(name, settings.required("max_position_embeddings")))
    if kind == "llama3":
        low, high = rope.required("low_freq_factor"), rope.required("high_freq_factor")
        return RopeScaling(
            kind="llama3", factor=factor, original_context=context, low_frequency=low, high_frequency=high
        )
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=context,
        beta_slow=_or(rope.get("beta_slow"), 1.0),
        beta_fast=_or(rope.get("beta_fast"), 32.0),
        truncate=_or(rope.get("truncate"), True),
        attention_factor=_yarn_attention_factor(factor, rope),
    )


def _yarn_attention_factor(factor: Any, rope: Settings) -> Any:
    """Returns the factor by which YaRN scales queries and keys.

    This is the given factor, else equation 22 of YaRN (Peng et al., 2023).
    """
    if (given := rope.get("attention_factor")) is not None:
        return given
    magnitudes = rope.get("mscale"), rope.get("mscale_all_dim")
    numerator, denominator = magnitudes if all(magnitudes) else (1.0, 0.0)
    for name, value in (("factor", factor), ("mscale", numerator), ("mscale_all_dim", denominator)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value <= _LARGEST_MAGNITUDE):
            raise UsageProblem(
                f"rope {name} is {shown_value(value)}, and must be a number from 0 to {_LARGEST_MAGNITUDE:g}."
            )
    return _magnitude(factor, numerator) / _magnitude(factor, denominator)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def write_rotary(config: ModelConfig) -> dict[str, Any]:
    """Returns the settings of the rotary positions, in the format that `read_rotary` reads."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_theta}
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
    return {"rope_theta": config.rope_theta, "rope_scaling": described}
