"""Corpus: a text that is split into a training and a validation part, and tokenized.

`prepare` splits the text, trains the tokenizer, tokenizes both parts, and stores the ids in the token cache. The text
is never in memory as a whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from attncli.config import CorpusConfig
from attncli.text.documents import Documents
from attncli.text.parts import Part, both_given, split_by_position, spread
from attncli.text.progress import Listener, Progress, ProgressMeter
from attncli.text.token_cache import find_entry, read_entry, tokenize
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from attncli.text.tokens import Tokens

_LEARN_FROM = 10_000_000  # characters; more text does not improve the vocabulary


@dataclass(frozen=True)
class Corpus:
    """The training part and the validation part of a text, as tokens of the same tokenizer."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    digest: str  # of the text and the split
    sources: tuple[str, ...]  # the paths of the text, as they were given
    text_digest: str  # of the text alone, without a separate validation text

    def opening(self, limit: int) -> str:
        """Returns the first `limit` characters of the first training document, or the whole document if it is shorter.

        The text is decoded from the ids, because the file may have been deleted. The number of decoded ids doubles
        until the text is long enough.
        """
        count = limit // 2 + 8
        while True:
            taken = self.train.ids[:count]
            ends = np.flatnonzero(taken == self.tokenizer.end_of_text)
            text = self.tokenizer.decode(taken[: ends[0] if len(ends) else count].tolist())
            # Decode a few characters more than `limit`, since the last character may be incomplete.
            if len(ends) or len(text) > limit + 4 or count >= len(self.train):
                return text[:limit]
            count *= 2


def default_vocab_size(characters: int) -> int:
    """Returns the vocabulary size for a text: the power of two nearest to sqrt(characters), from 512 to 8192.

    1 million characters -> 1024; 50 million characters -> 8192. For 1 million characters, 1024 is the best size in "The
    recipe" of benchmarks/README.md.
    """
    return int(min(max(2 ** np.ceil(np.log2(max(characters, 1)) / 2 - 0.5), 512), 8192))


def prepare(
    documents: Documents,
    config: CorpusConfig,
    val_documents: Documents | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Listener | None = None,
) -> Corpus:
    """Returns the corpus of a text: splits the text, trains a tokenizer if none is given, and tokenizes both parts.

    The tokenizer is trained on the training part. The ids are cached under a hash of the text, the settings and the
    tokenizer.

    Raises:
        BadInput: for too little text, or a file that changed since it was first read.
        UsageProblem: for a vocabulary size that the kind of tokenizer does not allow.
        OutOfRoom: if the cache cannot be written.
    """
    if val_documents is None:
        train, val = split_by_position(documents, config.val_fraction)
        digest = digest_of(documents.digest, train.characters)
    else:
        train, val = both_given(documents, val_documents)
        digest = digest_of(documents.digest, val_documents.digest)
    entry, found = find_entry(digest, config, tokenizer, read_entry)
    if found is None:
        if config.most_characters is not None:
            train, val = spread(train, config.most_characters), spread(val, config.most_characters)
        if tokenizer is None:
            tokenizer = learn_tokenizer(train, config, progress)
        found = tokenize(train, val, tokenizer, entry, progress)
    return Corpus(found.train, found.val, found.tokenizer, digest, documents.sources, documents.digest)


def learn_tokenizer(part: Part, config: CorpusConfig, progress: Listener | None = None) -> Tokenizer:
    """Trains a tokenizer on a part of a text.

    BPE reads all of a small part, and evenly spread passages of a large part. Raises UsageProblem for a vocabulary size
    that the kind of tokenizer does not allow.
    """
    vocab_size = vocab_size_for(config, part.characters)
    part = spread(part, _LEARN_FROM) if config.tokenizer == "bpe" else part
    meter = ProgressMeter(progress, Progress("learning the vocabulary", 0, part.bytes))
    texts = (text for chunks in part.chunks() for text, _ in chunks)
    return train_tokenizer(meter.counted(texts), config.tokenizer, vocab_size)


def vocab_size_for(config: CorpusConfig, characters: int) -> int | None:
    """Returns the size of the vocabulary to train: the given size, or for bpe the default for a number of characters.

    None lets the kind of tokenizer decide.
    """
    if config.vocab_size is None and config.tokenizer == "bpe":
        return default_vocab_size(characters)
    return config.vocab_size


def digest_of(documents: str, rest: str | int) -> str:
    """Returns the digest of a corpus: a hash of the two values `documents` and `rest`.

    `documents` is the digest of the documents. `rest` tells how they were split: it is the number of training
    characters, or the digest of a separate validation text.
    """
    return hashlib.sha256(f"{documents} {rest}".encode()).hexdigest()
