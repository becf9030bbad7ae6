"""A baseline for a translation: the target of the training source that is most like the source.

Sources are compared by their sets of character trigrams, in lower case: the similarity is Dice's coefficient, twice the
number of common trigrams, divided by the sum of the sizes of both sets. An index lists the sources that contain a
trigram, so each comparison reads only the sources that have a trigram in common. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST_CHARACTERS = 20_000_000  # the most characters of training sources to search, in about 3 s of one core
_CODE_BITS = 21  # the bits of a Unicode character; a trigram fits into 63 bits


def nearest_targets(sources: Sequence[str], training: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the target of the most similar training source for each source; of equally similar sources, the first.

    `training` contains at least one pair of a source and a target. If its sources have over MOST_CHARACTERS characters,
    only every second pair is searched, or every third pair, and so on.
    """
    step = 1 + sum(len(source) for source, _ in training) // MOST_CHARACTERS
    searched = training[::step]
    return [searched[at][1] for at in _nearest(sources, [source for source, _ in searched])]


def _nearest(sources: Sequence[str], known: Sequence[str]) -> Iterator[int]:
    """Yields the index in `known` of the text that is most similar to each source."""
    keys, texts = _trigrams(known)
    trigrams = _distinct(keys)
    # A posting is a number for a trigram and a text that contains it, sorted by the trigram, then by the text.
    postings = _distinct(np.searchsorted(trigrams, keys) * len(known) + texts)
    texts = (postings % len(known)).astype(np.int32)
    sizes = np.bincount(texts, minlength=len(known))
    starts = np.searchsorted(postings, np.arange(len(trigrams) + 1) * len(known))
    for source in sources:
        wanted = _distinct(_trigrams([source])[0])
        places = np.minimum(np.searchsorted(trigrams, wanted), len(trigrams) - 1)
        found = [texts[starts[at] : starts[at + 1]] for at in places[trigrams[places] == wanted].tolist()]
        common = np.bincount(np.concatenate(found), minlength=len(known)) if found else np.zeros(len(known))
        yield int(np.argmax(common / (len(wanted) + sizes)))


def _distinct(values: Ints) -> Ints:
    """Returns the different values, sorted. For millions of them, this is ten times as fast as np.unique."""
    ordered = np.sort(values)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


def _trigrams(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """Returns every trigram of the texts as a number, and the index of its text. Two spaces begin and end a text."""
    padded = [f"  {text.lower()}  " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    owners = np.repeat(np.arange(len(padded)), [len(text) for text in padded])
    keys = (codes[:-2] << 2 * _CODE_BITS) | (codes[1:-1] << _CODE_BITS) | codes[2:]
    inside = owners[:-2] == owners[2:]
    return keys[inside], owners[:-2][inside]
