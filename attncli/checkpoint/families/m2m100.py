"""M2M100: an encoder-decoder with pre-norm LayerNorm, sinusoidal positions and a shared embedding.

`attncli train` writes such a model for pairs of sentences. Of the encoder-decoder families of transformers, this is the
plainest pre-norm one: no norm after the embedding, no learned positions, no bias on the head. CTranslate2 reads it too.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import (
    ACTIVATIONS,
    Family,
    Settings,
    divide_width,
    read_activation,
    require_equal_stacks,
)
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig

_PAD = 1  # the default of transformers for pad_token_id
_NORM_EPS = 1e-5  # of LayerNorm in PyTorch; config.json does not contain it


def _read(settings: Settings) -> ModelConfig:
    heads, inner = require_equal_stacks(settings)
    settings.require(tie_word_embeddings=True)
    width, pad = settings.required("d_model"), settings.get("pad_token_id", _PAD)
    return ModelConfig(
        vocab_size=settings.required("vocab_size"),
        layers=settings.required("decoder_layers"),
        encoder_layers=settings.required("encoder_layers"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=divide_width(settings, width, heads),
        feed_forward_width=inner,
        context=settings.required("max_position_embeddings"),
        norm="layer",
        norm_eps=_NORM_EPS,
        norm_bias=True,
        positions="sinusoidal",
        position_offset=pad + 1 if isinstance(pad, int) else pad,
        inclusive_sinusoid=True,
        scaled_embedding=settings.flag("scale_embedding", True),
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation=read_activation(settings, "activation_function", "relu"),
        feed_forward_bias=True,
    )


def _write(config: ModelConfig) -> dict[str, Any]:
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
        "pad_token_id": config.position_offset - 1,
        "is_encoder_decoder": True,
    }


_NAMES = TensorNames(
    base="model.",
    layers="model.decoder.layers.",
    encoder_layers="model.encoder.layers.",
    outer={"embedding": "model.shared", "norm": "model.decoder.layer_norm", "encoder.norm": "model.encoder.layer_norm"},
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
    buffers=r"model\.(encoder|decoder)\.(embed_tokens\.weight|embed_positions\.weights?)",
)
M2M100 = Family("m2m_100", "M2M100ForConditionalGeneration", _read, _write, _NAMES)
