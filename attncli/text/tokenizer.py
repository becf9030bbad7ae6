"""Tokenizer: encodes text into token ids and decodes ids, for any `tokenizer.json`.

The `tokenizers` library does the work. This module adds three guarantees. The string of a special token in a user's
text is encoded as plain text, except `[MASK]`, which stands for a word that BERT predicts. A text is never truncated or
padded. Streamed decoding never returns half a character. `tokenizer_training` trains new tokenizers.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from attncli.config import shown_value
from attncli.errors import COPY_AGAIN, BadCheckpoint, BadInput
from attncli.paths import is_folder, read_regular, unreadable
from attncli.text.panics import held_back
from attncli.text.tokenizer_checks import refuse_hostile

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

END_OF_TEXT = "<|endoftext|>"
MASK = "[MASK]"  # in a text for BERT, stands for a word to predict
_LARGEST_FILE = 64 << 20  # the largest size of a tokenizer.json, in bytes
_PRIVATE_USE = range(0xF0000, 0xFFFFE)  # Unicode characters without a meaning
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_PADDING = ("<pad>", "[PAD]", "<|pad|>")  # names of the padding token
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Piece:
    """One token of a text, and the characters that the token covers.

    `text` contains the covered characters. If a character is split over n tokens, each of them has the whole character
    in its `text`, and the i-th has the `part` (i, n). A token of whole characters has the part (1, 1). If `unfinished`,
    the last character of `text` continues in the next token, and `completed` leaves this character out. A token that
    the tokenizer adds before or after a text has 0 bytes. It is a special token, or the '▁' of SentencePiece, which is
    marked as unfinished.
    """

    id: int
    text: str
    bytes: int
    part: tuple[int, int] = (1, 1)
    unfinished: bool = False
    segment: int = 0  # 1 in the second text of a pair, for BERT

    @property
    def of_text(self) -> bool:
        """Whether the token encodes part of the text. False for a token that the tokenizer adds around the text."""
        return self.bytes > 0 or self.part != (1, 1)

    @property
    def special(self) -> bool:
        """Whether the token is a special token that the tokenizer adds around the text."""
        return not self.of_text and not self.unfinished

    @property
    def completed(self) -> str:
        """The characters that this token completes: `text`, without an unfinished last character."""
        return self.text[:-1] if self.unfinished else self.text


class Tokenizer:
    """Encodes text and decodes ids. For a tokenizer that attncli trained, `decode(encode(text))` is always `text`."""

    def __init__(self, backend: Backend, may_panic: bool = False) -> None:
        """Wraps a tokenizer of the library. `may_panic` is true if the library may panic on some text."""
        self._may_panic = may_panic
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._known_bytes: dict[int, bytes] = {}

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json") -> Tokenizer:
        """Makes a tokenizer from the text of a `tokenizer.json`. Raises BadCheckpoint if the text is invalid."""
        from tokenizers import Tokenizer as Backend

        may_panic = refuse_hostile(text, where)
        try:
            with _library_failures(may_panic):
                return cls(Backend.from_str(text), may_panic)
        except BadCheckpoint as problem:
            raise BadCheckpoint(f"{where} is not a tokenizer: {problem.message}", problem.hint) from None

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a `tokenizer.json`, given its path or directory. Raises BadCheckpoint if it is missing or invalid."""
        file = path / "tokenizer.json" if is_folder(path) else path
        try:
            text = read_regular(file, _LARGEST_FILE).decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BadCheckpoint(
                f"{path} holds no tokenizer.json.", "Give a model directory, or train one: attncli train FILE"
            ) from None
        except OSError as problem:
            raise unreadable(file, problem) from None
        except UnicodeDecodeError:
            raise BadCheckpoint(f"{file} is not UTF-8 text.", COPY_AGAIN) from None
        return cls.from_json(text, str(file))

    @property
    def target(self) -> Tokenizer:
        """The tokenizer of target texts: this one, except for Marian, which has two that share their ids."""
        return self

    def to_json(self) -> str:
        """Returns the text of a `tokenizer.json`, which transformers can read unchanged."""
        return str(self._backend.to_str(pretty=True))

    @cached_property
    def digest(self) -> str:
        """The sha256 of `to_json`, by which a tokenizer is recognized."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """The number of ids: the highest token id plus 1, special tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def end_of_text(self) -> int | None:
        """The id of the token that ends a text, or None: `<|endoftext|>`, or else the first token of `closing`."""
        found = self._backend.token_to_id(END_OF_TEXT)
        if found is not None:
            return int(found)
        return self.closing[0] if self.closing else None

    @cached_property
    def pad(self) -> int | None:
        """The id of the token that fills a short row of a batch, such as `<pad>`, or None."""
        found = (self._backend.token_to_id(name) for name in _PADDING)
        return next((int(id_) for id_ in found if id_ is not None), None)

    @cached_property
    def mask(self) -> int | None:
        """The id of the token `[MASK]`, or None."""
        found = self._special.get(MASK)
        return None if found is None else found[0]

    @property
    def opening(self) -> tuple[int, ...]:
        """The ids of the special tokens that the post-processor adds before a text.

        A tokenizer that attncli trained adds none. As in transformers, `add_bos_token` in tokenizer_config.json has no
        effect if there is a tokenizer.json.
        """
        return self._around[0]

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids of the special tokens that the post-processor adds after a text, such as `</s>` or `[SEP]`.

        A tokenizer that attncli trained adds `</s>` if it was trained on pairs, and none if it was trained on texts.
        """
        return self._around[1]

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the post-processor adds before a text, and the ids that it adds after a text."""
        with _library_failures(self._may_panic):
            encoding = self._backend.encode("a")
        ids, special = encoding.ids, encoding.special_tokens_mask
        opening = tuple(ids[: len([*takewhile(bool, special)])])
        after = len([*takewhile(bool, reversed(special[len(opening) :]))])
        closing = tuple(ids[len(ids) - after :])
        last = self.vocab_size - 1
        for place, added in (("before", opening), ("after", closing)):
            if any(id_ > last for id_ in added):
                raise BadCheckpoint(
                    f"The tokenizer adds token {max(added)} {place} a text, but its ids are 0 to {last}.", COPY_AGAIN
                )
        return opening, closing

    @cached_property
    def opening_pieces(self) -> tuple[Piece, ...]:
        """The tokens of `opening` as pieces, which have no bytes."""
        return tuple(Piece(id_, self.name(id_).strip(), 0) for id_ in self.opening)

    @cached_property
    def closing_pieces(self) -> tuple[Piece, ...]:
        """The tokens of `closing` as pieces, which have no bytes."""
        return tuple(Piece(id_, self.name(id_).strip(), 0) for id_ in self.closing)

    @cached_property
    def kind(self) -> str:
        """The algorithm of the tokenizer: 'byte', 'char' or 'bpe'.

        For any other algorithm, it is the name that the tokenizers library uses, such as 'Unigram'.
        """
        model = json.loads(self._backend.to_str())["model"]
        if model["type"] != "BPE":
            return str(model["type"])
        if model["merges"]:
            return "bpe"
        return "char" if model["byte_fallback"] else "byte"

    def encode(self, text: str) -> list[int]:
        """Encodes a text into ids. Raises BadInput for text that is not valid Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes several texts into ids, on all cores."""
        checked = [checked_text(text) for text in texts]
        if self.mask is not None and any(MASK in text for text in checked):
            return [[piece.id for piece in self.pieces(text)] for text in checked]
        with _library_failures(self._may_panic):
            encodings = self._backend.encode_batch_fast(checked, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _special(self) -> dict[str, tuple[int, AddedToken]]:
        """The special tokens: string -> id and token, longer strings first."""
        added = self._backend.get_added_tokens_decoder().items()
        special = {str(token.content): (id_, token) for id_, token in added if token.special and token.content}
        return dict(sorted(special.items(), key=lambda item: -len(item[0])))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens."""
        return frozenset(id_ for id_, _ in self._special.values())

    def stand_ins(self, texts: Sequence[str]) -> dict[str, str]:
        """Returns a stand-in for each special token whose string occurs in the texts: unused character -> string.

        If each string is replaced by its character, the texts contain no special tokens. Longer strings are first,
        because a string may contain another string.
        """
        whole = "".join(texts)
        unused = (char for char in map(chr, _PRIVATE_USE) if char not in whole)
        return {next(unused): spelled for spelled in self._special if spelled in whole}

    def encode_with_special(self, text: str, stand_ins: Mapping[str, str]) -> list[int]:
        """Encodes a text and recognizes its special tokens, as transformers does for a rendered template.

        Each character of `stand_ins` becomes its string again, which is encoded as plain text. So the texts between
        special tokens are encoded one by one.
        """
        if not any(stand_in in text for stand_in in stand_ins):
            self._backend.encode_special_tokens = False
            try:
                with _library_failures(self._may_panic):
                    return list(self._backend.encode(text, add_special_tokens=False).ids)
            finally:
                self._backend.encode_special_tokens = True
        parts = re.split(f"({'|'.join(map(re.escape, self._special))})", text)  # text and special tokens alternate
        specials = [None, *(self._special[name] for name in parts[1::2]), None]
        ids: list[int] = []
        for between, before, after in zip(parts[::2], specials, specials[1:], strict=False):
            ids += [] if before is None else [before[0]]
            between = between.lstrip() if before is not None and before[1].rstrip else between
            between = between.rstrip() if after is not None and after[1].lstrip else between
            for stand_in, spelled in stand_ins.items():
                between = between.replace(stand_in, spelled)
            ids += self.encode(between) if between else []
        return ids

    def decode(self, ids: Sequence[int], after: Sequence[int] = ()) -> str:
        """Decodes ids; bytes that are not UTF-8 become U+FFFD. Raises BadInput for an id outside the vocabulary.

        `after` are the preceding ids, whose text is not returned. Some decoders drop a space at the beginning of a
        text. If there are preceding ids, the first space of `ids` is kept.
        """
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise BadInput(f"There is no token {i}: this tokenizer has ids 0 to {self.vocab_size - 1}.")
        if self._holds_bytes:
            return b"".join(map(self._bytes, ids)).decode("utf-8", "replace")
        before = self.context(after)
        return self._joined([*before, *ids])[len(self._joined(before)) if before else 0 :]

    def _joined(self, ids: Sequence[int]) -> str:
        with _library_failures(self._may_panic):
            return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def context(self, ids: Sequence[int]) -> list[int]:
        """Returns the ids at the end of `ids` on which the decoding of the next ids depends.

        Decoding depends on the previous token, or on a run of byte tokens. Special tokens at the beginning of a text
        are left out. The result is empty at the beginning of a text, and for a tokenizer whose tokens do not depend on
        their context.
        """
        if self._holds_bytes:
            return []
        text = list(dropwhile(lambda id_: id_ in self.special_ids or id_ >= self.vocab_size, ids))
        at = len(text) - 1
        while at > 0 and (self._is_byte(text[at]) or not self._joined(text[at:])):
            at -= 1
        return text[max(at, 0) :]

    def name(self, id_: int) -> str:
        """Returns the text of a token inside a text: '▁time' -> ' time'.

        At the beginning of a text, the text of this token would be 'time'.
        """
        return self.decode([id_], self._before_a_name)

    def bytes_of(self, id_: int) -> bytes:
        """Returns the UTF-8 bytes of a token inside a text; of an incomplete character, the bytes in this token."""
        if self._holds_bytes or self._is_byte(id_):
            return self._bytes(id_)
        return self.name(id_).encode()

    @cached_property
    def _before_a_name(self) -> list[int]:
        """The ids that `name` decodes before a token.

        With them, a decoder that drops the first space of a text does not drop the leading space of the token.
        """
        of = self._decoder.get("of", [self._decoder["type"]])
        drops = isinstance(of, list) and not {"Strip", "Metaspace", "WordPiece"}.isdisjoint(of)
        return self.encode("a") if drops else []

    def _is_byte(self, id_: int) -> bool:
        return _BYTE_TOKEN.fullmatch(self._backend.id_to_token(id_) or "") is not None

    def pieces(self, text: str) -> list[Piece]:
        """Returns the tokens of a text as pieces, each with the characters that the token covers."""
        checked_text(text)
        if self.mask is None or MASK not in text:
            return self._plain_pieces(text)
        *before, last = text.split(MASK)
        pieces = []
        for part in before:
            found = self._plain_pieces(part)
            masked = part[sum(len(piece.completed) for piece in found) :] + MASK  # with the white space before MASK
            pieces += [*found, Piece(self.mask, masked, len(masked.encode()))]
        return pieces + self._plain_pieces(last)

    def _plain_pieces(self, text: str) -> list[Piece]:
        """Returns the pieces of a text without masks."""
        with _library_failures(self._may_panic):
            encoding = self._backend.encode(text, add_special_tokens=False)
        ids, spans = encoding.ids, encoding.offsets
        if self._decoder["type"] == "WordPiece":  # drops white space; here, the next token contains it, as in GPT-2
            ends = [0, *(end for _, end in spans)]
            spans = [(min(before, start), end) for before, (start, end) in zip(ends, spans, strict=False)]
        if not self._has_prefix(ids, spans):
            return self._pieces(ids, spans, text)
        prefix = Piece(ids[0], (self._backend.id_to_token(ids[0]) or "")[-1:], 0, unfinished=True)
        return [prefix, *self._pieces(ids[1:], spans[1:], text)]

    def pieces_within(self, text: str) -> list[Piece]:
        """Returns the pieces of a part of a text, without the tokens that the tokenizer adds before a text."""
        return list(dropwhile(lambda piece: not piece.of_text, self.pieces(text)))

    def _has_prefix(self, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> bool:
        """Whether the first token is only the '▁' of SentencePiece, which the tokenizer adds before the text.

        The library then reports overlapping spans: both '▁' and the next token span the first character of the text.
        """
        return (
            not self._holds_bytes
            and len(spans) > 1
            and spans[1][0] < spans[0][1]
            and not self._is_byte(ids[0])
            and not self._joined(ids[:1])
        )

    def pieces_of(self, ids: Sequence[int]) -> list[Piece]:
        """Returns the pieces of ids that a model generated. These ids may differ from the encoding of their text.

        If the tokens of the tokenizer are not bytes, the ids are decoded, and the pieces of the text are returned.
        """
        if not self._holds_bytes:
            return self.pieces(self.decode(ids))
        tokens = [self._bytes(id_) for id_ in ids]
        text, at = _decoded(b"".join(tokens))
        ends = list(accumulate(len(token) for token in tokens))
        spans = [
            (at[end - len(token)], at[end - 1] + 1) if token else (0, 0)
            for token, end in zip(tokens, ends, strict=True)
        ]
        return self._pieces(ids, spans, text)

    def _pieces(self, ids: Sequence[int], spans: Sequence[tuple[int, int]], text: str) -> list[Piece]:
        """Returns the pieces of ids. `spans` lists the range of characters of `text` that each id covers."""
        # The number of tokens that cover each character; several tokens can share a character.
        cover = Counter(at for start, end in spans for at in range(start, end))
        seen: Counter[int] = Counter()
        pieces = []
        for id_, (start, end) in zip(ids, spans, strict=True):
            seen.update(range(start, end))
            split = next((at for at in range(start, end) if cover[at] > 1), None)
            part = (1, 1) if split is None else (seen[split], cover[split])
            covered = text[start:end]
            unfinished = end > start and seen[end - 1] < cover[end - 1]
            if self._holds_bytes or (split is not None and self._is_byte(id_)):
                size = len(self._bytes(id_))
            else:  # if a normalizer split a character, the last token counts its bytes
                size = len((covered[:-1] if unfinished else covered).encode())
            pieces.append(Piece(id_, covered, size, part, unfinished))
        return pieces

    def stream(self, after: Sequence[int] = ()) -> DecodeStream:
        """Returns a decoder for ids that arrive one at a time.

        `after` are the preceding ids, whose text is not returned.
        """
        return DecodeStream(self, after)

    def _bytes(self, id_: int) -> bytes:
        """Returns the bytes of a token of a tokenizer whose tokens are bytes or characters."""
        known = self._known_bytes.get(id_)
        if known is None:
            known = self._known_bytes[id_] = self._looked_up_bytes(id_)
        return known

    def _looked_up_bytes(self, id_: int) -> bytes:
        token = self._backend.id_to_token(id_) or ""
        if self._byte_level:
            spelled = id_ not in self._added and all(char in _BYTE_OF for char in token)
            return bytes(_BYTE_OF[char] for char in token) if spelled else token.encode()
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._backend.get_added_tokens_decoder())

    @cached_property
    def _byte_level(self) -> bool:
        """Whether the vocabulary spells every token with one character per byte."""
        return self._decoder == {"type": "ByteLevel"}

    @cached_property
    def _holds_bytes(self) -> bool:
        """Whether a token has the same bytes in every context, so that decoding concatenates the bytes of tokens."""
        return self._byte_level or self._decoder == {"type": "Sequence", "of": ["ByteFallback", "Fuse"]}

    @cached_property
    def _decoder(self) -> dict[str, object]:
        """The type of the library's decoder, such as {'type': 'ByteLevel'}.

        For a sequence, it also lists the types of the decoders: {'type': 'Sequence', 'of': ['ByteFallback', 'Fuse']}.
        """
        decoder = json.loads(self._backend.to_str())["decoder"] or {"type": None}
        kind = {"type": decoder["type"]}
        return kind | {"of": [part["type"] for part in decoder["decoders"]]} if "decoders" in decoder else kind


@contextmanager
def _library_failures(may_panic: bool) -> Iterator[None]:
    """Turns any failure of the library in the `with` block into BadCheckpoint.

    The failure may be a panic, which is a BaseException but not an Exception.
    """
    try:
        with held_back() if may_panic else nullcontext():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:
        raise BadCheckpoint(
            f"The tokenizer fails: {str(problem)[:160]}", "Copy the model again from its source."
        ) from None


class DecodeStream:
    """Decodes ids that arrive one at a time. The returned texts concatenate to the decoding of all ids.

    A character may be split over several tokens, and in some tokenizers the text of a token depends on its neighbors.
    So each step decodes the last few ids. If their text ends with U+FFFD, this character is held back, because the next
    id may complete it.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tail = tokenizer.context(after)  # ids since the second-to-last position at which all text was certain
        self._before = len(self._tail)  # how many ids of the tail precede the last such position
        self._given = 0  # how many characters after the last such position were already returned

    def add(self, id_: int) -> None:
        """Adds one id without decoding it. The next `push` or `flush` returns its text."""
        self._tail.append(id_)

    def push(self, id_: int) -> str:
        """Adds one id, and returns the new text that is now certain, which may be empty."""
        self.add(id_)
        text = self._since()
        certain = text.rstrip(_REPLACEMENT)
        new, self._given = certain[self._given :], max(self._given, len(certain))
        if text and certain == text:
            self._tail = self._tail[self._before :]
            self._before, self._given = len(self._tail), 0
        return new

    def flush(self) -> str:
        """Returns the rest of the text after the last id, with U+FFFD for an unfinished character."""
        rest = self._since()[self._given :]
        self._tail, self._before, self._given = [], 0, 0
        return rest

    def _since(self) -> str:
        """Returns the decoded text that has not been returned yet."""
        before = self._tokenizer.decode(self._tail[: self._before])
        return self._tokenizer.decode(self._tail)[len(before) :]


def _decoded(data: bytes) -> tuple[str, list[int]]:
    """Decodes UTF-8. Returns the text, and for each byte the index of the character to which the byte belongs.

    Invalid UTF-8 becomes U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, at, pending = "", [], 0
    for end in range(1, len(data) + 2):
        found = decoder.decode(data[end - 1 : end], final=end > len(data))
        pending += end <= len(data)
        # The bytes of the found characters; each one after the first has one byte.
        done = pending - len(decoder.getstate()[0])
        for number in range(len(found)):
            at += [len(text) + number] * (done - len(found) + 1 if number == 0 else 1)
        text, pending = text + found, pending - done if found else pending
    return text, at


def byte_characters() -> list[str]:
    """Returns the 256 characters that represent the bytes 0 to 255 in a byte-level tokenizer (Radford et al., 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_OF = {char: byte for byte, char in enumerate(byte_characters())}


def checked_text(text: str) -> str:
    """Returns the text unchanged. Raises BadInput if it contains a surrogate, which means a byte that is not UTF-8."""
    if not isinstance(text, str):  # from a program without type checks
        raise BadInput(f"The text is {shown_value(text)}, which is not a string.", "Give a str.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        message = f"The text is not valid Unicode at character {problem.start}: it contains {text[problem.start]!a}."
        raise BadInput(message, "Convert it to UTF-8.") from None
    return text
