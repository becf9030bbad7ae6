"""GPT-2: LayerNorm, learned positions, GELU without a gate, and biases everywhere.

Settings and tensors have other names than in the other families. Query, key and value are stored as one matrix, and
every matrix of a layer is stored transposed.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import Family, Settings, divide_width
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig


def _read(settings: Settings) -> ModelConfig:
    settings.require_activation("activation_function", "gelu_new", "gelu_pytorch_tanh")
    settings.require(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width, heads, inner = settings.required("n_embd"), settings.required("n_head"), settings.get("n_inner")
    return ModelConfig(
        vocab_size=settings.required("vocab_size"),
        layers=settings.required("n_layer"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=divide_width(settings, width, heads),
        feed_forward_width=inner if inner is not None else 4 * width if isinstance(width, int) else 1,
        context=settings.required("n_positions"),
        norm="layer",
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        norm_bias=True,
        positions="learned",
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation="gelu_tanh",
        feed_forward_bias=True,
        tied=settings.flag("tie_word_embeddings", True),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_inner": config.feed_forward_width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
    }


_NAMES = TensorNames(
    base="transformer.",
    layers="transformer.h.",
    outer={
        "embedding": "transformer.wte",
        "position": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    inner={
        "attention_norm": "ln_1",
        "attention.query": "attn.c_attn",
        "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    },
    transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    buffers=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
)
GPT2 = Family("gpt2", "GPT2LMHeadModel", _read, _write, _NAMES)
