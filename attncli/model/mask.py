"""The causal mask: which keys a query may attend to."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Returns the mask (T, S), True where a query may attend. The last query has the position of the last key.

    With a window, a query attends to at most `window` positions: its own and the ones just before it.
    """
    at_query = torch.arange(keys - queries, keys, device=device)[:, None]
    at_key = torch.arange(keys, device=device)[None, :]
    allowed = at_key <= at_query
    return allowed if window is None else allowed & (at_key > at_query - window)
