"""T5: an encoder-decoder with pre-norm RMSNorm, a bias of the scores for each relative position, and no other biases.

T5 has a feed-forward part without a gate, and a tied output head. The head's input is divided by sqrt(width). T5 1.1
and Flan-T5 have a gated feed-forward part and an untied head, whose input is not divided. Neither version divides the
attention scores by sqrt(head width).
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import ACTIVATIONS, Family, Settings, read_activation, read_encoder_layers
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig

_CONTEXT = 512  # the length in tokens that T5 was trained on, for files without n_positions
_PROJECTION = "feed_forward_proj"  # the setting that names the gate and the activation, such as 'gated-gelu'
_GATED = "gated-"
_GELU = "gated-gelu"  # in T5 1.1, this is the tanh approximation; in other settings, 'gelu' is the exact GELU


def _read(settings: Settings) -> ModelConfig:
    heads, layers = settings.required("num_heads"), read_encoder_layers(settings, "num_layers")
    decoder_layers = settings.get("num_decoder_layers")
    projection = settings.get(_PROJECTION) or "relu"
    gated = isinstance(projection, str) and projection.startswith(_GATED)
    named = "gelu_new" if projection == _GELU else projection.removeprefix(_GATED) if gated else projection
    tied = settings.flag("scale_decoder_outputs", settings.flag("tie_word_embeddings", True))
    return ModelConfig(
        vocab_size=settings.required("vocab_size"),
        layers=layers if decoder_layers is None else decoder_layers,
        encoder_layers=layers,
        width=settings.required("d_model"),
        heads=heads,
        kv_heads=heads,
        head_width=settings.required("d_kv"),
        feed_forward_width=settings.required("d_ff"),
        context=settings.get("n_positions") or _CONTEXT,
        norm_eps=settings.get("layer_norm_epsilon", 1e-6),
        positions="relative",
        relative_buckets=settings.get("relative_attention_num_buckets", 32),
        relative_distance=settings.get("relative_attention_max_distance", 128),
        scaled_scores=False,
        qk_norm=False,
        gated=gated,
        activation=read_activation(Settings({_PROJECTION: named}, settings.where), _PROJECTION, "relu"),
        tied=tied,
        scaled_output=tied,
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    activation = (_GATED if config.gated else "") + ACTIVATIONS[config.activation]
    return {
        "d_model": config.width,
        "d_kv": config.head_width,
        "d_ff": config.feed_forward_width,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.layers,
        "num_heads": config.heads,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_eps,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_distance,
        _PROJECTION: _GELU if activation == "gated-gelu_new" else activation,
        "is_encoder_decoder": True,
    }


_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
_FEED_FORWARD = {"_norm": "layer_norm", ".gate": "DenseReluDense.wi_0", ".up": "DenseReluDense.wi_1"}
_FEED_FORWARD |= {".down": "DenseReluDense.wo"}
_NAMES = TensorNames(
    base="",
    layers="decoder.block.",
    encoder_layers="encoder.block.",
    outer={
        "embedding": "shared",
        "distance": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "encoder.distance": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "norm": "decoder.final_layer_norm",
        "encoder.norm": "encoder.final_layer_norm",
        "head": "lm_head",
    },
    inner={
        "attention_norm": "layer.0.layer_norm",
        **{f"attention.{ours}": f"layer.0.SelfAttention.{theirs}" for ours, theirs in _ATTENTION.items()},
        "cross_norm": "layer.1.layer_norm",
        **{f"cross_attention.{ours}": f"layer.1.EncDecAttention.{theirs}" for ours, theirs in _ATTENTION.items()},
        **{f"feed_forward{ours}": f"layer.2.{theirs}" for ours, theirs in _FEED_FORWARD.items()},
    },
    encoder_inner={f"feed_forward{ours}": f"layer.1.{theirs}" for ours, theirs in _FEED_FORWARD.items()},
    ungated={".wi_1.weight": ".wi.weight"},
    buffers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    copies={f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")},
)
T5 = Family("t5", "T5ForConditionalGeneration", _read, _write, _NAMES)
