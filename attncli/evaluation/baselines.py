"""Baselines beside a model's score: what gzip, xz and a 5-gram model reach on the same text, in bits per byte.

To add a baseline, write a function `Material -> bits per byte` and one entry of BASELINES: the screens, the JSON and
the comparison in words follow from the entry. How much of a large text is worth measuring is decided in `excerpt`.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attncli.evaluation.excerpt import Counted, Excerpt
from attncli.evaluation.ngram import NgramModel

_LARGEST_DICTIONARY = 64 << 20  # of xz -9
_SMALLEST_DICTIONARY = 4096


@dataclass(frozen=True)
class Material:
    """What a baseline is measured on: the text to score, and the text before it."""

    scored: Excerpt
    given: bytes  # for compressors; empty for none
    counted: Counted | None  # for models that count tokens: the same text, or more of it
    vocab_size: int


@dataclass(frozen=True)
class Baseline:
    """A way to predict a text without a neural network."""

    key: str  # in JSON, before _bits_per_byte
    label: str  # in the table
    name: str  # where baselines are listed in a sentence
    counts_tokens: bool  # reads the counted tokens of the text before; otherwise it is a compressor that reads bytes
    measure: Callable[[Material], float | None]  # bits per byte, or None where there is nothing to measure it with


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of a text by each baseline, and how much of which text they had, in bytes."""

    figures: dict[str, float | None]  # by the baseline's key; None where there was no text before
    given: int  # at the end of the text before, that the compressors had; 0 for none
    given_of: int
    scored: int
    scored_of: int
    counted: int  # at the end of the text before, that the models of tokens counted

    def measured(self) -> list[tuple[Baseline, float]]:
        """The baselines that have a figure, with it, in the order of BASELINES."""
        found = ((baseline, self.figures.get(baseline.key)) for baseline in BASELINES)
        return [(baseline, bits) for baseline, bits in found if bits is not None]


def measure(
    scored: Excerpt, vocab_size: int, given: Excerpt | None = None, counted: Counted | None = None
) -> Baselines:
    """Scores a text of at least two tokens by each baseline, given the text before it if there is one.

    `counted` is for the models that count tokens, by default the same text as `given`.
    """
    if counted is None and given is not None:
        counted = Counted(given.ids, len(given.data))
    material = Material(scored, given.data if given is not None else b"", counted, vocab_size)
    with ThreadPoolExecutor(len(BASELINES)) as pool:  # the compressors let other threads run
        figures = list(pool.map(lambda baseline: baseline.measure(material), BASELINES))
    return Baselines(
        figures={baseline.key: bits for baseline, bits in zip(BASELINES, figures, strict=True)},
        given=len(material.given),
        given_of=given.of if given is not None else 0,
        scored=len(scored.data),
        scored_of=scored.of,
        counted=counted.bytes if counted is not None else 0,
    )


def gzip_bits(material: Material) -> float:
    """What the text adds to the size of the text before it under `gzip -9`, which remembers the last 32 KiB."""
    return _added_bits(material, gzip_size)


def xz_bits(material: Material) -> float:
    """What the text adds to the size of the text before it under `xz -9`, which remembers the last 64 MiB."""
    return _added_bits(material, xz_size)


def ngram_bits(material: Material) -> float | None:
    """The summed log-probability of every token but the first, by their bytes, under the counts of the text before."""
    scored, counted = material.scored, material.counted
    if counted is None or not len(counted.ids):
        return None
    nats = -float(NgramModel(counted.ids, material.vocab_size).log_probabilities(scored.ids).sum())
    return nats / math.log(2) / max(len(scored.data) - scored.first, 1)


BASELINES = (
    Baseline("gzip", "gzip -9", "gzip", False, gzip_bits),
    Baseline("xz", "xz -9", "xz", False, xz_bits),
    Baseline("ngram", "5-gram", "5-gram", True, ngram_bits),
)


def _added_bits(material: Material, size: Callable[[bytes], int]) -> float:
    """C(given + scored) - C(given), in bits per byte of the scored text, which the compressor goes on learning from."""
    data = material.scored.data
    return 8 * max(size(material.given + data) - size(material.given), 0) / len(data)


def gzip_size(data: bytes) -> int:
    """Bytes of the data as `gzip -9` compresses it, without the 18 bytes of the container; 0 of no data."""
    return len(zlib.compress(data, 9, -zlib.MAX_WBITS)) if data else 0


def xz_size(data: bytes) -> int:
    """Bytes of the data as `xz -9` compresses it, without the container, below 100 bytes; 0 of no data.

    The dictionary is made no larger than the data, since the rest of it would stay empty.
    """
    if not data:
        return 0
    dictionary = min(max(1 << (len(data) - 1).bit_length(), _SMALLEST_DICTIONARY), _LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
