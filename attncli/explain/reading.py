"""Runs forward passes in which only some rows of attention are observed, each row with all its keys.

The tokens before the observed rows are prefilled into a cache by the fast path, in chunks. So memory grows with the
length of a text, not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncli.model.attention import Observer
from attncli.model.cache import KVCache
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

WHOLE = 256  # the most tokens of a text whose rows are all observed
TOKENS_AT_ONCE = 4096  # the most tokens of a batch, over all its rows
_STRETCH = 512  # tokens of one chunk of the prefill


def ids_of(model: Transformer, pieces: Sequence[Piece]) -> Tensor:
    """Returns the ids of a text (1, T), on the model's device."""
    return torch.tensor([[piece.id for piece in pieces]], device=model.embedding.weight.device)


def rows_to_watch(needed: range, tokens: int) -> range:
    """Returns the rows to observe: all rows if the text has at most WHOLE tokens, otherwise only the needed rows."""
    return needed if tokens > WHOLE else range(tokens)


@torch.inference_mode()
def read(model: Transformer, ids: Tensor, rows: range, observe: Observer | None = None) -> Tensor:
    """Runs a forward pass over ids (1, T), and returns the normalized residual stream (1, R, C) at `rows`.

    The observer gets the R rows of queries, and all S = rows.stop keys and values. Tokens after the rows are not read.
    """
    cache = KVCache(model.config.layers, rows.stop) if rows.start else None
    for start in range(0, rows.start, _STRETCH):
        model.hidden(ids[:, start : min(start + _STRETCH, rows.start)], cache)
    return model.hidden(ids[:, rows.start : rows.stop], cache, observe)
