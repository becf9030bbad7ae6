"""Trains tokenizers of the kinds bpe, char and byte, for texts and for pairs of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from attncli.config import TOKENIZER_KINDS, TokenizerKind
from attncli.config.corpus import LARGEST_VOCABULARY, PAIR_VOCABULARY, VOCABULARY
from attncli.config.limits import Limit
from attncli.errors import UsageProblem
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer, byte_characters, checked_text

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

PAIR_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3 of a tokenizer for pairs
PAIR_END = "</s>"  # ends a text of a pair
_LEARN_LENGTH = 1024  # characters of a stretch that bpe learns from
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")


def train_tokenizer(texts: Iterable[str], kind: TokenizerKind, vocab_size: int | None = None) -> Tokenizer:
    """Returns a tokenizer that is trained on texts. Its special token `<|endoftext|>` separates documents.

    Args:
        texts: the texts to learn the vocabulary from.
        kind: 'bpe' merges frequent byte sequences; 'char' has one id per character, 'byte' one id per byte.
        vocab_size: the number of ids. If None, 'bpe' has 1024 ids, and 'char' has 257 ids plus one for each character
            seen. 'byte' always has 257 ids.

    Raises:
        UsageProblem: for an unknown kind; for a vocab_size below 257 or too large; for 'byte', for any vocab_size but
            257.
    """
    _check(kind, vocab_size, VOCABULARY, 257)
    if kind == "byte":
        return byte_tokenizer()
    return Tokenizer(_trained(texts, kind, vocab_size, (END_OF_TEXT,)))


def train_pair_tokenizer(texts: Iterable[str], kind: TokenizerKind, vocab_size: int | None = None) -> Tokenizer:
    """Returns a tokenizer that is trained on the texts of both sides of pairs.

    Its first ids are the special tokens of M2M100 in transformers: 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 `<unk>`. The
    post-processor adds `</s>` after a text. No text needs `<unk>`, because every byte has an id. Arguments and errors
    are as in `train_tokenizer`, with 260 ids in place of 257.
    """
    from tokenizers.processors import TemplateProcessing

    _check(kind, vocab_size, PAIR_VOCABULARY, 260)
    if kind == "byte":
        backend = _bytes((*PAIR_TOKENS, *byte_characters()))
    else:
        backend = _trained(texts, kind, vocab_size, PAIR_TOKENS)
    backend.add_special_tokens([_special(name) for name in PAIR_TOKENS])
    end = (PAIR_END, PAIR_TOKENS.index(PAIR_END))
    backend.post_processor = TemplateProcessing(f"$A {PAIR_END}", f"$A {PAIR_END} $B:1 {PAIR_END}:1", [end])
    return Tokenizer(backend)


def _check(kind: TokenizerKind, vocab_size: int | None, limit: Limit, least: int) -> None:
    """Raises UsageProblem for an unknown kind, or for a size that the kind does not allow: 'byte' has `least` ids."""
    if kind not in TOKENIZER_KINDS:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('tokenizer')} {kind!r} is not a kind of tokenizer.",
                f"Use {', '.join(TOKENIZER_KINDS)}.",
            )
        )
    if vocab_size is None:
        return
    if kind == "byte" and vocab_size != least:
        raise UsageProblem.naming(
            lambda named: (
                f"The byte tokenizer always has {least} ids.",
                f"Leave {named('vocab_size')} out, or use {named('tokenizer')} bpe.",
            )
        )
    limit.check("vocab_size", vocab_size)


def byte_tokenizer() -> Tokenizer:
    """Returns a tokenizer with 257 ids: 0 to 255 are the byte values, and 256 is the end of a document."""
    backend = _bytes(byte_characters())
    backend.add_special_tokens([_special(END_OF_TEXT)])
    return Tokenizer(backend)


def _special(name: str) -> AddedToken:
    from tokenizers import AddedToken

    return AddedToken(name, special=True, normalized=False)


def _bytes(names: Sequence[str]) -> Backend:
    """Returns a tokenizer without merges, whose ids are the indices in `names`."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _trained(texts: Iterable[str], kind: TokenizerKind, vocab_size: int | None, special: Sequence[str]) -> Backend:
    """Trains a tokenizer of the kind 'bpe' or 'char'. The first ids are the special tokens."""
    if kind == "char":
        return _char_tokenizer(texts, vocab_size, special)
    return _bpe_tokenizer(texts, vocab_size or 1024, special)


def _bpe_tokenizer(texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Learn from short stretches: text without white space is one word, whose time is quadratic in its length.
    learned_from = (stretch for text in texts for stretch in stretches(checked_text(text), _LEARN_LENGTH))
    backend.train_from_iterator(learned_from, trainer)
    return backend


def _char_tokenizer(texts: Iterable[str], vocab_size: int | None, special: Sequence[str]) -> Backend:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(checked_text(text))
    fixed = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    room = LARGEST_VOCABULARY if vocab_size is None else vocab_size
    kept = [char for char, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: room - len(fixed)]]
    names = [*fixed, *sorted(kept)]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([_special(name) for name in special])
    return backend


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
