"""Computes a model's size from its config: parameters by part, multiplications, memory of weights and cache.

No model is built and no torch is imported. `PRESETS` are the named shapes of `attncli info --preset`.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncli.config import ModelConfig

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SCALE_BYTES = 4  # bytes of the scale that each output of an int8 matrix has


@dataclass(frozen=True)
class NumberTypes:
    """The dtypes of a network during generation: float32, float16, bfloat16, or int8 for matrices."""

    matrices: str
    vectors: str  # norms and biases
    cache: str


ATTENTION = ("query", "key", "value", "output")


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Returns the number of parameters by part. A part includes the encoder and the decoder.

    Tied weights count once. The biases of all layers are one part, and so are all norms.
    """
    width, hidden = config.width, config.feed_forward_width
    query, key = config.heads * config.head_width, config.kv_heads * config.head_width
    inner_matrices = 2 if config.gated else 1  # gate and up; or only up
    norm = width * (2 if config.norm_bias else 1)
    bias_attention = (query + 2 * key) * config.qkv_bias + width * config.output_bias
    bias_feed_forward = (width + inner_matrices * hidden) * config.feed_forward_bias
    attentions, blocks, stacks = attention_count(config), config.layers + config.encoder_layers, stack_count(config)
    outer_norms = stacks * (config.pre_norm + config.embedding_norm) + config.head_transform
    rows = config.segments + (config.context + config.position_offset if config.positions == "learned" else 0)
    distances = config.relative_buckets * config.heads if config.positions == "relative" else 0
    transform = width * width + width if config.head_transform else 0
    return {
        "embedding": config.vocab_size * width,
        "positions": stacks * (rows * width + distances),
        "query": attentions * query * width,
        "key": attentions * key * width,
        "value": attentions * key * width,
        "output": attentions * query * width,
        "feed-forward": blocks * (inner_matrices + 1) * hidden * width,
        "biases": attentions * bias_attention + blocks * bias_feed_forward,
        "norms": (attentions + blocks + outer_norms) * norm + attentions * 2 * config.head_width * config.qk_norm,
        "head": (0 if config.tied else config.vocab_size * width) + config.vocab_size * config.head_bias + transform,
    }


def stack_count(config: ModelConfig) -> int:
    """Returns the number of stacks: 2 for an encoder-decoder, else 1."""
    return 2 if config.encoder_layers else 1


def attention_count(config: ModelConfig) -> int:
    """Returns the number of attention modules: one in each layer, and two in a decoder layer with cross-attention."""
    return config.encoder_layers + config.layers * (2 if config.encoder_layers else 1)


def matrix_parameters(config: ModelConfig) -> int:
    """Returns the number of parameters in the matrices that are multiplied by every token.

    The output head is included, even if it is tied.
    """
    parts = count_parameters(config)
    return sum(parts[part] for part in (*ATTENTION, "feed-forward")) + config.vocab_size * config.width


def attention_weights(config: ModelConfig, tokens: int) -> int:
    """Returns the number of attention weights of a text: one for each query and each key that the query may attend to.

    All heads and layers are counted. Without a window, each head of a causal layer has T (T + 1) / 2 weights for T
    tokens. Each head of an encoder has T x T. For an encoder-decoder, the source and the target have T tokens each, and
    cross-attention also has T x T weights.
    """
    if not config.causal:
        return config.heads * config.layers * tokens**2
    seen = (min(tokens, config.window_of(layer) or tokens) for layer in range(config.layers))
    causal = sum(reach * (reach + 1) // 2 + (tokens - reach) * reach for reach in seen)
    unmasked = (config.encoder_layers + config.layers) * tokens**2 if config.encoder_layers else 0
    return config.heads * (causal + unmasked)


def multiplications(config: ModelConfig, tokens: int) -> tuple[int, int]:
    """Returns two numbers of multiplications in one forward pass: for the matrices, and for attention.

    For an encoder-decoder, the source and the target have `tokens` tokens each. The first number grows linearly with
    the length of the text, the second quadratically. Each attention weight costs D multiplications for the product of
    query and key, and D for the value, where D is the head width.
    """
    return matrix_parameters(config) * tokens, 2 * config.head_width * attention_weights(config, tokens)


def cache_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Returns the bytes of one position in the KV cache: keys and values of all layers.

    In an encoder-decoder, a source token has as many bytes as a target token: the keys and values of cross-attention.
    """
    return 2 * config.layers * config.kv_heads * config.head_width * BYTES[dtype]


def weight_bytes_per_step(config: ModelConfig, types: NumberTypes, texts: int = 1) -> int:
    """Returns the bytes of weights that one decoding step reads for a batch of texts.

    Matrices, norms and biases are read once for the whole batch. Of the embeddings, only the rows of the batch's tokens
    are read.
    """
    parts = count_parameters(config)
    inner_matrices = 2 if config.gated else 1
    query, key = config.heads * config.head_width, config.kv_heads * config.head_width
    outputs = config.layers * (query + 2 * key + inner_matrices * config.feed_forward_width + 2 * config.width)
    rows = texts * (2 if config.positions == "learned" else 1)
    numbers = matrix_parameters(config) + rows * config.width
    vectors = (parts["biases"] + parts["norms"]) * BYTES[types.vectors]
    if types.matrices == "int8":
        return numbers + _SCALE_BYTES * (outputs + config.vocab_size + rows) + vectors
    return numbers * BYTES[types.matrices] + vectors


def cache_bytes_per_step(config: ModelConfig, types: NumberTypes, before: int) -> int:
    """Returns the bytes of keys and values that a token reads: its own, and those of `before` earlier tokens.

    With a window, the token reads only the positions within the window.
    """
    seen = sum(min(before + 1, config.window_of(layer) or before + 1) for layer in range(config.layers))
    return 2 * config.kv_heads * config.head_width * BYTES[types.cache] * seen


def _gpt(vocab_size: int, layers: int, width: int, heads: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        feed_forward_width=4 * width,
        context=context,
        norm="layer",
        norm_eps=1e-5,
        norm_bias=True,
        positions="learned",
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation="gelu_tanh",
        feed_forward_bias=True,
    )


def _llama(
    vocab_size: int, layers: int, width: int, heads: int, kv_heads: int, hidden: int, context: int
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        feed_forward_width=hidden,
        context=context,
        norm_eps=1e-5,
        qk_norm=False,
        tied=False,
    )


PRESETS: dict[str, tuple[str, ModelConfig]] = {
    "gpt2": ("GPT-2 small (Radford et al., 2019)", _gpt(50257, 12, 768, 12, 1024)),
    "gpt2-xl": ("GPT-2 XL (Radford et al., 2019)", _gpt(50257, 48, 1600, 25, 1024)),
    "gpt3": ("GPT-3 175B (Brown et al., 2020)", _gpt(50257, 96, 12288, 96, 2048)),
    "llama2-7b": ("Llama 2 7B (Touvron et al., 2023)", _llama(32000, 32, 4096, 32, 32, 11008, 4096)),
    "llama2-70b": ("Llama 2 70B (Touvron et al., 2023)", _llama(32000, 80, 8192, 64, 8, 28672, 4096)),
}
