"""CorpusConfig: how text becomes tokens to train on. Only this file defines the defaults and limits of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import Limit, is_whole, require
from attncli.config.option import check, option
from attncli.config.values import COUNT
from attncli.errors import UsageProblem

TokenizerKind = Literal["bpe", "char", "byte"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = ("bpe", "char", "byte")
LARGEST_VOCABULARY = 1 << 20
VOCABULARY = Limit(
    f"a whole number from 257 to {LARGEST_VOCABULARY:,}: 256 ids are the bytes, and one ends a document",
    lambda size: is_whole(size) and 257 <= size <= LARGEST_VOCABULARY,
)
PAIR_VOCABULARY = Limit(
    f"a whole number from 260 to {LARGEST_VOCABULARY:,} for pairs: 256 ids are the bytes, and 4 are special tokens",
    lambda size: is_whole(size) and 260 <= size <= LARGEST_VOCABULARY,
)
_TEXT = "The text"


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How text becomes tokens to train on. If vocab_size is None, it is chosen by the amount of text."""

    tokenizer: TokenizerKind = option(
        "bpe", "The kind of tokenizer to train.", choices=TOKENIZER_KINDS, panel=_TEXT, rare=True
    )
    vocab_size: int | None = option(
        None,
        "The number of token ids to learn. Unset: chosen by the amount of text.",
        format=COUNT,
        limit=VOCABULARY,
        panel=_TEXT,
        rare=True,
    )
    val_fraction: float = option(  # counted in characters of a text, or in pairs
        0.1,
        "The share of the text to validate on, taken from its end; of pairs, chosen by a hash of the source.",
        limit=Limit("above 0 and at most 0.5", lambda share: 0 < share <= 0.5),
        panel=_TEXT,
        rare=True,
    )
    encoding: str = option("utf-8", "The encoding of the text.", panel=_TEXT, rare=True)
    most_characters: int | None = None  # of a part; a larger part is replaced by passages spread over it

    def __post_init__(self) -> None:
        check(self)
        most = self.most_characters
        require(most is None or most >= 1, "most_characters", most, "at least 1")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):  # ValueError: the name contains a NUL
            raise _no_encoding(self.encoding) from None


def _no_encoding(encoding: str) -> UsageProblem:
    return UsageProblem.naming(
        lambda name: (
            f"{name('encoding')} {encoding!r} is not an encoding that Python knows.",
            "Try latin-1, cp1252 or utf-16.",
        )
    )
