"""M2M100: an encoder-decoder with pre-norm LayerNorm, sinusoidal positions and a shared embedding.

`attncli train` writes this family for pairs of sentences, because it is the simplest pre-norm encoder-decoder that
transformers and CTranslate2 read: it has no norm after the embedding, no learned positions and no bias on the head.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.bart_like import FINAL_NORMS, read_stacks, stack_names, write_stacks
from attncli.checkpoint.families.shared import Family, Settings
from attncli.config import ModelConfig

_PAD = 1  # the default of transformers for pad_token_id


def _read(settings: Settings) -> ModelConfig:
    pad = settings.get("pad_token_id", _PAD)
    return ModelConfig(
        **read_stacks(settings, "relu", True),
        positions="sinusoidal",
        position_offset=pad + 1 if isinstance(pad, int) else pad,
        inclusive_sinusoid=True,
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_stacks(config) | {"pad_token_id": config.position_offset - 1}


_NAMES = stack_names(FINAL_NORMS, buffers=r"model\.(encoder|decoder)\.embed_positions\.weights?")
M2M100 = Family("m2m_100", "M2M100ForConditionalGeneration", _read, _write, _NAMES)
