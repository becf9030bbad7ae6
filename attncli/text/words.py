"""Splits a text into words and punctuation marks, for the alignment of words in two languages.

A word is a run of letters, digits and marks. Apostrophes and hyphens between two letters or digits do not end a word,
nor do points, commas and colons between two digits. Every other character is a punctuation mark. A run of the same mark
is one word. Chinese characters and Japanese kana have no spaces between words, so each of them is a word. This module
knows nothing of tokens.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

_JOINERS = "'’-‐‑"  # between letters or digits
_NUMBER_JOINERS = ".,:"  # between digits
_UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))  # kana and Chinese characters
_CHUNK = re.compile(r"\S+")
_KINDS = ("L", "M", "N", "C")  # letters, combining marks, digits, and invisible characters such as zero-width joiners


def split_words(text: str) -> list[str]:
    """Returns the words of a text: "I'll read it at 10:30." -> ["I'll", "read", "it", "at", "10:30", "."].

    Splitting the result, joined by spaces, returns the same words.
    """
    return [word for chunk in text.split() for word in _words_of_chunk(chunk)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Returns the start and the end of each word of a text, in characters: 'No.' -> [(0, 2), (2, 3)].

    No span contains white space.
    """
    return [
        (chunk.start() + start, chunk.start() + end)
        for chunk in _CHUNK.finditer(text)
        for start, end in _spans_of_chunk(chunk[0])
    ]


@lru_cache(1 << 18)  # the same chunks occur in many sentences
def _words_of_chunk(chunk: str) -> tuple[str, ...]:
    """Returns the words of a text without white space."""
    return tuple(chunk[start:end] for start, end in _spans_of_chunk(chunk))


def _spans_of_chunk(chunk: str) -> list[tuple[int, int]]:
    """Returns the spans of the words of a text without white space."""
    starts = [at for at in range(len(chunk)) if at == 0 or not _continues(chunk, at)]
    return list(pairwise([*starts, len(chunk)]))


def _continues(chunk: str, at: int) -> bool:
    """Whether the character at `at`, which is not the first, belongs to the same word as the character before it."""
    before, after = chunk[at - 1], chunk[at]
    if _in_word(before) and _in_word(after):
        return unicodedata.category(after)[0] == "M" or not (_unspaced(before) or _unspaced(after))
    if _joins(chunk, at) or _joins(chunk, at - 1):
        return True
    return before == after


def _joins(chunk: str, at: int) -> bool:
    """Whether the character at `at` joins the characters beside it into one word."""
    if not 0 < at < len(chunk) - 1:
        return False
    before, joiner, after = chunk[at - 1], chunk[at], chunk[at + 1]
    if joiner in _JOINERS:
        return _in_word(before) and _in_word(after)
    return joiner in _NUMBER_JOINERS and before.isdigit() and after.isdigit()


def _in_word(char: str) -> bool:
    return char == "_" or unicodedata.category(char)[0] in _KINDS


def _unspaced(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _UNSPACED)
