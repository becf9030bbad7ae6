"""Texts as tokens held in memory, and the part of a large one that a yardstick is measured on.

For scoring, where nothing is learned and nothing kept: `corpus` is what prepares text to train on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from attncli.text.corpus import Tokens, split_by_position
from attncli.text.tokenizer import Tokenizer, stretches

# Bytes of training and of scored text that a yardstick is given when nothing else is said: about a second of one core.
TRAIN_BYTES, SCORED_BYTES = 1 << 20, 200_000
_ENCODE_AT_ONCE = 4  # stretches; the library keeps a hundred bytes or so for each token


@dataclass(frozen=True)
class Excerpt:
    """Some of a text, twice: its bytes, for the compressors, and its ids, for the model of tokens."""

    data: bytes
    ids: NDArray[np.unsignedinteger]
    of: int  # the bytes of the whole text


def tokens_of(texts: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    """The tokens of some documents. As in training, a token that ends a document follows each where there are several.

    Of a long text the ids alone are held, two or four bytes each.
    """
    kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    parts: list[NDArray[np.unsignedinteger]] = []
    for text in texts:
        parts += (np.asarray(ids, kind) for ids in _encoded(text, tokenizer))
        if len(texts) > 1 and tokenizer.end_of_text is not None:
            parts.append(np.asarray([tokenizer.end_of_text], kind))
    return Tokens(np.concatenate([np.empty(0, kind), *parts]), sum(map(len, texts)), _bytes(texts), len(texts))


def _encoded(text: str, tokenizer: Tokenizer) -> Iterator[list[int]]:
    pending = stretches(text)
    while some := list(islice(pending, _ENCODE_AT_ONCE)):
        yield from tokenizer.encode_batch(some)


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(stretch.encode()) for text in texts for stretch in stretches(text))


def first_of(tokens: Tokens, tokenizer: Tokenizer, most: int = SCORED_BYTES) -> Excerpt:
    """The first `most` bytes of a text, up to a token; all of it when it is not longer."""
    return _excerpt(tokens, tokenizer, slice(0, _tokens_in(tokens, most)))


def last_of(tokens: Tokens, tokenizer: Tokenizer, most: int = TRAIN_BYTES) -> Excerpt:
    """The last `most` bytes of a text, from a token on; all of it when it is not longer."""
    return _excerpt(tokens, tokenizer, slice(len(tokens) - _tokens_in(tokens, most), None))


def end_of(texts: Sequence[str], tokenizer: Tokenizer, most: int = TRAIN_BYTES) -> Excerpt:
    """The last `most` bytes of some documents, of which no more than that is tokenized."""
    characters = sum(map(len, texts))
    if characters > most:  # and so at least as many bytes
        kept: Sequence[str] = split_by_position(texts, most / characters)[1]
    else:
        kept = texts
    excerpt = last_of(tokens_of(kept, tokenizer), tokenizer, most)
    return replace(excerpt, of=_bytes(texts))


def _tokens_in(tokens: Tokens, most: int) -> int:
    return len(tokens) if tokens.bytes <= most else max(len(tokens) * most // tokens.bytes, min(len(tokens), 2))


def _excerpt(tokens: Tokens, tokenizer: Tokenizer, part: slice) -> Excerpt:
    """Tokens that end a document are not text: they are left out of the bytes."""
    ids = np.asarray(tokens.ids[part])
    spelled = ids if tokenizer.end_of_text is None else ids[ids != tokenizer.end_of_text]
    return Excerpt(tokenizer.decode(spelled.tolist()).encode(), ids, tokens.bytes)
