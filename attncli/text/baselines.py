"""What gzip, xz and a 5-gram model make of a text: the yardsticks beside a model's score.

All in bits per byte of the text scored. Owns what is measured and how much of a large text; draws nothing.
"""

from __future__ import annotations

import lzma
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attncli.text.corpus import Tokens
from attncli.text.ngram import NgramModel
from attncli.text.tokenizer import Tokenizer

# Bytes of training and of scored text used when nothing else is said: about a second of one core.
TRAIN_BYTES, SCORED_BYTES = 1 << 20, 200_000
_LARGEST_DICTIONARY = 64 << 20  # of xz -9
_SMALLEST_DICTIONARY = 4096


@dataclass(frozen=True)
class Excerpt:
    """Some of a text, twice: its bytes, for the compressors, and its ids, for the model of tokens."""

    data: bytes
    ids: NDArray[np.unsignedinteger]
    of: int  # the bytes of the whole text


@dataclass(frozen=True)
class Yardsticks:
    """Bits per byte of a text, given another one. `ngram` is None when there was no other text to count."""

    gzip: float
    xz: float
    ngram: float | None
    given: int  # bytes of the other text that were used; 0 for none
    given_of: int
    scored: int  # bytes of the text that were scored
    scored_of: int


def first_of(tokens: Tokens, tokenizer: Tokenizer, most: int = SCORED_BYTES) -> Excerpt:
    """The first `most` bytes of a text, up to a token; all of it when it is not longer."""
    return _excerpt(tokens, tokenizer, slice(0, _tokens_in(tokens, most)))


def last_of(tokens: Tokens, tokenizer: Tokenizer, most: int = TRAIN_BYTES) -> Excerpt:
    """The last `most` bytes of a text, from a token on; all of it when it is not longer."""
    return _excerpt(tokens, tokenizer, slice(len(tokens) - _tokens_in(tokens, most), None))


def _tokens_in(tokens: Tokens, most: int) -> int:
    return len(tokens) if tokens.bytes <= most else max(len(tokens) * most // tokens.bytes, min(len(tokens), 2))


def _excerpt(tokens: Tokens, tokenizer: Tokenizer, part: slice) -> Excerpt:
    """Tokens that end a document are not text: they are left out of the bytes."""
    ids = np.asarray(tokens.ids[part])
    spelled = ids if tokenizer.end_of_text is None else ids[ids != tokenizer.end_of_text]
    return Excerpt(tokenizer.decode(spelled.tolist()).encode(), ids, tokens.bytes)


def measure(scored: Excerpt, vocab_size: int, given: Excerpt | None = None) -> Yardsticks:
    """Scores a text of at least two tokens by each yardstick.

    - gzip -9 and xz -9: what the text adds to the compressed size of the given text before it, so C(given + scored) -
      C(given). Both go on learning from the scored text itself. gzip remembers the last 32 KiB, xz the last 64 MiB.
      Without a given text it is the compressed size less that of nothing, so that no file header counts.
    - 5-gram: minus the summed log-probability of every token but the first, as a model is scored, by counts in the
      given text alone.
    """
    before = given.data if given is not None else b""
    whole = before + scored.data
    with ThreadPoolExecutor(2) as pool:  # the compressors let other threads run
        sizes = [pool.submit(size, data) for size in (xz_size, gzip_size) for data in (whole, before)]
        ngram = None
        if given is not None and len(given.ids):
            nats = -float(NgramModel(given.ids, vocab_size).log_probabilities(scored.ids).sum())
            ngram = nats / math.log(2) / len(scored.data)
        xz, xz_before, gzip, gzip_before = (size.result() for size in sizes)
    return Yardsticks(
        gzip=8 * (gzip - gzip_before) / len(scored.data),
        xz=8 * (xz - xz_before) / len(scored.data),
        ngram=ngram,
        given=len(before),
        given_of=given.of if given is not None else 0,
        scored=len(scored.data),
        scored_of=scored.of,
    )


def gzip_size(data: bytes) -> int:
    """Bytes of the data as `gzip -9` compresses it, without the file's header of 18."""
    return len(zlib.compress(data, 9, -zlib.MAX_WBITS))


def xz_size(data: bytes) -> int:
    """Bytes of the data as `xz -9` compresses it. The dictionary is no larger than the data: it would stay empty."""
    dictionary = min(max(1 << (len(data) - 1).bit_length(), _SMALLEST_DICTIONARY), _LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return len(lzma.compress(data, filters=filters))
