"""What gzip, xz and a 5-gram model make of a text: the yardsticks beside a model's score.

All in bits per byte of the text scored. How much of a large text is worth measuring is for `excerpt` to say.
"""

from __future__ import annotations

import lzma
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attncli.evaluation.excerpt import Counted, Excerpt
from attncli.evaluation.ngram import NgramModel

_LARGEST_DICTIONARY = 64 << 20  # of xz -9
_SMALLEST_DICTIONARY = 4096


@dataclass(frozen=True)
class Yardsticks:
    """Bits per byte of a text, given another one. `ngram` is None when there was no other text to count."""

    gzip: float
    xz: float
    ngram: float | None
    given: int  # bytes at the end of the other text that gzip and xz had; 0 for none
    given_of: int
    scored: int  # bytes of the text that were scored
    scored_of: int
    counted: int  # bytes at the end of the other text that the 5-gram model had


def measure(
    scored: Excerpt, vocab_size: int, given: Excerpt | None = None, counted: Counted | None = None
) -> Yardsticks:
    """Scores a text of at least two tokens by each yardstick.

    - gzip -9 and xz -9: what the text adds to the compressed size of the given text before it, so C(given + scored) -
      C(given). Both go on learning from the scored text itself. gzip remembers the last 32 KiB, xz the last 64 MiB.
      Without a given text it is the compressed size of the text alone. The container's bytes never count.
    - 5-gram: minus the summed log-probability of every token but the first, by their bytes, as a model is scored, by
      counts in `counted` alone: the given text, or more of the same.
    """
    before = given.data if given is not None else b""
    whole = before + scored.data
    with ThreadPoolExecutor(2) as pool:  # the compressors let other threads run
        sizes = [pool.submit(size, data) for size in (xz_size, gzip_size) for data in (whole, before)]
        ngram = None
        if counted is None and given is not None:
            counted = Counted(given.ids, len(given.data))
        if counted is not None and len(counted.ids):
            nats = -float(NgramModel(counted.ids, vocab_size).log_probabilities(scored.ids).sum())
            ngram = nats / math.log(2) / max(len(scored.data) - scored.first, 1)
        xz, xz_before, gzip, gzip_before = (size.result() for size in sizes)
    return Yardsticks(
        gzip=8 * max(gzip - gzip_before, 0) / len(scored.data),
        xz=8 * max(xz - xz_before, 0) / len(scored.data),
        ngram=ngram,
        given=len(before),
        given_of=given.of if given is not None else 0,
        scored=len(scored.data),
        scored_of=scored.of,
        counted=counted.bytes if counted is not None else 0,
    )


def gzip_size(data: bytes) -> int:
    """Bytes of the data as `gzip -9` compresses it, less the container, which has 18; of no data 0."""
    return len(zlib.compress(data, 9, -zlib.MAX_WBITS)) if data else 0


def xz_size(data: bytes) -> int:
    """Bytes of the data as `xz -9` compresses it, less the container, which has fewer than 100; of no data 0.

    The dictionary is made no larger than the data, since the rest of it would stay empty.
    """
    if not data:
        return 0
    dictionary = min(max(1 << (len(data) - 1).bit_length(), _SMALLEST_DICTIONARY), _LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))
