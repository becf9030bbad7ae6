"""Groups the tokens of a text into words, by rules that do not depend on the language. Imports no torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attncli.explain.units import Spans
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.reading import Reading

_LONGEST = 64  # the most tokens of a word
_APOSTROPHES = "'’"
_SPACES = " \t\u00a0\u3000"
# Scripts that put no space between words: Thai to Myanmar, Khmer, kana, ideographs.
_UNSPACED = ((0xE00, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))


@dataclass(frozen=True)
class Words:
    """The tokens of a text that is explained word by word, and the range of tokens of each word."""

    tokens: tuple[Piece, ...]
    spans: tuple[range, ...]


def words(pieces: Sequence[Piece]) -> list[range]:
    """Returns the range of tokens of each word, in order; every token is in one word: [range(0, 1), range(1, 3), …].

    A word continues in the next token if there is a letter, digit or combining mark on each side of the boundary. An
    apostrophe between two letters does not end a word. Spaces belong to the word after them; spaces at the end of the
    text belong to the last word. Every other character, including a line end, forms a word with all its tokens. In a
    script without spaces, every token is a word.
    """
    text = "".join(piece.completed for piece in pieces)
    last_word_ends = len(text.rstrip(_SPACES))
    spans: list[range] = []
    first = start = end = 0  # the first token and character of a word, and the character after its last
    for at, piece in enumerate(pieces):
        # A token that completes no character belongs to the character that a later token completes.
        spaces = last_word_ends <= end < len(text) or (start < end and not text[start:end].strip(_SPACES))
        ends = at > first and not (at and pieces[at - 1].unfinished) and not spaces and not _continues(text, end)
        if ends or at - first == _LONGEST:
            spans.append(range(first, at))
            first, start = at, end
        end += len(piece.completed)
    return [*spans, range(first, len(pieces))] if pieces else []


def word_spans(reading: Reading) -> Spans:
    """Returns the tokens of each word of a reading: of its rows and of its columns.

    In an encoder-decoder, a row of the decoder is named by the token that it predicts: the next token of the text.
    """
    if reading.translation is None:
        spans = words(reading.pieces) if reading.causal else _between_special(reading.pieces)
        return Spans(spans, spans)
    source, inputs = map(_between_special, reading.texts)
    if reading.of_encoder:
        return Spans(source, source)
    outputs = [range(span.start - 1, span.stop - 1) for span in inputs[1:]]
    rows = [*outputs, range(len(reading.pieces) - 1, len(reading.pieces))]
    columns = {"cross": source, "decoder": inputs}
    starts = {part: columns_.start for part, columns_ in reading.columns.items()}
    moved = [range(span.start + start, span.stop + start) for part, start in starts.items() for span in columns[part]]
    return Spans(rows, moved)


def _between_special(pieces: Sequence[Piece]) -> list[range]:
    """Returns the range of tokens of each word. Each special token around the text is a word."""
    first = next((at for at, piece in enumerate(pieces) if not piece.special), len(pieces))
    last = next((at for at in range(len(pieces), first, -1) if not pieces[at - 1].special), first)
    around = [[range(at, at + 1) for at in span] for span in (range(first), range(last, len(pieces)))]
    inside = [range(first + span.start, first + span.stop) for span in words(pieces[first:last])]
    return [*around[0], *inside, *around[1]]


def joined(pieces: Sequence[Piece], spans: Sequence[range]) -> list[Piece]:
    """Returns each word as one Piece with the id of the word's last token."""
    return [
        Piece(pieces[span[-1]].id, "".join(pieces[at].completed for at in span), sum(pieces[at].bytes for at in span))
        for span in spans
    ]


def _continues(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the same word as the character before it."""
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
