"""Trains tokenizers of the kinds bpe, char and byte."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from attncli.config import TOKENIZER_KINDS, TokenizerKind
from attncli.config.corpus import LARGEST_VOCABULARY, VOCABULARY
from attncli.errors import UsageProblem
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer, byte_characters, checked_text

if TYPE_CHECKING:
    from tokenizers import AddedToken

_LEARN_LENGTH = 1024  # characters of a stretch that bpe learns from
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")


def train_tokenizer(texts: Iterable[str], kind: TokenizerKind, vocab_size: int | None = None) -> Tokenizer:
    """Returns a tokenizer that is trained on texts.

    Args:
        texts: the texts to learn the vocabulary from.
        kind: 'bpe' merges frequent byte sequences; 'char' has one id per character, 'byte' one id per byte.
        vocab_size: the number of ids. If None, 'bpe' has 1024 ids, and 'char' has 257 ids plus one for each character
            seen. 'byte' always has 257 ids.

    Raises:
        UsageProblem: for an unknown kind; for a vocab_size below 257 or too large; for 'byte', for any vocab_size but
            257.
    """
    if kind not in TOKENIZER_KINDS:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('tokenizer')} {kind!r} is not a kind of tokenizer.",
                f"Use {', '.join(TOKENIZER_KINDS)}.",
            )
        )
    if vocab_size is not None:
        if kind == "byte" and vocab_size != 257:
            raise UsageProblem.naming(
                lambda named: (
                    "The byte tokenizer always has 257 ids.",
                    f"Leave {named('vocab_size')} out, or use {named('tokenizer')} bpe.",
                )
            )
        VOCABULARY.check("vocab_size", vocab_size)
    if kind == "byte":
        return byte_tokenizer()
    if kind == "char":
        return _char_tokenizer(texts, vocab_size)
    return _bpe_tokenizer(texts, vocab_size or 1024)


def byte_tokenizer() -> Tokenizer:
    """Returns a tokenizer with 257 ids: 0 to 255 are the byte values, and 256 is the end of a document."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    backend = Backend(models.BPE({char: byte for byte, char in enumerate(byte_characters())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_end_of_text_token()])
    return Tokenizer(backend)


def _end_of_text_token() -> AddedToken:
    from tokenizers import AddedToken

    return AddedToken(END_OF_TEXT, special=True, normalized=False)


def _bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Learn from short stretches: text without white space is one word, whose time is quadratic in its length.
    learned_from = (stretch for text in texts for stretch in stretches(checked_text(text), _LEARN_LENGTH))
    backend.train_from_iterator(learned_from, trainer)
    return Tokenizer(backend)


def _char_tokenizer(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(checked_text(text))
    room = LARGEST_VOCABULARY if vocab_size is None else vocab_size
    kept = [char for char, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: room - 257]]
    names = [END_OF_TEXT, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(kept)]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([_end_of_text_token()])
    return Tokenizer(backend)


def stretches(text: str, length: int = 1 << 20) -> Iterator[str]:
    """Yields a long text in stretches of about `length` characters, such as 'ab cd' -> 'ab', ' cd'.

    The tokens of all stretches are the tokens of the whole text, because a stretch ends after a word, before a space or
    a line end: pre-tokenizers like GPT-2's never join a word to the white space after it. If no word ends between
    `length` and `2 * length` characters, the stretch ends after `2 * length` characters.
    """
    start = 0
    while len(text) - start > length:
        found = _SAFE_CUT.search(text, start + length, start + 2 * length)
        at = found.start() if found else min(start + 2 * length, len(text))
        yield text[start:at]
        start = at
    if start < len(text):
        yield text[start:]
