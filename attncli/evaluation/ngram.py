"""An n-gram model of token ids, with interpolated Kneser-Ney smoothing.

Each order has three discounts (Chen and Goodman, 1998, section 3). Counts are NumPy arrays. Nothing is hashed: the key
of an n-gram combines the rank of its first n - 1 tokens with its last token, so different n-grams have different keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDER = 5
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # KenLM's, for a text with too few rare n-grams to estimate discounts
_MISSING = -1


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length n.

    The context of an n-gram is its first n - 1 tokens. It is stored as their rank among the (n - 1)-grams.
    """

    keys: Ints  # (n-grams,), sorted: context * vocabulary + last token
    counts: Ints  # (n-grams,)
    discounts: Floats  # (4,), the discounts of the counts 0, 1, 2, and 3 or more
    totals: Ints  # (contexts,), the total count of each context's n-grams
    left: Floats  # (contexts,), the total discount of each context's n-grams, which is given to the shorter context


class NgramModel:
    """Predicts the next id from the preceding ids, at most four of them."""

    def __init__(self, ids: Ids, vocab_size: int, order: int = ORDER) -> None:
        """Counts `ids` (N,), N at least 1, each below `vocab_size`."""
        self.vocab_size = vocab_size
        ranks = [np.asarray(ids, np.int64)]  # per length: the rank of each n-gram of the text, in text order
        keys, first_seen, occurrences = [np.arange(vocab_size)], [], []
        for length in range(2, min(order, len(ids)) + 1):
            found = _ranked(ranks[-1][:-1] * vocab_size + ranks[0][length - 1 :])
            ranks.append(found.ranks)
            keys.append(found.keys)
            first_seen.append(found.at)
            occurrences.append(found.counts)
        self._orders = []
        for index, known in enumerate(keys):
            if index + 1 < len(keys):  # Kneser-Ney counts: how many different tokens precede each n-gram
                counts = np.bincount(ranks[index][first_seen[index] + 1], minlength=len(known))
            else:
                counts = occurrences[-1] if occurrences else np.bincount(ranks[0], minlength=vocab_size)
            contexts = 1 if index == 0 else len(keys[index - 1])
            self._orders.append(_order(known, counts.astype(np.int64), contexts, vocab_size))

    def log_probabilities(self, ids: Ids) -> Floats:
        """Returns the log-probability, in nats, of every id but the first, given the earlier ids: (N,) -> (N - 1,)."""
        tokens: Ints = np.asarray(ids, np.int64)
        probabilities = np.full(max(len(tokens) - 1, 0), 1 / self.vocab_size)
        # contexts[i] is the rank of the n-gram before token i + 1. The n-gram is empty at order 1 and one token longer
        # with each order.
        contexts: Ints = np.zeros(len(probabilities), np.int64)
        for index, order in enumerate(self._orders):
            places, counts = _look_up(order, contexts, tokens[1:], self.vocab_size)
            usable = (contexts != _MISSING) & (order.totals[contexts] > 0)
            kept = counts - order.discounts[np.minimum(counts, 3)]
            mixed = (kept + order.left[contexts] * probabilities) / np.maximum(order.totals[contexts], 1)
            probabilities = np.where(usable, mixed, probabilities)
            # An n-gram that was found is the context of the next order, one position later. Position 0 has none.
            contexts = tokens[:-1] if index == 0 else np.concatenate(([_MISSING], places[:-1]))
        return np.asarray(np.log(probabilities))


@dataclass(frozen=True)
class _Ranked:
    keys: Ints  # the distinct values, sorted
    counts: Ints
    at: Ints  # the position of one occurrence of each key
    ranks: Ints  # (N,), the index in `keys` of each value


def _ranked(values: Ints) -> _Ranked:
    """Returns the distinct values among `values` (N,), their counts, a position of each, and the rank of every value.

    N is at least 1.
    """
    order = np.argsort(values)
    ordered = values[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = np.flatnonzero(new)
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.cumsum(new) - 1
    return _Ranked(ordered[starts], np.diff(np.append(starts, len(values))), order[starts], ranks)


def _order(keys: Ints, counts: Ints, contexts: int, vocab_size: int) -> _Order:
    discounts = _discounts(counts)
    context = keys // vocab_size
    totals = np.bincount(context, counts, minlength=contexts).astype(np.int64)
    left: Floats = np.bincount(context, discounts[np.minimum(counts, 3)], minlength=contexts).astype(np.float64)
    return _Order(keys, counts, discounts, totals, left)


def _discounts(counts: Ints) -> Floats:
    """Returns the discounts of n-grams with the counts 0, 1, 2, and 3 or more (Chen and Goodman, 1998, equation 26)."""
    once, twice, thrice, four = (int(np.count_nonzero(counts == number)) for number in (1, 2, 3, 4))
    if not (once and twice and thrice and four):
        return np.array([0, *_FALLBACK_DISCOUNTS])
    share = once / (once + 2 * twice)
    found = (0.0, 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice)
    if min(found[1:]) <= 0:  # without discounts, unseen n-grams have no probability
        return np.array([0, *_FALLBACK_DISCOUNTS])
    return np.minimum(found, (0, 1, 2, 3))  # a discount is at most its count


def _look_up(order: _Order, contexts: Ints, words: Ints, vocab_size: int) -> tuple[Ints, Ints]:
    """Returns the rank and the count of each n-gram, given as its context and its last token.

    The rank is _MISSING and the count is 0 for an n-gram that was not counted.
    """
    wanted = np.where(contexts == _MISSING, _MISSING, contexts * vocab_size + words)
    places = np.minimum(np.searchsorted(order.keys, wanted), len(order.keys) - 1)
    seen = order.keys[places] == wanted
    return np.where(seen, places, _MISSING), np.where(seen, order.counts[places], 0)
