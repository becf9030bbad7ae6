"""PairCorpus: pairs that are split into a training and a validation part, and tokenized with one joint vocabulary.

`prepare_pairs` splits the pairs, trains the tokenizer on both sides, tokenizes both parts, and stores the ids in the
token cache. Texts and ids are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from attncli.config import CorpusConfig
from attncli.errors import BadInput
from attncli.text.corpus import digest_of, vocab_size_for
from attncli.text.pair_cache import read_pair_entry, store_pairs
from attncli.text.pair_split import shared_sources, split_by_source
from attncli.text.pair_tokens import PairTokens, tokenize_pairs
from attncli.text.pairs import Pairs
from attncli.text.progress import Listener, Progress, ProgressMeter
from attncli.text.token_cache import SMALLEST_TRAINING, find_entry
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_pair_tokenizer

# Characters of both sides. With six times as many, a vocabulary of 8192 encodes the same text in 0.3% fewer tokens, and
# learning takes six times as long.
_LEARN_FROM = 2_000_000


@dataclass(frozen=True)
class PairCorpus:
    """The training part and the validation part of pairs, as tokens of the same tokenizer.

    `sources` are the paths of the training pairs, as they were given. `shared` is the number of pairs of a separate
    validation file whose source is also trained on.
    """

    train: PairTokens
    val: PairTokens
    tokenizer: Tokenizer
    digest: str  # a hash of the pairs and the split
    sources: tuple[str, ...]
    text_digest: str  # a hash of the pairs, without separate validation pairs
    shared: int = 0

    def within(self, context: int) -> PairCorpus:
        """Returns the corpus without the pairs that have a side of more than `context` ids.

        Raises BadInput if a part has no pairs left.
        """
        found = replace(self, train=self.train.within(context), val=self.val.within(context))
        for name, part in (("train", found.train), ("validate", found.val)):
            if not len(part):
                pairs = f"All {part.too_long:,} pairs" if part.too_long > 1 else "The only pair"
                has = "have" if part.too_long > 1 else "has"
                raise _none_fits(f"{pairs} to {name} on {has} more than {context} tokens on a side.")
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes for the user before training: the numbers of pairs left out, and of shared sources."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        for does, part in (("trains", self.train), ("is validated", self.val)):
            if part.left_out:
                pairs = f"{len(part) + part.too_long:,} of {len(part) + part.too_long + part.left_out:,} pairs"
                yield f"the time suffices for a part of the pairs: the model {does} on {pairs}, spread evenly"
        for name, part in (("train", self.train), ("validate", self.val)):
            if part.too_long:
                pairs = f"{part.too_long:,} of {len(part) + part.too_long:,} pairs to {name} on"
                yield f"left out {pairs}: a side has more tokens than the context"
        if self.shared:
            pairs = f"{self.shared:,} of {len(self.val) + self.val.too_long + self.val.left_out:,} validation pairs"
            yield f"the source of {pairs} is also trained on: the scores partly measure memorized pairs"


def prepare_pairs(
    pairs: Pairs,
    config: CorpusConfig,
    val_pairs: Pairs | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Listener | None = None,
) -> PairCorpus:
    """Returns the corpus of pairs: splits them, trains a tokenizer if none is given, and tokenizes both parts.

    If `val_pairs` are not given, the sources of `config.val_fraction` of the pairs are held out. Then no source is in
    both parts. The tokenizer is trained on both sides of the training part. The ids are cached under a hash of the
    pairs, the settings and the tokenizer.

    Raises:
        BadInput: for too few pairs, or pairs that cannot be split.
        BadCheckpoint: for a given tokenizer that does not end a text with one token.
        UsageProblem: for a vocabulary size that the kind of tokenizer does not allow.
        OutOfRoom: if the cache cannot be written.
    """
    train, val = split_by_source(pairs, config.val_fraction) if val_pairs is None else (pairs, val_pairs)
    shared = shared_sources(train, val)
    digest = digest_of(f"pairs {pairs.digest}", len(val) if val_pairs is None else val_pairs.digest)
    parts = {"train": train, "val": val}
    kept = {name: spread(part, config.most_characters) for name, part in parts.items()}
    entry, found = find_entry(digest, config, tokenizer, lambda place: read_pair_entry(place, kept))
    if found is None:
        if tokenizer is None:
            tokenizer = learn_pair_tokenizer(kept["train"], config, progress)
        meter = ProgressMeter(progress, Progress("tokenizing", 0, sum(part.bytes for part in kept.values())))
        tokens = {name: tokenize_pairs(part, tokenizer, meter) for name, part in kept.items()}
        _check_amount(tokens["train"])
        found = store_pairs(entry, tokens, tokenizer)
    train_tokens, val_tokens = (
        replace(found.parts[name], left_out=len(part) - len(kept[name])) for name, part in parts.items()
    )
    return PairCorpus(train_tokens, val_tokens, found.tokenizer, digest, pairs.paths, pairs.digest, shared)


def learn_pair_tokenizer(train: Pairs, config: CorpusConfig, progress: Listener | None = None) -> Tokenizer:
    """Trains a tokenizer with one vocabulary for both sides of pairs.

    BPE reads all of a few pairs, or pairs that are spread evenly over many. Raises UsageProblem for a vocabulary size
    that the kind of tokenizer does not allow.
    """
    vocab_size = vocab_size_for(config, train.characters)
    train = spread(train, _LEARN_FROM) if config.tokenizer == "bpe" else train
    meter = ProgressMeter(progress, Progress("learning the vocabulary", 0, train.bytes))
    texts = chain(train.source, train.target)
    return train_pair_tokenizer(meter.counted(texts), config.tokenizer, vocab_size)


def spread(pairs: Pairs, most: int | None) -> Pairs:
    """Returns pairs with about `most` characters on both sides together, spread evenly over the given pairs.

    Returns all pairs if they have at most `most` characters, or if `most` is None.
    """
    if most is None or pairs.characters <= most:
        return pairs
    count = max(len(pairs) * most // pairs.characters, 1)
    return pairs.take(np.arange(count, dtype=np.int64) * len(pairs) // count)


def _none_fits(message: str) -> BadInput:
    return BadInput.naming(lambda named: (message, f"Set a larger {named('context')}."))


def _check_amount(train: PairTokens) -> None:
    """Raises BadInput for pairs that are too few to learn from."""
    if train.to_score < SMALLEST_TRAINING:
        raise BadInput(
            f"The pairs are too few to learn from: {len(train):,} pairs with {train.to_score} target tokens to train "
            f"on; at least {SMALLEST_TRAINING} tokens are needed.",
            "Give more pairs: a few thousand are enough for a first model.",
        )
