"""Sentence pairs as NumPy arrays for word alignment: pairs of the same two lengths form a group.

Every pair of words that occurs in a sentence pair has one index, so that its counts are sums over an array. This module
does not know any model of alignment.

Shapes: N pairs of a group, S words of each source, T words of each target, E different pairs of a source word and a
target word that occur in the same sentence pair, C cells: such pairs in all sentence pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]
WordPair = tuple[Sequence[str], Sequence[str]]  # the words of a source and of its target


@dataclass(frozen=True)
class Group:
    """The sentence pairs that have the same two lengths."""

    numbers: Ids  # (N,), the index of each pair in the corpus
    sources: Ids  # (N, S), word ids
    targets: Ids  # (N, T)
    cells: Ids  # (N, S, T), the index of each pair of words among the E pairs
    at: slice  # the range of `cells` in `Bitext.cells`

    def flipped(self) -> Group:
        """Returns the group with source and target exchanged."""
        return Group(self.numbers, self.targets, self.sources, self.cells.transpose(0, 2, 1), self.at)

    def first(self, most: int) -> Group:
        """Returns the group without the pairs whose index in the corpus is `most` or more."""
        kept = self.numbers < most
        if kept.all():
            return self
        return Group(self.numbers[kept], self.sources[kept], self.targets[kept], self.cells[kept], self.at)


class Bitext:
    """The words of a corpus of sentence pairs. Pairs with an empty sentence are in no group."""

    def __init__(self, pairs: Sequence[WordPair]) -> None:
        self.count = len(pairs)
        self.sources = _vocabulary(source for source, _ in pairs)
        self.targets = _vocabulary(target for _, target in pairs)
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, (source, target) in enumerate(pairs):
            if source and target:
                shapes.setdefault((len(source), len(target)), []).append(number)
        parts = [self._ids(pairs, numbers) for numbers in shapes.values()]
        keys = [(source[:, :, None] * len(self.targets) + target[:, None, :]).ravel() for source, target in parts]
        every = np.concatenate(keys) if keys else np.zeros(0, np.int64)
        self.keys: Ids  # (E,), sorted: source id * number of target words + target id
        self.keys, cells = np.unique(every, return_inverse=True)
        self.cells: Ids = cells.astype(np.int32)  # (C,)
        self.groups: list[Group] = []
        end = 0
        for (width, height), numbers, part in zip(shapes, shapes.values(), parts, strict=True):
            at = slice(end, end := end + len(numbers) * width * height)
            own = self.cells[at].reshape(len(numbers), width, height)
            self.groups.append(Group(np.array(numbers), *part, own, at))

    def owners(self) -> tuple[Ids, Ids]:
        """Returns the source word (E,) and the target word (E,) of each pair of words."""
        width = max(len(self.targets), 1)
        return self.keys // width, self.keys % width

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the sum of the values (C,) of all cells of each pair of words: (E,)."""
        return np.bincount(self.cells, values, len(self.keys)).astype(np.float64, copy=False)

    def _ids(self, pairs: Sequence[WordPair], numbers: Sequence[int]) -> tuple[Ids, Ids]:
        """Returns the word ids of the sources (N, S) and of the targets (N, T) of pairs of the same two lengths."""
        return (
            np.array([[self.sources[word] for word in pairs[number][0]] for number in numbers]),
            np.array([[self.targets[word] for word in pairs[number][1]] for number in numbers]),
        )


def lowered(words: Sequence[str]) -> list[str]:
    """Returns words in lower case."""
    return [word.lower() for word in words]


def _vocabulary(sentences: Iterable[Sequence[str]]) -> dict[str, int]:
    """Returns the id of every word."""
    return {word: i for i, word in enumerate(dict.fromkeys(word for sentence in sentences for word in sentence))}
