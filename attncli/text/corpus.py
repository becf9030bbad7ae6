"""Corpus: a text split into a training and a validation part, tokenized with a tokenizer that is learned from it.

`prepare` does all of it, and keeps the ids in the token cache. A text is never held in memory as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attncli.config import CorpusConfig
from attncli.text.documents import Documents
from attncli.text.parts import Part, both_given, split_by_position, spread
from attncli.text.progress import Listener, Meter, Progress
from attncli.text.token_cache import entry_of, entry_with, read_entry, tokenize
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from attncli.text.tokens import Tokens

_LEARN_FROM = 10_000_000  # characters: a vocabulary learned from more is no better


@dataclass(frozen=True)
class Corpus:
    """A training and a validation part under one tokenizer. `digest` is of the text and of how it was split."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    digest: str
    sources: tuple[str, ...]

    def opening(self, limit: int) -> str:
        """The first `limit` characters of the first training document, or all of a shorter one.

        Decoded from the ids, since the file may be gone: from more and more of them until there is enough text.
        """
        count = limit // 2 + 8
        while True:
            taken = self.train.ids[:count]
            ends = np.flatnonzero(taken == self.tokenizer.end_of_text)
            text = self.tokenizer.decode(taken[: ends[0] if len(ends) else count].tolist())
            # A few characters more, so that no character at the limit is cut.
            if len(ends) or len(text) > limit + 4 or count >= len(self.train):
                return text[:limit]
            count *= 2


def default_vocab_size(characters: int) -> int:
    """The vocabulary size for this much text: the power of two nearest its square root, from 512 to 8192.

    1 million characters -> 1024, which was measured best ("The recipe" in benchmarks/README.md); 50 million -> 8192.
    """
    return int(min(max(2 ** np.ceil(np.log2(max(characters, 1)) / 2 - 0.5), 512), 8192))


def prepare(
    documents: Documents,
    config: CorpusConfig,
    val_documents: Documents | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Listener | None = None,
) -> Corpus:
    """Splits a text, learns a tokenizer from the training part unless one is given, and tokenizes both parts.

    The result is cached by the content of everything that it depends on.

    Raises:
        BadInput: for too little text, or a file that changed since it was first read.
        UsageProblem: for a vocabulary that the kind of tokenizer cannot have.
        OutOfRoom: when the cache cannot be written.
    """
    if val_documents is None:
        train, val = split_by_position(documents, config.val_fraction)
        digest = _digest(documents.digest, train.characters)
    else:
        train, val = both_given(documents, val_documents)
        digest = _digest(documents.digest, val_documents.digest)
    entry = entry_of(digest, config)
    found = read_entry(entry)
    if tokenizer is not None and (found is None or found.tokenizer.to_json() != tokenizer.to_json()):
        entry = entry_with(entry, tokenizer)
        found = read_entry(entry)
    if found is None:
        if config.most_characters is not None:
            train, val = spread(train, config.most_characters), spread(val, config.most_characters)
        if tokenizer is None:
            tokenizer = learn_tokenizer(train, config, progress)
        found = tokenize(train, val, tokenizer, entry, progress)
    return Corpus(found.train, found.val, found.tokenizer, digest, documents.sources)


def learn_tokenizer(part: Part, config: CorpusConfig, progress: Listener | None = None) -> Tokenizer:
    """Learns the tokenizer of a text; a BPE vocabulary of a large text is learned from passages of it.

    Raises UsageProblem for a vocabulary that the kind of tokenizer cannot have.
    """
    vocab_size = config.vocab_size
    if config.tokenizer == "bpe":
        vocab_size = default_vocab_size(part.characters) if vocab_size is None else vocab_size
        part = spread(part, _LEARN_FROM)
    meter = Meter(progress, Progress("learning the vocabulary", 0, part.bytes))

    def texts() -> Iterator[str]:
        for chunks in part.chunks():
            for text, _ in chunks:
                yield text
                meter.add(len(text.encode()))

    return train_tokenizer(texts(), config.tokenizer, vocab_size)


def _digest(documents: str, rest: str | int) -> str:
    """The digest of a corpus: of its documents, and of the place of the split or of the validation documents."""
    return hashlib.sha256(f"{documents} {rest}".encode()).hexdigest()
