"""ModelConfig is the shape of a model, RopeScaling the scaling of its rotary frequencies. Both check their limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from attncli.config.limits import require, require_between, require_whole

Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "learned", "sinusoidal", "relative"]
RopeKind = Literal["linear", "llama3", "yarn"]
Activation = Literal["silu", "gelu_tanh", "gelu_erf", "relu"]  # gelu_tanh approximates GELU, gelu_erf is exact
Kind = Literal["decoder", "encoder-decoder", "encoder"]

# The limits exceed every model that fits a machine. Within them, counting parameters takes little memory, and sizes fit
# the 32-bit integers of the network in C. A position up to 2^24 is exact in float32, which rotations are computed in.
_LARGEST = {"layers": 1_000, "context": 1 << 24, "vocab_size": 1 << 24}
_LARGEST_DIMENSION = 1 << 20
_NORM_EPS = (1e-30, 1e6)
_ROPE_NUMBERS = (1e-9, 1e9)  # so that frequencies and angles are finite in float32, also at the largest position
_ROPE_THETA = (1e-9, 1e30)
_LEAST_YARN_THETA = 1.01  # the formulas of yarn divide by the logarithm of theta
_LARGEST_SEGMENTS = 64
_SIZES = ("vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "feed_forward_width", "context")
_CHOICES = {"norm": get_args(Norm), "positions": get_args(Positions), "activation": get_args(Activation)}
_SWITCHES = (
    *("norm_bias", "unit_offset", "scaled_embedding", "qk_norm", "qkv_bias", "output_bias", "gated"),
    *("feed_forward_bias", "tied", "causal", "pre_norm", "embedding_norm", "inclusive_sinusoid", "scaled_scores"),
    *("scaled_output", "head_bias", "head_transform"),
)
_FEED_FORWARDS: dict[tuple[bool, Activation], str] = {
    (True, "silu"): "swiglu",  # Shazeer, 2020
    (True, "gelu_tanh"): "geglu",
    (False, "gelu_tanh"): "gelu",
    (False, "silu"): "ungated_silu",
    (True, "gelu_erf"): "geglu_erf",
    (False, "gelu_erf"): "gelu_erf",
    (True, "relu"): "reglu",
    (False, "relu"): "relu",
}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """The scaling of rotary frequencies, which lets a model read a longer context than it was first trained on.

    `linear` divides every frequency by `factor`. `llama3` and `yarn` divide only low frequencies, which rotate about
    once or less within `original_context`. `model.attention.rotary_frequencies` has the formulas.
    """

    kind: RopeKind
    factor: float
    original_context: int | None = None  # tokens; for llama3 and yarn
    low_frequency: float = 1.0  # llama3: rotations in original_context below which a frequency is divided by `factor`
    high_frequency: float = 4.0  # llama3: rotations in original_context above which a frequency is not scaled
    beta_slow: float = 1.0  # yarn: what low_frequency is for llama3
    beta_fast: float = 32.0  # yarn: what high_frequency is for llama3
    truncate: bool = True  # yarn: round beta_slow and beta_fast outwards to whole pairs of dimensions
    attention_factor: float = 1.0  # multiplies cosines and sines; its square multiplies the attention scores

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
    """The shape of a transformer: its sizes, and a switch for each difference between model families.

    By default, the transformer is a decoder alone with the switches of Qwen3. Each file in `checkpoint/families/` sets
    the switches of one family.
    """

    vocab_size: int  # V
    layers: int  # in the decoder, or in the encoder of a model without a decoder
    width: int  # C, the residual stream
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads; H is a multiple of K
    head_width: int  # D
    feed_forward_width: int
    context: int  # the context window, in tokens
    norm: Norm = "rms"
    norm_eps: float = 1e-6
    norm_bias: bool = False  # LayerNorm adds a bias; always false for RMSNorm
    unit_offset: bool = False  # RMSNorm multiplies by 1 + weight instead of by the weight
    scaled_embedding: bool = False  # token embeddings are multiplied by sqrt(width)
    positions: Positions = "rotary"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    qk_norm: bool = True  # RMSNorm is applied to every query and key head
    qkv_bias: bool = False  # on the query, key and value matrices
    output_bias: bool = False  # on the output matrix of attention
    gated: bool = True  # feed-forward is down(activation(gate(x)) * up(x)) if true, down(activation(up(x))) if false
    activation: Activation = "silu"
    feed_forward_bias: bool = False  # on the gate, up and down matrices
    window: int | None = None  # a query attends to this number of tokens, including its own
    window_from: int = 0  # the first layer that has the window
    tied: bool = True  # the output head shares the matrix of the token embedding
    encoder_layers: int = 0  # layers of the encoder that the decoder attends to; 0: the model has one stack
    causal: bool = True  # a query attends to no later position; false for an encoder alone
    pre_norm: bool = True  # norms are before attention and feed-forward if true; after their residual sums if false
    embedding_norm: bool = False  # a norm after the embedding
    position_offset: int = 0  # the row of the first token in the table of positions
    inclusive_sinusoid: bool = False  # the lowest frequency is exactly 1/10,000; if false, it is slightly higher
    relative_buckets: int = 32  # relative positions: the number of buckets of distances
    relative_distance: int = 128  # relative positions: all distances from this one on share a bucket
    segments: int = 0  # kinds of text segments, each with an embedding, such as the two sentences of a pair
    scaled_scores: bool = True  # attention scores are divided by sqrt(head_width)
    scaled_output: bool = False  # the input of the head is divided by sqrt(width)
    head_bias: bool = False  # on the output head
    head_transform: bool = False  # before the head: a matrix with a bias, the activation, a norm

    def __post_init__(self) -> None:
        for name in _SIZES:
            require_whole(name, getattr(self, name), 1, _LARGEST.get(name, _LARGEST_DIMENSION))
        require_whole("heads x head_width", self.heads * self.head_width, 1, _LARGEST_DIMENSION)
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of heads ({self.heads})")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            require(value in choices, name, value, " or ".join(map(repr, choices)))
        for name in _SWITCHES:
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        require(not self.norm_bias or self.norm == "layer", "norm_bias", self.norm_bias, "false for RMSNorm")
        require(not self.unit_offset or self.norm == "rms", "unit_offset", self.unit_offset, "false for LayerNorm")
        require_between("norm_eps", self.norm_eps, _NORM_EPS)
        self._check_rotation()
        self._check_encoder()
        require_whole("position_offset", self.position_offset, 0, _LARGEST["context"])
        require_whole("segments", self.segments, 0, _LARGEST_SEGMENTS)
        if self.positions == "sinusoidal":
            require(
                self.width % 2 == 0 and self.width >= 4,
                "width",
                self.width,
                "even and at least 4, for sinusoidal positions",
            )
        if self.positions == "relative":
            require_whole("relative_buckets", self.relative_buckets, 4, _LARGEST_DIMENSION)
            require(self.relative_buckets % 4 == 0, "relative_buckets", self.relative_buckets, "a multiple of 4")
            require_whole("relative_distance", self.relative_distance, self.relative_buckets, _LARGEST["context"])
        if self.window is not None:
            require_whole("window", self.window, 1, _LARGEST["context"])
        require_whole("window_from", self.window_from, 0, _LARGEST["layers"])

    def _check_rotation(self) -> None:
        require_between("rope_theta", self.rope_theta, _ROPE_THETA)
        if self.positions == "rotary":
            require(self.head_width % 2 == 0, "head_width", self.head_width, "even, for rotary positions")
        if self.rope_scaling is not None:
            require(self.positions == "rotary", "rope_scaling", self.rope_scaling, "unset without rotary positions")
            if self.rope_scaling.kind == "yarn":
                least = _LEAST_YARN_THETA
                require(self.rope_theta >= least, "rope_theta", self.rope_theta, f"at least {least} for yarn")

    def _check_encoder(self) -> None:
        require_whole("encoder_layers", self.encoder_layers, 0, _LARGEST["layers"])
        if not self.causal:
            require(self.window is None, "window", self.window, "unset for an encoder")
        if self.encoder_layers:
            require(self.causal, "causal", self.causal, "true for a model with an encoder and a decoder")
            require(self.window is None, "window", self.window, "unset for a model with an encoder and a decoder")
            require(self.positions != "rotary", "positions", self.positions, "other than rotary with an encoder")

    @property
    def kind(self) -> Kind:
        """The architecture: 'decoder', 'encoder-decoder', or 'encoder' for an encoder alone."""
        if self.encoder_layers:
            return "encoder-decoder"
        return "decoder" if self.causal else "encoder"

    @property
    def feed_forward(self) -> str:
        """The name of the feed-forward network, such as 'swiglu', 'gelu' or 'relu'."""
        return _FEED_FORWARDS[self.gated, self.activation]

    def window_of(self, layer: int) -> int | None:
        """Returns the window of a layer; None if its queries attend to all earlier tokens. Layers count from 0."""
        return self.window if layer >= self.window_from else None


def shape_to_json(config: ModelConfig) -> dict[str, Any]:
    """Returns the shape as `run.json` and `--json` contain it: a key for every field, plus `attention_bias` and `bias`.

    `attention_bias` is true if all attention matrices have biases. `bias` is true if every part of the model that can
    have biases has them. These two keys are for programs that know earlier versions. For the same reason, `activation`
    is the name of the feed-forward network: 'swiglu', not 'silu'.
    """
    attention = config.qkv_bias and config.output_bias
    every = attention and config.feed_forward_bias and (config.norm_bias or config.norm == "rms")
    return asdict(config) | {"activation": config.feed_forward, "attention_bias": attention, "bias": every}


def shape_from_json(described: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of ModelConfig from JSON that this or an earlier version wrote, without checking the values.

    Earlier versions did not write `norm_bias`, `output_bias` and `gated`. In their files, `bias` stands for all biases,
    and `attention_bias` for the biases of all attention matrices.
    """
    fields = dict(described)
    every, attention = fields.pop("bias", False), fields.pop("attention_bias", False)
    for kind, name in _FEED_FORWARDS.items():
        if fields.get("activation") == name:
            fields["gated"], fields["activation"] = kind
            break
    if "output_bias" not in fields:
        fields["output_bias"] = every or attention
        fields["qkv_bias"] = every or attention or fields.get("qkv_bias", False)
        fields["feed_forward_bias"] = every or fields.get("feed_forward_bias", False)
        fields["norm_bias"] = every if fields.get("norm") == "layer" else False
    return fields
