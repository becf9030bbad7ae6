"""Tokens counted as words: which tokens of a text belong together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from attncli.text.tokenizer import Piece

_LONGEST = 64  # tokens of a word
_APOSTROPHES = "'’"
_SPACES = " \t\u00a0\u3000"
# Scripts that put no space between words: Thai to Myanmar, Khmer, kana, ideographs.
_UNSPACED = ((0xE00, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))


def words(pieces: Sequence[Piece]) -> list[range]:
    """The tokens of each word, in order, every token in one: [0, 1) [1, 3) …

    A word goes on where letters, digits or marks meet, with an apostrophe between them or not. Spaces belong to the
    word after them, in a token of their own or not; those that end a text to the word before. Anything else is by
    itself, a line end too, but for the tokens of one character; so is every token of a script that puts no space
    between words.
    """
    text = "".join(piece.completed for piece in pieces)
    said = len(text.rstrip(_SPACES))
    found: list[range] = []
    begun = start = end = 0  # the first token of the word; its first character, and that after its last
    for at, piece in enumerate(pieces):
        # A token that completes no character belongs to what follows.
        spaces = said <= end < len(text) or (start < end and not text[start:end].strip(_SPACES))
        between = at > begun and not (at and pieces[at - 1].unfinished) and not spaces and not _goes_on(text, end)
        if between or at - begun == _LONGEST:
            found.append(range(begun, at))
            begun, start = at, end
        end += len(piece.completed)
    return [*found, range(begun, len(pieces))] if pieces else []


def joined(pieces: Sequence[Piece], spans: Sequence[range]) -> list[Piece]:
    """Each word as if it were one token; the id is its last token's."""
    return [
        Piece(pieces[span[-1]].id, "".join(pieces[at].completed for at in span), sum(pieces[at].bytes for at in span))
        for span in spans
    ]


def _goes_on(text: str, at: int) -> bool:
    """Whether a word goes on from one character of a text to that at `at`."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if after in _APOSTROPHES:
        return _in_word(before) and at + 1 < len(text) and _in_word(text[at + 1])
    if before in _APOSTROPHES:
        return at > 1 and _in_word(text[at - 2]) and _in_word(after)
    return _in_word(before) and _in_word(after)


def _in_word(char: str) -> bool:
    spaced = not any(first <= ord(char) <= last for first, last in _UNSPACED)
    return spaced and (char == "_" or unicodedata.category(char)[0] in "LMN")
