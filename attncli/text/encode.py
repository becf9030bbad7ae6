"""Tokenizes large text fast: caches the ids of every word, since most words occur often.

The result equals the ids of the whole text, encoded at once. If a tokenizer can join a word to the white space after
the word, no words are cached. Instead, the text is split into shares, which are tokenized in parallel on all cores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from attncli.config import TOKENIZER_KINDS
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import stretches

Chunk = tuple[str, bool]  # a piece of text, and whether the piece ends a document

# White space and the word after it. GPT-2's pre-tokenizer never joins two such words into one token. A character that
# is white space for Python but not for the library does not end a word.
_WORD = re.compile(r"\s*\S+(?:[^\S \t\r\n]\s*\S+)*(?:[^\S \t\r\n]\s*\Z)?|\s+")
_MOST_WORDS = 1 << 19  # the largest number of cached words
_MOST_CHARACTERS = 1 << 25  # the largest number of characters of all cached words
_STRETCH = 1 << 20  # the number of characters of a chunk of a long document
_SHARE = 1 << 16  # the number of characters of a share, which one thread tokenizes


def dtype_of(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    """Returns the smallest integer type that can store every id of a tokenizer."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


class Encoder:
    """Encodes chunks of documents into ids. If `ends`, adds the end-of-text id after each document."""

    def __init__(self, tokenizer: Tokenizer, ends: bool) -> None:
        self._dtype = dtype_of(tokenizer)
        self._tokenizer = tokenizer
        self._end = [tokenizer.end_of_text] if ends and tokenizer.end_of_text is not None else []
        self._by_words = _splits_at_spaces(tokenizer)
        self.ends: list[int] = []  # set by `encode`: the number of ids up to the end of each document
        self._forget()

    def encode(self, chunks: Sequence[Chunk]) -> NDArray[np.unsignedinteger]:
        """Returns the ids of all chunks, concatenated."""
        if not self._by_words:
            return self._each(chunks)
        if len(self._known) > _MOST_WORDS or self._characters > _MOST_CHARACTERS:
            self._forget()
        words: list[str | None] = []
        for text, ended in chunks:
            words += _WORD.findall(text)
            if ended:
                words.append(None)
        numbers = np.fromiter(map(self._known.__getitem__, words), np.int64, len(words))
        self._learn()
        starts = self._starts[numbers]
        lengths = self._starts[numbers + 1] - starts
        before = np.cumsum(lengths) - lengths
        return self._ids[np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))]

    def _each(self, chunks: Sequence[Chunk]) -> NDArray[np.unsignedinteger]:
        shares = [list(stretches(text, _SHARE)) for text, _ in chunks]
        found = iter(self._tokenizer.encode_batch([text for cut in shares for text in cut]))
        ids: list[list[int]] = []
        begun, self.ends = 0, []
        for cut, (_, ended) in zip(shares, chunks, strict=True):
            ids += islice(found, len(cut))
            if ended:
                ids.append(self._end)
                self.ends.append(sum(map(len, ids[begun:])) + (self.ends[-1] if self.ends else 0))
                begun = len(ids)
        return np.fromiter(chain.from_iterable(ids), self._dtype)

    def _forget(self) -> None:
        """Empties the word cache. Each cached word has a number; number 0 is the end of a document."""
        self._known = _Numbers({None: 0})
        self._characters = 0
        self._ids = np.asarray(self._end, self._dtype)
        self._starts = np.asarray([0, len(self._end)])

    def _learn(self) -> None:
        """Tokenizes the words that are not in the cache yet, and adds them to the cache."""
        if not self._known.new:
            return
        found = self._tokenizer.encode_batch(self._known.new)
        self._characters += sum(map(len, self._known.new))
        self._known.new = []
        ids = np.fromiter(chain.from_iterable(found), self._dtype)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths)])
        self._ids = np.concatenate([self._ids, ids])


class _Numbers(dict[str | None, int]):
    """Maps words to numbers. A word that is looked up for the first time gets a number and is added to `new`."""

    def __init__(self, known: dict[str | None, int]) -> None:
        super().__init__(known)
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        self.new.append(word)
        self[word] = number = len(self)
        return number


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer never joins a word to the white space after the word.

    This is true of every tokenizer that attncli trained.
    """
    if tokenizer.kind not in TOKENIZER_KINDS:  # the tokenizer of Marian has no JSON
        return False
    described = json.loads(tokenizer.to_json())
    before = described["pre_tokenizer"] or {}
    by_word = before.get("type") == "ByteLevel" and before.get("use_regex", True) and not before["add_prefix_space"]
    by_character = before.get("type") == "Split" and before["pattern"] == {"Regex": r"[\s\S]"}
    return (
        described["model"]["type"] == "BPE"
        and not described["model"].get("dropout")
        and described["normalizer"] is None
        and all(token["special"] for token in described["added_tokens"])
        and (by_word or by_character)
    )


def stretched(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Joins chunks, and yields their text in new chunks, which end where `stretches` splits a document.

    The last chunk of a document ends with the document. At most about `2 * _STRETCH` characters are in memory.
    """
    held = ""
    for text, ended in chunks:
        held += text
        while len(held) >= 2 * _STRETCH:  # the text beyond this length does not change the first cut
            first = next(stretches(held, _STRETCH))
            yield first, False
            held = held[len(first) :]
        if ended:
            yield from _whole(held, True)
            held = ""
    if held:
        yield from _whole(held, False)


def _whole(text: str, ended: bool) -> Iterator[Chunk]:
    *cut, last = stretches(text, _STRETCH) if text else [""]
    yield from ((chunk, False) for chunk in cut)
    yield last, ended


def batches(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Yields groups of chunks, each of about `_STRETCH` characters."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += len(chunk[0])
        if size >= _STRETCH:
            yield group
            group, size = [], 0
    if group:
        yield group
