"""Reading a text so that attention is watched in some of its rows only: those asked for, against all keys before them.

What stands before these rows is read the fast way, in stretches, into a cache. So the memory that a long text takes
grows with its length, not with the square of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attncli.model.attention import Observer
from attncli.model.cache import KVCache
from attncli.model.transformer import Transformer

WHOLE = 256  # tokens of a text up to which every row is watched
_STRETCH = 512  # tokens that are read at once


def rows_to_watch(asked: range, tokens: int) -> range:
    """Every row of a text that is not long, else those asked for."""
    return asked if tokens > WHOLE else range(tokens)


@torch.inference_mode()
def read(model: Transformer, ids: Tensor, rows: range, observe: Observer | None = None) -> Tensor:
    """ids (1, T) -> what the head reads at these rows (1, R, C). What comes after them is not read.

    The observer sees the R rows, and of keys and values all S = rows.stop.
    """
    cache = KVCache(model.config.layers, rows.stop) if rows.start else None
    for start in range(0, rows.start, _STRETCH):
        model.hidden(ids[:, start : min(start + _STRETCH, rows.start)], cache)
    return model.hidden(ids[:, rows.start : rows.stop], cache, observe)
