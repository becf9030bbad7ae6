"""Which keys a query may look at."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(T, S), True where a query may look. The last query stands at the last key; a window counts the query itself."""
    at_query = torch.arange(keys - queries, keys, device=device)[:, None]
    at_key = torch.arange(keys, device=device)[None, :]
    allowed = at_key <= at_query
    return allowed if window is None else allowed & (at_key > at_query - window)
