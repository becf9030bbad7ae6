"""Code that BART, Marian and M2M100 share: their settings and their tensors have the same names."""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import (
    ACTIVATIONS,
    Settings,
    divide_width,
    read_activation,
    read_encoder_layers,
    require_equal_stacks,
)
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig

_NORM_EPS = 1e-5  # the default of LayerNorm in PyTorch; config.json does not contain the value
STACKS = ("encoder", "decoder")
FINAL_NORMS = {"norm": "model.decoder.layer_norm", "encoder.norm": "model.encoder.layer_norm"}


def read_stacks(settings: Settings, activation: str, scaled: bool) -> dict[str, Any]:
    """Returns the settings that the three families have, as fields of ModelConfig.

    `activation` and `scaled` are the family's defaults of `activation_function` and `scale_embedding`. Raises
    BadCheckpoint for a setting that is missing or not supported.
    """
    heads, inner = require_equal_stacks(settings)
    settings.require(tie_word_embeddings=True)
    width = settings.required("d_model")
    return {
        "vocab_size": settings.required("vocab_size"),
        "layers": settings.required("decoder_layers"),
        "encoder_layers": read_encoder_layers(settings, "encoder_layers"),
        "width": width,
        "heads": heads,
        "kv_heads": heads,
        "head_width": divide_width(settings, width, heads),
        "feed_forward_width": inner,
        "context": settings.required("max_position_embeddings"),
        "norm": "layer",
        "norm_eps": _NORM_EPS,
        "norm_bias": True,
        "scaled_embedding": settings.flag("scale_embedding", scaled),
        "qk_norm": False,
        "qkv_bias": True,
        "output_bias": True,
        "gated": False,
        "activation": read_activation(settings, "activation_function", activation),
        "feed_forward_bias": True,
    }


def write_stacks(config: ModelConfig) -> dict[str, Any]:
    """Returns the settings that `read_stacks` reads, except the vocabulary size and tied embeddings."""
    return {
        "d_model": config.width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.feed_forward_width,
        "decoder_ffn_dim": config.feed_forward_width,
        "max_position_embeddings": config.context,
        "activation_function": ACTIVATIONS[config.activation],
        "scale_embedding": config.scaled_embedding,
        "is_encoder_decoder": True,
    }


def require_post_norm(settings: Settings, *, embedding_norm: bool, static_positions: bool) -> None:
    """Raises BadCheckpoint for a setting of fairseq, in old files, that describes another network than the family's."""
    settings.require(
        normalize_before=False,
        add_final_layer_norm=False,
        normalize_embedding=embedding_norm,
        static_position_embeddings=static_positions,
    )


def stack_names(outer: dict[str, str], buffers: str = "$^") -> TensorNames:
    """Returns the tensor names of the three families. `outer` adds names outside of the layers."""
    return TensorNames(
        base="model.",
        layers="model.decoder.layers.",
        encoder_layers="model.encoder.layers.",
        outer={"embedding": "model.shared", "head_bias": "final_logits_bias", **outer},
        inner={
            "attention_norm": "self_attn_layer_norm",
            "attention.query": "self_attn.q_proj",
            "attention.key": "self_attn.k_proj",
            "attention.value": "self_attn.v_proj",
            "attention.output": "self_attn.out_proj",
            "cross_norm": "encoder_attn_layer_norm",
            "cross_attention.query": "encoder_attn.q_proj",
            "cross_attention.key": "encoder_attn.k_proj",
            "cross_attention.value": "encoder_attn.v_proj",
            "cross_attention.output": "encoder_attn.out_proj",
            "feed_forward_norm": "final_layer_norm",
            "feed_forward.up": "fc1",
            "feed_forward.down": "fc2",
        },
        buffers=buffers,
        copies={f"model.{stack}.embed_tokens.weight": "model.shared.weight" for stack in STACKS},
        rows=frozenset({"final_logits_bias"}),
        zeros=frozenset({"final_logits_bias"}),
    )
