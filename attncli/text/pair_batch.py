"""Makes the batch of pairs of a training step: pairs of similar length, up to a number of tokens.

The pairs of an epoch are ordered by length, and the order is cut into batches. The cuts depend only on the lengths of
the pairs, so every epoch has the same number of batches, and a step divided by this number gives the epoch and the
index of the batch. Every epoch shuffles the pairs of equal lengths, and the batches. So a batch is a pure function of
the seed and the step.

Pairs are ordered from the longest source to the shortest. Pairs with sources of the same length are ordered by their
target, ascending and descending in turn, so that neighbors are similar where the length of the source changes. A batch
ends when another pair would exceed `batch_tokens`. It also ends where the length of the source changes, if it is at
least three quarters full: then all its sources have the same length, and an encoder needs no mask. The pairs of the
last two batches are divided evenly between them, so that the last batch is not tiny.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput
from attncli.text.pair_tokens import IdLists, PairTokens

IGNORED = -100  # the label of a padded position: the default `ignore_index` of PyTorch's cross-entropy
_FULL = 0.75  # of `batch_tokens`: a batch with this share ends where the length of the source changes


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs, padded on the right. Row b is pair `rows[b]` of the part.

    A decoder reads `inputs` and predicts `labels`: inputs[:, t + 1] is labels[:, t] where it is not padded.
    """

    rows: NDArray[np.int64]  # (B,)
    source: NDArray[np.int64]  # (B, S), padded with the id of the padding token
    source_lengths: NDArray[np.int64]  # (B,)
    inputs: NDArray[np.int64]  # (B, T): the start token, then the target without its last token
    labels: NDArray[np.int64]  # (B, T): the target, padded with IGNORED
    target_lengths: NDArray[np.int64]  # (B,)

    @property
    def source_mask(self) -> NDArray[np.bool_] | None:
        """The positions (B, S) of `source` that are not padded, or None if no position is padded."""
        width = self.source.shape[1]
        if (self.source_lengths == width).all():
            return None
        return np.arange(width) < self.source_lengths[:, None]

    @property
    def tokens(self) -> int:
        """The number of tokens to predict."""
        return int(self.target_lengths.sum())


class PairBatches:
    """The batches of all epochs of a part. The order of the last epoch is kept in memory."""

    def __init__(self, tokens: PairTokens, *, batch_tokens: int, seed: int, start: int, pad: int) -> None:
        """Plans the batches of an epoch.

        Args:
            tokens: the part.
            batch_tokens: the largest number of padded tokens of a batch: rows x (longest source + longest target).
            seed: decides the order of the pairs in every epoch.
            start: the id that a decoder reads first.
            pad: the id of the padding token.

        Raises BadInput if there are no pairs, or if a single pair has more than `batch_tokens` tokens.
        """
        if not len(tokens):
            raise BadInput("There are no pairs to make batches of.", "Give more pairs.")
        self._tokens, self._seed, self._start, self._pad = tokens, seed, start, pad
        source, target = tokens.source.lengths, tokens.target.lengths
        largest = int((source + target).max())
        if largest > batch_tokens:
            raise BadInput.naming(
                lambda named: (
                    f"A pair has {largest:,} tokens, more than the {batch_tokens:,} tokens of a batch.",
                    f"Set a smaller {named('context')}, or larger batches.",
                )
            )
        # Ranks pairs by source, descending; then by target, ascending for even lengths of the source.
        widest = int(target.max()) + 1
        within = np.where(source % 2, widest - 1 - target, target)
        self._key = (source.max() - source) * widest + within
        order = np.argsort(self._key, kind="stable")
        self._cuts = _cuts(source[order], target[order], batch_tokens)
        self._epoch, self._rows, self._order = -1, order, np.arange(len(self))

    def __len__(self) -> int:
        """Returns the number of batches of an epoch, which is the same for every epoch."""
        return len(self._cuts) - 1

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> PairBatch:
        """Returns the batch of a training step.

        If a step is shared by `ranks` processes, process number `rank` takes its own batch of the epoch.
        """
        epoch, index = divmod(step * ranks + rank, len(self))
        if epoch != self._epoch:
            self._shuffle(epoch)
        return self._made(self._rows, int(self._order[index]))

    def in_order(self) -> Iterator[PairBatch]:
        """Yields the batches of one epoch by length, for an evaluation. The batches do not depend on the seed."""
        rows = np.argsort(self._key, kind="stable")
        return (self._made(rows, index) for index in range(len(self)))

    def _shuffle(self, epoch: int) -> None:
        """Shuffles the pairs of equal lengths, and the batches, for an epoch."""
        generator = np.random.default_rng((self._seed, epoch))
        shuffled = generator.permutation(len(self._key))
        self._rows = shuffled[np.argsort(self._key[shuffled], kind="stable")]
        self._order = generator.permutation(len(self))
        self._epoch = epoch

    def _made(self, rows: NDArray[np.int64], index: int) -> PairBatch:
        rows = rows[self._cuts[index] : self._cuts[index + 1]]
        source, source_lengths = _padded(self._tokens.source, rows, self._pad)
        labels, target_lengths = _padded(self._tokens.target, rows, IGNORED)
        inputs = np.empty_like(labels)
        inputs[:, 0] = self._start
        inputs[:, 1:] = np.where(labels[:, 1:] == IGNORED, self._pad, labels[:, :-1])
        return PairBatch(rows, source, source_lengths, inputs, labels, target_lengths)


def _cuts(source: NDArray[np.int64], target: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Returns where batches begin, and the number of pairs: batch i has the pairs from cuts[i] to cuts[i + 1].

    `source` and `target` are the lengths of the pairs (N,) in the order of an epoch.
    """
    cuts = [0]
    longest = widest = 0  # the longest source and the longest target of the batch
    changes = np.flatnonzero(np.diff(source, prepend=-1) | np.diff(target, prepend=-1))
    for at, end in zip(changes.tolist(), [*changes[1:].tolist(), len(source)], strict=True):  # pairs of equal lengths
        s, t = int(source[at]), int(target[at])
        if at > cuts[-1] and s != source[at - 1] and (at - cuts[-1]) * (longest + widest) >= _FULL * most:
            cuts.append(at)
        while at < end:
            longest, widest = (s, t) if at == cuts[-1] else (longest, max(widest, t))
            last = cuts[-1] + most // (longest + widest)
            if last <= at:
                cuts.append(at)
            at = max(at, min(last, end))
    middle = (cuts[-2] + len(source)) // 2 if len(cuts) > 1 else 0
    if (len(source) - middle) * int(source[middle] + target[middle:].max()) <= most and middle < cuts[-1]:
        cuts[-1] = middle  # the last two batches get equal numbers of pairs
    return np.array([*cuts, len(source)], np.int64)


def _padded(lists: IdLists, rows: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the ids of some texts (B, T), padded on the right, and their lengths (B,)."""
    lengths = lists.lengths[rows]
    columns = np.arange(int(lengths.max()))
    at = np.minimum(lists.starts[rows][:, None] + columns, len(lists.ids) - 1)
    return np.where(columns < lengths[:, None], lists.ids[at].astype(np.int64), pad), lengths
