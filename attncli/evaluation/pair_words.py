"""A pair of texts as the token ids that a model reads, and the tokens of each word.

Words are runs of letters and punctuation marks (`text.words`), or runs between spaces, or single tokens. A token that
covers characters of two words belongs to both. This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from attncli.errors import BadInput
from attncli.text.tokenizer import Piece, Tokenizer
from attncli.text.words import word_spans

if TYPE_CHECKING:
    from attncli.checkpoint.load import LoadedModel

Split = Literal["words", "spaces", "tokens"]
SPLITS: tuple[Split, ...] = get_args(Split)
_BETWEEN_SPACES = re.compile(r"\S+")


@dataclass(frozen=True)
class Sentence:
    """A text as tokens and words."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    spans: tuple[range, ...]  # for each word, the indices of its tokens in `ids`


@dataclass(frozen=True)
class WordsOfPair:
    """The source as the encoder reads it, and the target as the decoder reads it, as tokens and words."""

    source: Sentence
    target: Sentence


def sentence_of(text: str, tokenizer: Tokenizer, split: Split = "words") -> Sentence:
    """Returns the tokens and words of a text. A word that the tokenizer's normalizer removes has no tokens."""
    pieces = tokenizer.pieces(text)
    ids = tuple(piece.id for piece in pieces)
    if split == "tokens":
        return _each_token(pieces)
    found = word_spans(text) if split == "words" else [word.span() for word in _BETWEEN_SPACES.finditer(text)]
    spans = _tokens_of_words(_characters(text, pieces), found)
    return Sentence(ids, tuple(text[start:end] for start, end in found), tuple(spans))


def words_of_pair(
    source: str, target: str, loaded: LoadedModel, split: Split = "words", place: Callable[[], str] | None = None
) -> WordsOfPair:
    """Returns the tokens and words of a pair. `place` returns its place, such as 'pairs.tsv, line 3', for errors.

    Raises BadInput for a text without words, and for a text with more tokens than the context.
    """
    tokenizer, context, sides = loaded.tokenizer, loaded.model.config.context, []
    for name, text, reader, opening, closing in (
        ("source", source, tokenizer, tokenizer.opening, tokenizer.closing),
        ("target", target, tokenizer.target, loaded.target(), ()),
    ):
        count = len(opening) + len(reader.encode(text)) + len(closing)
        if count > context:  # refused before the words are found, which takes far longer for a long text
            problem = f"has {count} tokens, and the model reads at most {context}."
            raise _refused(name, place, problem, "Remove the pair, or split it into shorter sentences.")
        side = _between(opening, sentence_of(text, reader, split), closing)
        if not side.words:
            raise _refused(name, place, "has no words.", "Write a sentence on each side, or remove the pair.")
        sides.append(side)
    return WordsOfPair(*sides)


def _refused(name: str, place: Callable[[], str] | None, problem: str, hint: str) -> BadInput:
    """Returns the error for a side of a pair. `name` is 'source' or 'target'."""
    where = f"The {name}" if place is None else f"{place()}: the {name}"
    return BadInput(f"{where} {problem}", hint)


def tokens_of_pair(source: Sequence[Piece], target: Sequence[Piece]) -> WordsOfPair:
    """Returns a pair whose words are tokens, from what the encoder and the decoder read."""
    return WordsOfPair(_each_token(source), _each_token(target))


def _each_token(pieces: Sequence[Piece]) -> Sentence:
    """Returns tokens as a sentence in which each token of the text is a word."""
    spans = [range(at, at + 1) for at, piece in enumerate(pieces) if piece.of_text]
    words = tuple(pieces[span.start].text for span in spans)
    return Sentence(tuple(piece.id for piece in pieces), words, tuple(spans))


def _between(opening: Sequence[int], side: Sentence, closing: Sequence[int] = ()) -> Sentence:
    """Returns a text with the tokens that are added before and after it, which belong to no word."""
    spans = tuple(range(span.start + len(opening), span.stop + len(opening)) for span in side.spans)
    return Sentence((*opening, *side.ids, *closing), side.words, spans)


def _characters(text: str, pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    """Returns the range of characters of each piece in the text: start and end."""
    spans, at = [], 0
    for piece in pieces:
        start = text.find(piece.text, at)
        if start < 0:  # a normalizer has changed the text
            start = at
        spans.append((start, min(start + len(piece.text), len(text))))
        at = min(start + len(piece.completed), len(text))
    return spans


def _tokens_of_words(tokens: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]]) -> list[range]:
    """Returns the range of tokens that cover characters of each word."""
    spans, first = [], 0
    for start, end in words:
        while first < len(tokens) and tokens[first][1] <= start:
            first += 1
        stop = first
        while stop < len(tokens) and tokens[stop][0] < end:
            stop += 1
        spans.append(range(first, stop))
    return spans
