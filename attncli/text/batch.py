"""Makes the batch of a training step.

A batch is a pure function of the seed and the step, so a resumed run continues with the next batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput
from attncli.text.ids import TokenIds


def batch(
    ids: TokenIds, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, ranks: int = 1
) -> NDArray[np.int64]:
    """Returns the token ids (batch_size, context + 1) of one training step: one window per row.

    In each row, the first `context` ids are the inputs, and the last `context` ids are the targets. Each epoch splits
    the ids into windows from a new offset, and visits every window once, in a new order. If a step is shared by `ranks`
    processes, process number `rank` takes its own `batch_size` windows. Raises BadInput if the ids do not fill one
    window.
    """
    fitting = (len(ids) - 1) // context
    if fitting == 0:
        raise BadInput.naming(
            lambda named: (
                f"{len(ids)} tokens are too few for a context of {context}.",
                f"Give more text or a smaller {named('context')}.",
            )
        )
    windows = max(fitting - 1, 1)  # one window fewer than fits, so that an epoch can begin at any offset in a window
    first = (step * ranks + rank) * batch_size
    rows = np.empty((batch_size, context + 1), np.int64)
    for row in range(batch_size):
        epoch, index = divmod(first + row, windows)
        offset, order = _epoch(seed, epoch, windows, len(ids) - 1 - windows * context)
        start = offset + int(order[index]) * context
        rows[row] = ids[start : start + context + 1]
    return rows


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, windows: int, slack: int) -> tuple[int, NDArray[np.int64]]:
    """Returns the offset of the first window of an epoch, from 0 to `slack`, and the order of the windows."""
    generator = np.random.default_rng((seed, epoch))
    return int(generator.integers(slack + 1)), generator.permutation(windows)
