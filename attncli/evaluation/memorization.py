"""Measures how much of a generated text was copied from the training text: the longest common stretch of tokens, and
the share of 8-token windows that do not occur in the training text.

Each distinct stretch of 1, 2, 4, 8, … tokens of the sample gets a number, which is computed from the numbers of its two
halves (Karp, Miller and Rosenberg, 1972). Equal numbers mean equal stretches: nothing is hashed, so the result is
exact. The training text is read in blocks, so memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attncli.text.ids import TokenIds
from attncli.text.tokenizer import Tokenizer

Ids = NDArray[np.integer[Any]]
Ints = NDArray[np.int64]

WINDOW = 8  # tokens
_WINDOW_LEVEL = 3  # 2 ** 3 tokens
_BLOCK = 1 << 20  # tokens of training text read at once
_ABSENT = -1


@dataclass(frozen=True)
class Overlap:
    """How much of a sample occurs in the training text, in tokens."""

    tokens: int  # the length of the sample
    start: int  # the index in the sample at which the longest copied stretch begins
    length: int  # the length of the longest copied stretch
    windows: int  # the number of windows of WINDOW tokens in the sample, one at each position
    new: int  # the number of windows that do not occur in the training text

    @property
    def new_share(self) -> float | None:
        """The share of windows that do not occur in the training text; None if the sample is shorter than a window."""
        return self.new / self.windows if self.windows else None


@dataclass(frozen=True)
class Memorization:
    """The overlap of a sample with the training text, and its longest copied stretch as text."""

    sample: Overlap
    longest: str
    unseen_new_share: float | None = None  # the share of new windows in real text that the model was not trained on


def measure_memorization(
    sample: Ids, train: TokenIds, tokenizer: Tokenizer, unseen: Ids | None = None, block: int = _BLOCK
) -> Memorization:
    """Measures how much of a sample of generated ids, without its prompt, occurs in the training ids.

    For comparison, it also measures which share of the windows of `unseen` is new. `unseen` is real text that the model
    was not trained on; a few thousand ids are enough. Nearly all of the time is spent on reading the training ids
    twice.
    """
    found = measure_overlap(sample, train, block)
    longest = tokenizer.decode(np.asarray(sample)[found.start : found.start + found.length].tolist())
    share = None if unseen is None else measure_overlap(unseen, train, block).new_share
    return Memorization(found, longest, share)


def measure_overlap(sample: Ids, train: TokenIds, block: int = _BLOCK) -> Overlap:
    """Returns how much of a sample (N,) occurs in the training ids, which are read `block` ids at a time."""
    if not len(sample):
        return Overlap(0, 0, 0, 0, 0)
    names = _Names(np.asarray(sample, np.int64))
    windows = max(names.length - WINDOW + 1, 0)
    seen = np.zeros(names.distinct(_WINDOW_LEVEL) if windows else 0, np.bool_)
    start = longest = 0
    step = max(block, names.length)
    for begin in range(0, len(train), step):
        # A stretch that begins in this block may end in the next block.
        last = None
        for last in _matches(names, np.asarray(train[begin : begin + step + names.length - 1])):
            if last.number == _WINDOW_LEVEL:
                seen[last.names] = True
        if last is not None:
            start, longest = _longest(names, last, start, longest)
    new = int(np.count_nonzero(~seen[names.of_sample(_WINDOW_LEVEL)])) if windows else 0
    return Overlap(names.length, start, longest, windows, new)


class _Names:
    """Names the sample's stretches of 2^level tokens. A name is a number from 0; equal stretches have equal names."""

    def __init__(self, sample: Ids) -> None:
        self.length = len(sample)
        self._tokens, first = np.unique(sample, return_inverse=True)
        self._of_sample: list[Ints] = [first.astype(np.int64)]
        self._pairs: list[Ints] = []  # per level from 1: the sorted pairs of the halves' names, each as one number
        while 2 ** len(self._of_sample) <= self.length:
            pairs, names = np.unique(self.pair(len(self._of_sample) - 1, *self._halves()), return_inverse=True)
            self._pairs.append(pairs)
            self._of_sample.append(names.astype(np.int64))

    def _halves(self) -> tuple[Ints, Ints]:
        names = self._of_sample[-1]
        half = 2 ** (len(self._of_sample) - 1)
        return names[:-half], names[half:]

    @property
    def levels(self) -> int:
        """The number of levels: the longest named stretches have 2^(levels - 1) tokens."""
        return len(self._of_sample)

    def of_sample(self, level: int) -> Ints:
        """Returns, for each position of the sample, the name of the stretch of this level that begins there."""
        return self._of_sample[level]

    def distinct(self, level: int) -> int:
        """Returns the number of distinct names on a level."""
        return len(self._tokens) if level == 0 else len(self._pairs[level - 1])

    def pair(self, level: int, first: Ints, second: Ints) -> Ints:
        """Encodes each pair of names of a level as one number. Different pairs have different numbers."""
        return np.asarray(first * self.distinct(level) + second)

    def of_tokens(self, ids: Ids) -> Ints:
        """Returns the names of single tokens; _ABSENT for tokens that do not occur in the sample."""
        return _find(self._tokens, ids)

    def of_pairs(self, level: int, pairs: Ints) -> Ints:
        """Returns the names of stretches of this level; _ABSENT for a stretch that does not occur in the sample.

        A stretch is given as the pair of its halves' names, encoded by `pair`.
        """
        return _find(self._pairs[level - 1], pairs)


def _find(known: Ids, wanted: Ids) -> Ints:
    """Returns the index of each wanted value in the sorted array `known`, or _ABSENT for a value that `known` lacks."""
    if not len(known):
        return np.full(len(wanted), _ABSENT, np.int64)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, places, _ABSENT)


@dataclass(frozen=True)
class _Level:
    """The stretches of one length, 2^number tokens, that occur both in a block of training ids and in the sample."""

    number: int
    places: Ints  # the index in the block at which each stretch begins, ascending; at least one
    names: Ints  # the name of each stretch


def _matches(names: _Names, block: Ids) -> Iterator[_Level]:
    """Yields the stretches that a block shares with the sample, level by level, up to the last level with a match."""
    number, places, found = 0, np.arange(len(block)), names.of_tokens(np.arange(int(block.max()) + 1))[block]
    while (known := found != _ABSENT).any():
        level = _Level(number, places[known], found[known])
        yield level
        number += 1
        if number == names.levels:
            return
        places, pairs = _pairs(names, level, 2**level.number)
        found = names.of_pairs(number, pairs)


def _pairs(names: _Names, level: _Level, apart: int) -> tuple[Ints, Ints]:
    """Returns the places and the names of all pairs of stretches of a level that begin `apart` tokens apart."""
    second = _find(level.places, level.places + apart)
    both = second != _ABSENT
    return level.places[both], names.pair(level.number, level.names[both], level.names[second[both]])


def _longest(names: _Names, level: _Level, start: int, longest: int) -> tuple[int, int]:
    """Returns the start (in the sample) and the length of the longest stretch in this block and the earlier blocks.

    `level` is the last level of this block. `start` and `longest` are the result for the earlier blocks.
    """
    whole = 2**level.number
    if whole > longest:
        start, longest = int(np.flatnonzero(names.of_sample(level.number) == level.names[0])[0]), whole
    most = min(2 * whole - 1, names.length)
    # A block that shares a stretch also shares its parts, so the length is found by bisection. Most blocks share no
    # stretch longer than `longest`, so the length `longest + 1` is tried first.
    trying = longest + 1
    while trying <= most:
        at = _shared(names, level, trying)
        if at is None:
            most = trying - 1
        else:
            start, longest = at, trying
        trying = (longest + most + 1) // 2 if most > longest else most + 1
    return start, longest


def _shared(names: _Names, level: _Level, length: int) -> int | None:
    """Returns the start (in the sample) of a stretch of `length` tokens that also occurs in the block, or None.

    The stretch is found as two overlapping stretches of 2^level.number tokens.
    """
    apart = length - 2**level.number
    _, found = _pairs(names, level, apart)
    own = names.of_sample(level.number)
    wanted = names.pair(level.number, own[: len(own) - apart], own[apart:])
    shared = np.isin(wanted, found)
    return int(np.argmax(shared)) if shared.any() else None
