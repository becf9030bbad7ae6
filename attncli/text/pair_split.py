"""Splits pairs into a training and a validation part by a hash of the source text.

A source may occur in several pairs, and files of pairs are often sorted by their source. So all pairs of a source go to
the same part, and which part does not depend on their position in the file.
"""

from __future__ import annotations

import numpy as np

from attncli.errors import BadInput
from attncli.text.pairs import Pairs


def split_by_source(pairs: Pairs, fraction: float) -> tuple[Pairs, Pairs]:
    """Returns the training part and the validation part. No source text is in both.

    The sources are ordered by their hash. The validation part gets the first sources that together have
    `fraction` of the pairs, rounded and at least one. The last source always goes to the training part. The pairs of a
    part keep their order. Raises BadInput if all pairs have the same source.
    """
    hashes = pairs.source.hashes
    ordered = np.sort(hashes)
    border = ordered[max(round(fraction * len(pairs)), 1) - 1]
    if border == ordered[-1]:  # the training part gets at least one source
        border = ordered[max(int(np.searchsorted(ordered, border)) - 1, 0)]
    held_out = hashes <= border
    if held_out.all():
        every = f"All {len(pairs):,} pairs have the same source" if len(pairs) > 1 else "There is only one pair"
        raise BadInput(f"{every}, so no pairs are left to validate on.", "Give pairs with different sources.")
    return pairs.take(np.flatnonzero(~held_out)), pairs.take(np.flatnonzero(held_out))


def shared_sources(train: Pairs, val: Pairs) -> int:
    """Returns the number of pairs of `val` whose source is also a source of `train`."""
    return int(np.isin(val.source.hashes, train.source.hashes).sum())
