"""Baselines for a model's score: the bits per byte that gzip, xz and a 5-gram model reach on the same text.

To add a baseline, write a function `Material -> bits per byte` and one entry of BASELINES: the screens, the JSON and
the sentence that compares them follow from the entry. `excerpt` decides how much of a large text the baselines read.
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

_LARGEST_DICTIONARY = 64 << 20  # bytes; the dictionary of xz -9
_SMALLEST_DICTIONARY = 4096


@dataclass(frozen=True)
class Material:
    """The input of a baseline: a text to score, and an earlier text to learn from, such as the training text."""

    scored: Excerpt
    given: bytes  # the earlier text, for compressors; empty if there is none
    counted: Counted | None  # the tokens of the earlier text, for n-gram models; they may begin before `given` begins
    vocab_size: int


@dataclass(frozen=True)
class Baseline:
    """A method to predict a text without a neural network."""

    key: str  # its key in JSON without the suffix _bits_per_byte
    label: str  # its label in the table
    name: str  # its name in a sentence that lists baselines
    counts_tokens: bool  # true for an n-gram model, which counts tokens; false for a compressor, which reads bytes
    measure: Callable[[Material], float | None]  # bits per byte; None if an earlier text is needed and missing


@dataclass(frozen=True)
class Baselines:
    """The bits per byte of a text under each baseline, and how many bytes of each text the baselines read."""

    figures: dict[str, float | None]  # by the baseline's key; None if an earlier text is needed and missing
    given: int  # bytes at the end of the earlier text that the compressors read; 0 without an earlier text
    given_of: int  # bytes of the whole earlier text
    scored: int  # bytes of the scored excerpt
    scored_of: int  # bytes of the whole text to score
    counted: int  # bytes at the end of the earlier text whose tokens the n-gram model counted

    def measured(self) -> list[tuple[Baseline, float]]:
        """Returns the baselines that were measured, each with its bits per byte, in the order of BASELINES."""
        found = ((baseline, self.figures.get(baseline.key)) for baseline in BASELINES)
        return [(baseline, bits) for baseline, bits in found if bits is not None]


def measure(
    scored: Excerpt, vocab_size: int, given: Excerpt | None = None, counted: Counted | None = None
) -> Baselines:
    """Returns the bits per byte of a text of at least two tokens under each baseline.

    Each baseline first reads the earlier text, if there is one: the compressors read `given`, and the n-gram model
    counts the tokens of `counted`, by default the tokens of `given`.
    """
    if counted is None and given is not None:
        counted = Counted(given.ids, len(given.data))
    material = Material(scored, given.data if given is not None else b"", counted, vocab_size)
    with ThreadPoolExecutor(len(BASELINES)) as pool:  # the compressors release the GIL
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
    """Returns the bits per byte that the scored text adds to a file of `gzip -9`, whose window is 32 KiB."""
    return _added_bits(material, gzip_size)


def xz_bits(material: Material) -> float:
    """Returns the bits per byte that the scored text adds to a file of `xz -9`, whose dictionary is 64 MiB."""
    return _added_bits(material, xz_size)


def ngram_bits(material: Material) -> float | None:
    """Returns the bits per byte of the scored text under an n-gram model of the earlier text.

    The first token is not scored. Returns None if there is no earlier text.
    """
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
    """Returns the bits per byte that the scored text adds to the compressed size: C(given + scored) - C(given).

    The compressor also learns from the part of the scored text that it has already read.
    """
    data = material.scored.data
    return 8 * max(size(material.given + data) - size(material.given), 0) / len(data)


def gzip_size(data: bytes) -> int:
    """Returns the size in bytes of data compressed by `gzip -9`, without the container of 18 bytes; 0 for no data."""
    return len(zlib.compress(data, 9, -zlib.MAX_WBITS)) if data else 0


def xz_size(data: bytes) -> int:
    """Returns the size in bytes of data compressed by `xz -9`, without the container of under 100 bytes; 0 for no data.

    The dictionary is about as large as the data, at most 64 MiB, because a larger one would stay partly empty.
    """
    if not data:
        return 0
    dictionary = min(max(1 << (len(data) - 1).bit_length(), _SMALLEST_DICTIONARY), _LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
