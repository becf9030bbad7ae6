"""Tokens: the ids of a part of a text, with the characters, bytes and documents that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attncli.text.encode import Encoder, batches, dtype_of
from attncli.text.ids import TokenIds
from attncli.text.parts import Part
from attncli.text.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4  # bytes, so tokens


class Lead(NamedTuple):
    """The tokens at the beginning of a text that are not scored, and the characters and bytes that they stand for."""

    tokens: int = 1
    characters: int = 0
    bytes: int = 0


_FIRST = Lead()


@dataclass(frozen=True)
class Tokens:
    """The ids of a part of a text, and what they stand for.

    `left_out` characters of the part were not tokenized. `lead` is the first token of the text, which nothing predicts,
    or the tokens that `opened` put before the text.
    """

    ids: TokenIds
    characters: int
    bytes: int
    documents: int
    left_out: int = 0
    lead: Lead = _FIRST
    begins: tuple[int, ...] = ()  # indices at which the documents after the first begin

    def opened(self, opening: Sequence[int]) -> Tokens:
        """These tokens after those that a tokenizer puts before a text, which then predict the first token."""
        if not opening:
            return self
        ids = np.concatenate([np.asarray(opening, self.ids.dtype), self.ids])
        begins = tuple(len(opening) + at for at in self.begins)
        return replace(self, ids=ids, lead=Lead(len(opening)), begins=begins)

    @property
    def to_score(self) -> int:
        """The number of tokens that are scored."""
        return len(self) - self.lead.tokens

    def share_of(self, scored: int) -> float:
        """The share of the part that `scored` tokens are; 1 is all of it."""
        return scored / self.to_score * self.characters / (self.characters + self.left_out)

    def __len__(self) -> int:
        return len(self.ids)


class _Encoded(NamedTuple):
    """The ids of some text of a part, the bytes of that text, and the number of documents that begin in it."""

    ids: NDArray[np.unsignedinteger]
    bytes: int
    documents: int
    ends: Sequence[int]  # of each document that ends in it, the number of ids up to its end


def encoded(part: Part, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    """The ids of a part in order, in groups of about a million characters."""
    encoder = Encoder(tokenizer, part.ends)
    for passage in part.chunks():
        begins = True
        for chunks in batches(passage):
            *begun, begins = (begins, *(ended for _, ended in chunks))
            ids = encoder.encode(chunks)
            yield _Encoded(ids, sum(len(text.encode()) for text, _ in chunks), sum(begun), encoder.ends)


def tokens_of(part: Part, tokenizer: Tokenizer) -> Tokens:
    """The tokens of a part, held in memory in two or four bytes each."""
    groups = list(encoded(part, tokenizer))
    ids = np.concatenate([np.empty(0, dtype_of(tokenizer)), *(some.ids for some in groups)])
    size, documents = sum(some.bytes for some in groups), sum(some.documents for some in groups)
    before = accumulate((len(some.ids) for some in groups), initial=0)
    begins = tuple(start + end for start, some in zip(before, groups, strict=False) for end in some.ends)
    return Tokens(ids, part.characters, size, documents, part.left_out, first_token(ids, tokenizer), begins)


def first_token(ids: TokenIds, tokenizer: Tokenizer) -> Lead:
    """The lead of a text: its first token, decoded together with the next ones, which may share a character."""
    first = ids[:_LONGEST_CHARACTER].tolist()
    if not first or first[0] == tokenizer.end_of_text:
        return _FIRST
    piece = tokenizer.pieces_of(first)[0]
    return Lead(1, len(piece.completed), piece.bytes)


def count_tokens(part: Part, tokenizer: Tokenizer) -> tuple[int, int]:
    """The number of tokens of a part, and of bytes."""
    tokens = size = 0
    for some in encoded(part, tokenizer):
        tokens, size = tokens + len(some.ids), size + some.bytes
    return tokens, size
