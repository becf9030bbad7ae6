"""The shape of a model: ModelConfig, and RopeScaling within it. Every default and limit stands here once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import require, require_between, require_whole

Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "learned"]
RopeKind = Literal["linear", "llama3", "yarn"]
Activation = Literal["swiglu", "gelu"]

# Far above any model that fits a machine, far below what would exhaust one while only counting, or the 32-bit
# integers of the network in C.
_LARGEST = {"layers": 1_000, "context": 1 << 24, "vocab_size": 1 << 24}
_LARGEST_DIMENSION = 1 << 20
_NORM_EPS = (1e-30, 1e6)
_ROPE_NUMBERS = (1e-9, 1e9)  # frequencies, and angles at the largest position, stay finite in float32
_ROPE_THETA = (1e-9, 1e30)
_LEAST_YARN_THETA = 1.01  # the formulas divide by its logarithm


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are slowed so that a model reads further than it was first trained to.

    `linear` divides all of them by `factor`; `llama3` and `yarn` only the slow ones, which turn less than once or so
    in `original_context`. The formulas are with `model.attention.rotary_frequencies`.
    """

    kind: RopeKind
    factor: float
    original_context: int | None = None  # tokens; of llama3 and yarn
    low_frequency: float = 1.0  # llama3: what turns less often than this is slowed by all of the factor
    high_frequency: float = 4.0  # llama3: what turns more often than this stays as it is
    beta_slow: float = 1.0  # yarn: the same
    beta_fast: float = 32.0  # yarn: likewise
    truncate: bool = True  # yarn: the borders fall between two frequencies
    attention_factor: float = 1.0  # of cosines and sines, so that scores are multiplied by its square

    def __post_init__(self) -> None:
        require(self.kind in ("linear", "llama3", "yarn"), "rope type", self.kind, "'linear', 'llama3' or 'yarn'")
        for name in ("factor", "low_frequency", "high_frequency", "beta_slow", "beta_fast", "attention_factor"):
            require_between(f"rope {name}", getattr(self, name), _ROPE_NUMBERS)
        if self.kind != "linear":
            require_whole("rope original_context", self.original_context, 1, _LARGEST["context"])
        if self.kind == "llama3":
            low, high = self.low_frequency, self.high_frequency
            require(low < high, "rope high_frequency", high, f"above low_frequency ({low})")
        require(isinstance(self.truncate, bool), "rope truncate", self.truncate, "true or false")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a decoder-only transformer.

    The defaults are the shape the field calls Qwen3. Llama is `qk_norm=False`; Mistral also sets `window`;
    Qwen2 is `qk_norm=False, qkv_bias=True`; GPT-2 is `norm="layer", positions="learned",
    activation="gelu", bias=True, qk_norm=False`.
    """

    vocab_size: int  # V
    layers: int
    width: int  # C, the residual stream
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads; H is a multiple of it
    head_width: int  # D
    feed_forward_width: int
    context: int  # the most tokens that one forward pass may see
    norm: Norm = "rms"
    norm_eps: float = 1e-6
    positions: Positions = "rotary"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    activation: Activation = "swiglu"
    qk_norm: bool = True
    qkv_bias: bool = False
    attention_bias: bool = False  # on all four matrices of attention
    feed_forward_bias: bool = False
    bias: bool = False  # on every linear layer, LayerNorm included
    window: int | None = None  # a query sees this many tokens, itself included
    window_from: int = 0  # layers before this one see everything
    tied: bool = True  # the head reuses the token embedding

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "layers",
            "width",
            "heads",
            "kv_heads",
            "head_width",
            "feed_forward_width",
            "context",
        ):
            require_whole(name, getattr(self, name), 1, _LARGEST.get(name, _LARGEST_DIMENSION))
        require_whole("heads x head_width", self.heads * self.head_width, 1, _LARGEST_DIMENSION)
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of heads ({self.heads})")
        require(self.norm in ("rms", "layer"), "norm", self.norm, "'rms' or 'layer'")
        require(self.positions in ("rotary", "learned"), "positions", self.positions, "'rotary' or 'learned'")
        require(self.activation in ("swiglu", "gelu"), "activation", self.activation, "'swiglu' or 'gelu'")
        if self.positions == "rotary":
            require(self.head_width % 2 == 0, "head_width", self.head_width, "even, for rotary positions")
        for name in ("qk_norm", "qkv_bias", "attention_bias", "feed_forward_bias", "bias", "tied"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        require_between("norm_eps", self.norm_eps, _NORM_EPS)
        require_between("rope_theta", self.rope_theta, _ROPE_THETA)
        if self.rope_scaling is not None:
            require(self.positions == "rotary", "rope_scaling", self.rope_scaling, "unset for learned positions")
            if self.rope_scaling.kind == "yarn":
                least = _LEAST_YARN_THETA
                require(self.rope_theta >= least, "rope_theta", self.rope_theta, f"at least {least} for yarn")
        if self.window is not None:
            require_whole("window", self.window, 1, _LARGEST["context"])
        require_whole("window_from", self.window_from, 0, _LARGEST["layers"])

    @property
    def biased_inputs(self) -> bool:
        """Whether the query, key and value matrices have biases."""
        return self.bias or self.attention_bias or self.qkv_bias

    @property
    def biased_output(self) -> bool:
        """Whether the output matrix of attention has one."""
        return self.bias or self.attention_bias

    @property
    def biased_feed_forward(self) -> bool:
        """Whether the matrices of the feed-forward part have biases."""
        return self.bias or self.feed_forward_bias

    def window_of(self, layer: int) -> int | None:
        """The attention window of a layer (0-based): how many tokens a query sees, or None for all."""
        return self.window if layer >= self.window_from else None
