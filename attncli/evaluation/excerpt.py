"""Takes excerpts of texts for the baselines, as bytes and as tokens.

The baselines read the end of an earlier text, such as the training text, if there is one. Then they score the beginning
of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attncli.text.documents import Documents
from attncli.text.parts import Part
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokens import Tokens, tokens_of

# The default numbers of bytes of earlier text and of scored text that the compressors read, in about one core second.
TRAIN_BYTES, SCORED_BYTES = 1 << 20, 200_000
COUNTED_TOKENS = 1_500_000  # the tokens of earlier text that the n-gram model counts, in about two seconds
_LEAST_CONTAINED = 200
_COUNTED_CHARACTERS = 5_000_000  # about COUNTED_TOKENS tokens


@dataclass(frozen=True)
class Excerpt:
    """An excerpt of a text in two forms: bytes for the compressors, token ids for the n-gram model."""

    data: bytes
    ids: NDArray[np.unsignedinteger]
    of: int  # the size of the whole text in bytes
    first: int = 0  # the size in bytes of the text's first token, which is not scored; 0 if the excerpt begins later


class Counted(NamedTuple):
    """The last tokens of a text, which an n-gram model counts, and their approximate size in bytes."""

    ids: NDArray[np.unsignedinteger]
    bytes: int


def counted_of(tokens: Tokens, most: int = COUNTED_TOKENS) -> Counted:
    """Returns the last `most` tokens of a text, or all tokens of a shorter text."""
    taken = min(most, len(tokens))
    return Counted(tokens.ids[len(tokens) - taken :], round(tokens.bytes * taken / max(len(tokens), 1)))


def first_of(tokens: Tokens, tokenizer: Tokenizer, most: int = SCORED_BYTES) -> Excerpt:
    """Returns an excerpt of whole tokens: about the first `most` bytes of a text, or all of a shorter text."""
    excerpt = _excerpt(tokens, tokenizer, slice(0, _tokens_in(tokens, most)))
    return replace(excerpt, first=tokens.lead.bytes)


def last_of(tokens: Tokens, tokenizer: Tokenizer, most: int = TRAIN_BYTES) -> Excerpt:
    """Returns an excerpt of whole tokens: about the last `most` bytes of a text, or all of a shorter text."""
    return _excerpt(tokens, tokenizer, slice(len(tokens) - _tokens_in(tokens, most), None))


def ends_of(
    part: Part, tokenizer: Tokenizer, most: int = TRAIN_BYTES, characters: int = _COUNTED_CHARACTERS
) -> tuple[Excerpt, Counted]:
    """Returns the end of a part of a corpus, such as the training part: for the compressors, and for the n-gram model.

    The compressors get an excerpt of about the last `most` bytes, the n-gram model the last COUNTED_TOKENS tokens. Only
    the last `characters` characters of the part are tokenized.
    """
    tokens = tokens_of(part.last(characters), tokenizer)
    excerpt = last_of(tokens, tokenizer, most)
    if part.characters > characters:
        excerpt = replace(excerpt, of=part.bytes)
    return excerpt, counted_of(tokens)


def contains_scored(before: Part, scored: Part) -> bool:
    """Whether the baselines already read what they score: the end of `before` contains the beginning of `scored`.

    False for a text of under _LEAST_CONTAINED characters, which other texts can contain by chance.
    """
    start, stop = scored.passages[0]
    beginning = _text(scored.documents, start, min(start + SCORED_BYTES, stop)).strip()
    read = _text(before.documents, *before.last(_COUNTED_CHARACTERS).passages[0])
    return len(beginning) >= _LEAST_CONTAINED and beginning in read


def _text(documents: Documents, start: int, stop: int) -> str:
    return "".join(text for text, _ in documents.read(start, stop))


def _tokens_in(tokens: Tokens, most: int) -> int:
    return len(tokens) if tokens.bytes <= most else max(len(tokens) * most // tokens.bytes, min(len(tokens), 2))


def _excerpt(tokens: Tokens, tokenizer: Tokenizer, part: slice) -> Excerpt:
    """Returns the excerpt of a slice of tokens. Its bytes omit the end-of-document tokens, which have no text.

    Each document is decoded separately, since a tokenizer may drop a space at the beginning of a text.
    """
    ids = np.asarray(tokens.ids[part])
    first = range(len(tokens))[part].start
    texts = np.split(ids, [at - first for at in tokens.begins if first < at < first + len(ids)])
    spelled = (text if tokenizer.end_of_text is None else text[text != tokenizer.end_of_text] for text in texts)
    return Excerpt("".join(tokenizer.decode(text.tolist()) for text in spelled).encode(), ids, tokens.bytes)
