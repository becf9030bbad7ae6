"""The excerpt of a text that a baseline is measured on, as bytes and as tokens: the scored text's beginning, and the
end of the text before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attncli.text.parts import Part
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokens import Tokens, tokens_of

# Bytes of training and of scored text that baselines have by default: about a second of one core.
TRAIN_BYTES, SCORED_BYTES = 1 << 20, 200_000
COUNTED_TOKENS = 1_500_000  # of training text for the n-gram model, which is faster than xz: two seconds of a core
_COUNTED_CHARACTERS = 5_000_000  # about COUNTED_TOKENS tokens


@dataclass(frozen=True)
class Excerpt:
    """Part of a text in two forms: bytes for the compressors, token ids for the n-gram model."""

    data: bytes
    ids: NDArray[np.unsignedinteger]
    of: int  # bytes of the whole text
    first: int = 0  # bytes of the first token, which nothing predicts, where the excerpt begins with the text


class Counted(NamedTuple):
    """Tokens at the end of a text that an n-gram model counts, and about how many bytes they stand for."""

    ids: NDArray[np.unsignedinteger]
    bytes: int


def counted_of(tokens: Tokens, most: int = COUNTED_TOKENS) -> Counted:
    """The last `most` tokens of a text."""
    taken = min(most, len(tokens))
    return Counted(tokens.ids[len(tokens) - taken :], round(tokens.bytes * taken / max(len(tokens), 1)))


def first_of(tokens: Tokens, tokenizer: Tokenizer, most: int = SCORED_BYTES) -> Excerpt:
    """About the first `most` bytes of a text, in whole tokens, or all of a shorter text."""
    excerpt = _excerpt(tokens, tokenizer, slice(0, _tokens_in(tokens, most)))
    return replace(excerpt, first=tokens.lead.bytes)


def last_of(tokens: Tokens, tokenizer: Tokenizer, most: int = TRAIN_BYTES) -> Excerpt:
    """About the last `most` bytes of a text, in whole tokens, or all of a shorter text."""
    return _excerpt(tokens, tokenizer, slice(len(tokens) - _tokens_in(tokens, most), None))


def ends_of(
    part: Part, tokenizer: Tokenizer, most: int = TRAIN_BYTES, characters: int = _COUNTED_CHARACTERS
) -> tuple[Excerpt, Counted]:
    """The end of a part for both kinds of baseline; at most `characters` of it are tokenized.

    Its last `most` bytes are for the compressors, its last COUNTED_TOKENS tokens for the n-gram model.
    """
    tokens = tokens_of(part.last(characters), tokenizer)
    excerpt = last_of(tokens, tokenizer, most)
    if part.characters > characters:
        excerpt = replace(excerpt, of=part.bytes)
    return excerpt, counted_of(tokens)


def _tokens_in(tokens: Tokens, most: int) -> int:
    return len(tokens) if tokens.bytes <= most else max(len(tokens) * most // tokens.bytes, min(len(tokens), 2))


def _excerpt(tokens: Tokens, tokenizer: Tokenizer, part: slice) -> Excerpt:
    """The excerpt of a slice of tokens. Tokens that end a document are no text, so the bytes leave them out.

    Each document is decoded by itself, since a tokenizer may drop the space that begins a text.
    """
    ids = np.asarray(tokens.ids[part])
    first = range(len(tokens))[part].start
    texts = np.split(ids, [at - first for at in tokens.begins if first < at < first + len(ids)])
    spelled = (text if tokenizer.end_of_text is None else text[text != tokenizer.end_of_text] for text in texts)
    return Excerpt("".join(tokenizer.decode(text.tolist()) for text in spelled).encode(), ids, tokens.bytes)
