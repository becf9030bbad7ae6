"""BART: an encoder-decoder with post-norm LayerNorm, a norm after the embedding, and learned positions.

No token uses the first two rows of a table of positions. mBART is pre-norm, has another model type and is not
supported.
"""

from __future__ import annotations

from typing import Any

from attncli.checkpoint.families.bart_like import STACKS, read_stacks, require_post_norm, stack_names, write_stacks
from attncli.checkpoint.families.shared import Family, Settings
from attncli.config import ModelConfig

_OFFSET = 2  # rows of the table of positions before the row of the first token


def _read(settings: Settings) -> ModelConfig:
    require_post_norm(settings, embedding_norm=True, static_positions=False)
    return ModelConfig(
        **read_stacks(settings, "gelu", False),
        positions="learned",
        position_offset=_OFFSET,
        pre_norm=False,
        embedding_norm=True,
        head_bias=True,
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_stacks(config)


_EMBEDDINGS = {"position": "embed_positions", "embedding_norm": "layernorm_embedding"}
_OUTER = {
    f"{'encoder.' if stack == 'encoder' else ''}{ours}": f"model.{stack}.{theirs}"
    for stack in STACKS
    for ours, theirs in _EMBEDDINGS.items()
}
_NAMES = stack_names(_OUTER, buffers=r"model\.(encoder|decoder)\.version|model\.classification_head\..*")
BART = Family("bart", "BartForConditionalGeneration", _read, _write, _NAMES)
