"""Tokens: the ids of a part of a text, with the numbers of characters, bytes and documents that they encode."""

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

_LONGEST_CHARACTER = 4  # the largest number of bytes of a character, and so of its tokens


class Lead(NamedTuple):
    """The tokens at the beginning of a text that are not scored: how many there are, and their characters and bytes."""

    tokens: int = 1
    characters: int = 0
    bytes: int = 0


_FIRST = Lead()


@dataclass(frozen=True)
class Tokens:
    """The ids of a part of a text, and the amount of text that they encode.

    `left_out` characters of the part were not tokenized. `lead` is the first token of the text, which is not scored. If
    `opened` has added tokens before the text, `lead` is those tokens.
    """

    ids: TokenIds
    characters: int
    bytes: int
    documents: int
    left_out: int = 0
    lead: Lead = _FIRST
    begins: tuple[int, ...] = ()  # indices at which the documents after the first begin

    def opened(self, opening: Sequence[int]) -> Tokens:
        """Returns a copy of these tokens that begins with `opening`, the tokens that a tokenizer adds before a text.

        The first token of the text is then predicted from the opening, and scored.
        """
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
        """Returns the share of the part's characters that `scored` tokens cover, from 0 to 1."""
        return scored / self.to_score * self.characters / (self.characters + self.left_out)

    def __len__(self) -> int:
        return len(self.ids)


class _Encoded(NamedTuple):
    """The ids of a group of chunks, the bytes of the chunks, and the number of documents that begin in the chunks."""

    ids: NDArray[np.unsignedinteger]
    bytes: int
    documents: int
    ends: Sequence[int]  # for each document that ends in the chunks, the number of ids up to its end


def encoded(part: Part, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    """Yields the ids of a part in order, in groups of about a million characters."""
    encoder = Encoder(tokenizer, part.ends)
    for passage in part.chunks():
        begins = True
        for chunks in batches(passage):
            *begun, begins = (begins, *(ended for _, ended in chunks))
            ids = encoder.encode(chunks)
            yield _Encoded(ids, sum(len(text.encode()) for text, _ in chunks), sum(begun), encoder.ends)


def tokens_of(part: Part, tokenizer: Tokenizer) -> Tokens:
    """Returns the tokens of a part, which take two or four bytes of memory each."""
    groups = list(encoded(part, tokenizer))
    ids = np.concatenate([np.empty(0, dtype_of(tokenizer)), *(some.ids for some in groups)])
    size, documents = sum(some.bytes for some in groups), sum(some.documents for some in groups)
    before = accumulate((len(some.ids) for some in groups), initial=0)
    begins = tuple(start + end for start, some in zip(before, groups, strict=False) for end in some.ends)
    return Tokens(ids, part.characters, size, documents, part.left_out, first_token(ids, tokenizer), begins)


def first_token(ids: TokenIds, tokenizer: Tokenizer) -> Lead:
    """Returns the lead of a text without an opening: its first token.

    The next tokens are decoded too, since they may share a character with the first token.
    """
    first = ids[:_LONGEST_CHARACTER].tolist()
    if not first or first[0] == tokenizer.end_of_text:
        return _FIRST
    piece = tokenizer.pieces_of(first)[0]
    return Lead(1, len(piece.completed), piece.bytes)


def count_tokens(part: Part, tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns the number of tokens and the number of bytes of a part."""
    tokens = size = 0
    for some in encoded(part, tokenizer):
        tokens, size = tokens + len(some.ids), size + some.bytes
    return tokens, size
