"""Marian, the opus-mt models: an encoder-decoder with post-norm LayerNorm, sinusoidal positions and a bias on the head.

Encoder, decoder and head share one embedding. Models whose languages have separate embeddings are not supported.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.bart_like import read_stacks, require_post_norm, stack_names, write_stacks
from attncli.checkpoint.families.shared import Family, Settings
from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint


def _read(settings: Settings) -> ModelConfig:
    require_post_norm(settings, embedding_norm=False, static_positions=True)
    settings.require(share_encoder_decoder_embeddings=True)
    target = settings.get("decoder_vocab_size")
    if target is not None and target != settings.required("vocab_size"):
        raise BadCheckpoint(
            f"{settings.where}: decoder_vocab_size differs from vocab_size; separate vocabularies are not supported."
        )
    return ModelConfig(**read_stacks(settings, "gelu", False), positions="sinusoidal", pre_norm=False, head_bias=True)


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_stacks(config) | {"pad_token_id": config.vocab_size - 1}  # as in the opus-mt models


_NAMES = stack_names({}, buffers=r"model\.(encoder|decoder)\.embed_positions\.weight")
MARIAN = Family("marian", "MarianMTModel", _read, _write, _NAMES)
