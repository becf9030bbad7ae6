"""BERT: an encoder alone with post-norm LayerNorm, learned positions, segments, and a head that predicts masked words.

Its texts are `[CLS] text [SEP]`, or `[CLS] text [SEP] text [SEP]` for a pair, whose second text is segment 1. The
pooler and the heads of other tasks are not read. A model without a head for words predicts none.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.shared import ACTIVATIONS, Family, Settings, divide_width, read_activation
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.config import ModelConfig

_ARCHITECTURE = "BertForMaskedLM"


def _read(settings: Settings) -> ModelConfig:
    settings.require(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    predicts = _predicts_words(settings)
    width, heads = settings.required("hidden_size"), settings.required("num_attention_heads")
    return ModelConfig(
        vocab_size=settings.required("vocab_size"),
        layers=settings.required("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=divide_width(settings, width, heads),
        feed_forward_width=settings.required("intermediate_size"),
        context=settings.required("max_position_embeddings"),
        norm="layer",
        norm_eps=settings.get("layer_norm_eps", 1e-12),
        norm_bias=True,
        positions="learned",
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation=read_activation(settings, "hidden_act", "gelu"),
        feed_forward_bias=True,
        tied=settings.flag("tie_word_embeddings", True) or not predicts,
        causal=False,
        pre_norm=False,
        embedding_norm=True,
        segments=settings.get("type_vocab_size", 2),
        head_bias=predicts,
        head_transform=predicts,
    )


def _predicts_words(settings: Settings) -> bool:
    """Whether the model has the head that predicts masked words. Models of other tasks lack it."""
    named = settings.get("architectures") or [_ARCHITECTURE]
    return not isinstance(named, list) or any(name in named for name in (_ARCHITECTURE, "BertForPreTraining"))


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": ACTIVATIONS[config.activation],
        "type_vocab_size": config.segments,
        "architectures": [_ARCHITECTURE if config.head_transform else "BertModel"],
    }


_OTHER_HEADS = r"cls\.seq_relationship|classifier|qa_outputs"
_NAMES = TensorNames(
    base="bert.",
    layers="bert.encoder.layer.",
    outer={
        "embedding": "bert.embeddings.word_embeddings",
        "position": "bert.embeddings.position_embeddings",
        "segment": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        "head_transform": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "head": "cls.predictions.decoder",
        "head_bias": "cls.predictions.decoder.bias",
    },
    inner={
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    },
    buffers=rf"bert\.(pooler\..*|embeddings\.position_ids|({_OTHER_HEADS})\..*)|({_OTHER_HEADS})\..*",
    copies={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    old={".gamma": ".weight", ".beta": ".bias"},
)
BERT = Family("bert", _ARCHITECTURE, _read, _write, _NAMES)
