"""The tokenizer of Marian: two SentencePiece models, for source and target texts, and a vocabulary that they share.

This module parses a SentencePiece model file, which is a protocol buffer. The pieces and scores become a Unigram model
of the `tokenizers` library, which finds the same segmentation (Kudo, 2018). The pieces get the ids of `vocab.json`; a
piece without an id is unknown. The files are untrusted. Only the tests need the library
`sentencepiece`, as a reference.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attncli.errors import COPY_AGAIN, BadCheckpoint, BadInput
from attncli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
_SPACE = "▁"
_END, _UNKNOWN, _PAD = "</s>", "<unk>", "<pad>"
_NEVER = "\0"  # the name of the unknown piece; no text contains this character
_LARGEST_ID = 1 << 22
_UNIGRAM = 1  # the type of a unigram model
_NORMAL, _USER_DEFINED = 1, 4  # types of a piece; the other types, such as control symbols, match no text
_SHARE_OF_BEST = 0.1  # the score of a user-defined piece is its length times the best score, minus this number


def marian_tokenizer(source: bytes, target: bytes, vocabulary: bytes, folder: Path) -> MarianTokenizer:
    """Returns the tokenizer of the files source.spm, target.spm and vocab.json. `folder` is their place, for errors.

    Raises BadCheckpoint for a file that is damaged, or that has another kind of SentencePiece model than unigram.
    """
    ids = _ids(vocabulary, folder / VOCABULARY)
    made = [_Backend(_unigram(data, folder / name), ids) for data, name in ((source, SOURCE), (target, TARGET))]
    return MarianTokenizer(*(Tokenizer(cast(Any, backend), may_panic=True) for backend in made))


class MarianTokenizer(Tokenizer):
    """The tokenizer of source texts. `target` is the tokenizer of target texts, with the same ids."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        """Makes a tokenizer from the tokenizers of source and target texts."""
        super().__init__(source._backend, may_panic=True)
        self._target = target

    @property
    def target(self) -> Tokenizer:
        """The tokenizer of target texts."""
        return self._target

    def to_json(self) -> str:
        """Raises BadInput, because a `tokenizer.json` cannot have two models."""
        raise BadInput(
            f"The tokenizer consists of {SOURCE} and {TARGET}, which no tokenizer.json can express.",
            "Such a model can be read, and not written.",
        )


@dataclass(frozen=True)
class _Encoded:
    """The tokens of a text, with the fields that `Tokenizer` reads of an encoding of the library."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    special_tokens_mask: list[int]


class _Backend:
    """Replaces the ids of a Unigram tokenizer by the ids of `vocab.json`. Has the methods that `Tokenizer` calls."""

    encode_special_tokens = True

    def __init__(self, unigram: Backend, ids: dict[str, int]) -> None:
        self._unigram, self._ids = unigram, ids
        self._pieces = {id_: piece for piece, id_ in ids.items()}

    def no_padding(self) -> None:
        """Does nothing, because no text is padded."""

    def no_truncation(self) -> None:
        """Does nothing, because no text is truncated."""

    def encode(self, text: str, add_special_tokens: bool = True) -> _Encoded:
        """Encodes a text. A language code at the beginning, such as '>>deu<<', is one token."""
        (found,) = self.encode_batch_fast([text])
        if not add_special_tokens:
            return found
        ids, spans, special = [*found.ids, self._ids[_END]], [*found.offsets, (0, 0)], found.special_tokens_mask
        return _Encoded(ids, spans, [*special, 1])

    def encode_batch_fast(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[_Encoded]:
        """Encodes several texts, without special tokens."""
        codes = [_language_code(text) for text in texts]
        rests = [text[len(code) :] for text, code in zip(texts, codes, strict=True)]
        found = self._unigram.encode_batch(rests, add_special_tokens=False)  # encode_batch_fast returns only ids
        return [self._encoded(code, one.tokens, one.offsets) for code, one in zip(codes, found, strict=True)]

    def _encoded(self, code: str, pieces: Sequence[str], spans: Sequence[tuple[int, int]]) -> _Encoded:
        """Returns the tokens of a text: its language code if it has one, then the pieces of the rest."""
        names = [code, *pieces] if code else pieces
        unknown, length = self._ids[_UNKNOWN], len(code)
        ids = [self._ids.get(name, unknown) for name in names]
        at = [(0, length)] * bool(code) + [(begin + length, end + length) for begin, end in spans]
        return _Encoded(ids, at, [0] * len(ids))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Decodes ids: concatenates their pieces, replaces '▁' by a space, and removes a space at the beginning."""
        return "".join(self._pieces.get(id_, _UNKNOWN) for id_ in ids).replace(_SPACE, " ").removeprefix(" ")

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Returns the ids of all pieces."""
        return self._ids

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Returns the special tokens."""
        from tokenizers import AddedToken

        return {self._ids[name]: AddedToken(name, special=True) for name in (_END, _UNKNOWN, _PAD) if name in self._ids}

    def token_to_id(self, piece: str) -> int | None:
        """Returns the id of a piece, or None."""
        return self._ids.get(piece)

    def id_to_token(self, id_: int) -> str | None:
        """Returns the piece of an id, or None."""
        return self._pieces.get(id_)

    def to_str(self, pretty: bool = False) -> str:
        """Returns the Unigram tokenizer as JSON. Its ids differ from the ids of the vocabulary."""
        return str(self._unigram.to_str(pretty))


def _language_code(text: str) -> str:
    """Returns the code of the target language at the beginning of a text: '>>deu<< A dog' -> '>>deu<<'."""
    end = text.find("<<") if text.startswith(">>") else -1
    return text[: end + 2] if end >= 0 else ""


def _ids(data: bytes, where: Path) -> dict[str, int]:
    """Returns the ids of the pieces. Raises BadCheckpoint."""
    try:
        ids = json.loads(data)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, dict) or not all(type(id_) is int and 0 <= id_ <= _LARGEST_ID for id_ in ids.values()):
        raise BadCheckpoint(f"{where} is not a vocabulary: an object of pieces and their ids.", COPY_AGAIN)
    for name in (_END, _UNKNOWN):
        if name not in ids:
            raise BadCheckpoint(f"{where} lacks {name}.", COPY_AGAIN)
    return ids


def _unigram(data: bytes, where: Path) -> Backend:
    """Returns a tokenizer of the library with the pieces and the normalization of a SentencePiece model."""
    try:
        pieces, kind, normalization = _parse(data)
    except (ValueError, TypeError, IndexError, struct.error):
        raise BadCheckpoint(f"{where} is not a SentencePiece model.", COPY_AGAIN) from None
    if kind != _UNIGRAM:
        raise BadCheckpoint(f"{where} is no unigram model; other kinds of SentencePiece models are not supported.")
    best = max((score for _, score, type_ in pieces if type_ == _NORMAL), default=0.0)
    vocabulary = [(_NEVER, 0.0)]
    for piece, score, type_ in pieces:
        if type_ == _USER_DEFINED:
            vocabulary.append((piece, len(piece.encode()) * best - _SHARE_OF_BEST))
        elif type_ == _NORMAL and piece:
            vocabulary.append((piece, score))
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "split": False, "prepend_scheme": "never"}
    document: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalization.steps()},
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
    }
    return Tokenizer.from_json(json.dumps(document), str(where))._backend


@dataclass(frozen=True)
class _Normalization:
    """How SentencePiece normalizes a text: a table of characters, white space, and '▁' before the text."""

    table: bytes = b""
    prefix: bool = True
    no_extra_spaces: bool = True

    def steps(self) -> list[dict[str, Any]]:
        """Returns the normalizers of a `tokenizer.json`."""
        steps: list[dict[str, Any]] = []
        if self.table:
            steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self.table).decode()})
        if self.no_extra_spaces:
            steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
            # the library's Strip would also remove other white space than U+0020, which SentencePiece keeps
            steps.append({"type": "Replace", "pattern": {"Regex": r"\A | \z"}, "content": ""})
        if self.prefix:  # Metaspace would add '▁' only to a text that does not begin with a space
            steps.append({"type": "Prepend", "prepend": _SPACE})
        return steps


def _parse(data: bytes) -> tuple[list[tuple[str, float, int]], int, _Normalization]:
    """Returns the pieces (text, score, type), the type of the model, and the normalization of a model file.

    The fields are numbered as in sentencepiece_model.proto. Raises ValueError, TypeError, IndexError or
    struct.error for data that is not such a file.
    """
    pieces, kind, normalization = [], _UNIGRAM, _Normalization()
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            if score != score or abs(score) == float("inf"):
                raise ValueError
            pieces.append((bytes(piece.get(1, b"")).decode(), score, int(piece.get(3, _NORMAL))))
        elif number == 2:
            kind = int(dict(_fields(value)).get(3, _UNIGRAM))
        elif number == 3:
            found = dict(_fields(value))
            normalization = _Normalization(bytes(found.get(2, b"")), bool(found.get(3, 1)), bool(found.get(4, 1)))
    if not pieces:
        raise ValueError
    return pieces, kind, normalization


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yields the fields of a protocol buffer message: number and value, an integer or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind, value = key & 7, None
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
            if size < 0 or at + size > len(data):
                raise ValueError
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the integer of variable length at a position, and the position after it."""
    if data[at] < 128:
        return data[at], at + 1
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError
