"""PairTokens: the token ids of both sides of a part of the pairs, in flat arrays.

The ids of a text end with the token that the tokenizer adds after a text, such as `</s>`: an encoder reads it, and a
decoder predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadCheckpoint
from attncli.text.encode import Encoder, batches, dtype_of
from attncli.text.pairs import Pairs
from attncli.text.progress import ProgressMeter
from attncli.text.string_array import StringArray
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class IdLists:
    """The ids of many texts in one array. Text i has the ids `ids[starts[i] : starts[i] + lengths[i]]`.

    A selection shares `ids` with the lists that it was taken from.
    """

    ids: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, ids: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> IdLists:
        """Returns the lists whose ids are concatenated in `ids`."""
        return cls(ids, np.cumsum(lengths) - lengths, lengths)

    def take(self, indices: NDArray[np.int64]) -> IdLists:
        """Returns the lists with these indices, in their order."""
        return IdLists(self.ids, self.starts[indices], self.lengths[indices])

    @property
    def tokens(self) -> int:
        """The number of ids of all texts."""
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.unsignedinteger]:
        start = int(self.starts[index])
        return self.ids[start : start + int(self.lengths[index])]


@dataclass(frozen=True, eq=False)
class PairTokens:
    """The ids of pairs, and their texts: row i of `source` and `target` encodes pair i of `pairs`.

    `left_out` pairs of the part were not tokenized. `too_long` pairs were removed by `within`.
    """

    pairs: Pairs
    source: IdLists
    target: IdLists
    left_out: int = 0
    too_long: int = 0

    def within(self, context: int) -> PairTokens:
        """Returns the pairs whose sides both have at most `context` ids, the end of the text included."""
        fits = np.maximum(self.source.lengths, self.target.lengths) <= context
        if fits.all():
            return self
        kept = np.flatnonzero(fits)
        return replace(
            self,
            pairs=self.pairs.take(kept),
            source=self.source.take(kept),
            target=self.target.take(kept),
            too_long=self.too_long + len(self) - len(kept),
        )

    @property
    def longest(self) -> int:
        """The number of ids of the longest side of a pair: the smallest context that fits every pair."""
        return max(int(self.source.lengths.max(initial=0)), int(self.target.lengths.max(initial=0)))

    @property
    def to_score(self) -> int:
        """The number of tokens that a decoder predicts: all ids of the targets."""
        return self.target.tokens

    @property
    def characters(self) -> int:
        """The number of characters of the targets."""
        return self.pairs.target.characters

    @property
    def bytes(self) -> int:
        """The size of the targets in bytes."""
        return self.pairs.target.bytes

    def share_of(self, scored: int) -> float:
        """Returns the share of the part that `scored` target tokens cover, from 0 to 1.

        Pairs that were left out or are too long belong to the part.
        """
        return scored / self.to_score * len(self) / (len(self) + self.left_out + self.too_long)

    def __len__(self) -> int:
        return len(self.source)


def tokenize_pairs(
    pairs: Pairs, tokenizer: Tokenizer, meter: ProgressMeter, forced: tuple[int, ...] = ()
) -> PairTokens:
    """Returns the ids of pairs. Raises BadCheckpoint for a tokenizer that does not end a text with one token.

    `forced` are the first tokens of every target, such as the code of a language. Without forced tokens, a target
    begins with the tokens that the tokenizer adds before a text.
    """
    source = _id_lists(pairs.source, tokenizer, tokenizer.opening, meter)
    target = _id_lists(pairs.target, tokenizer.target, forced or tokenizer.target.opening, meter)
    return PairTokens(pairs, source, target)


def _id_lists(texts: StringArray, tokenizer: Tokenizer, opening: Sequence[int], meter: ProgressMeter) -> IdLists:
    """Returns the ids of texts, each between `opening` and the token that the tokenizer adds after a text."""
    if tokenizer.closing != (tokenizer.end_of_text,):
        raise BadCheckpoint(
            "The tokenizer must add exactly one token after a text, so that a model can end a translation.",
            "Train on pairs with a new tokenizer, or with the tokenizer of an encoder-decoder.",
        )
    encoder = Encoder(tokenizer, ends=True)
    before = np.asarray(opening, dtype_of(tokenizer))
    ids, lengths = [], []
    for group in batches((text, True) for text in texts):
        some = encoder.encode(group)
        # In BPE, only an end token has the id of the end token. Other tokenizers count the ids of every text.
        ends = np.asarray(encoder.ends or np.flatnonzero(some == tokenizer.end_of_text) + 1, np.int64)
        sizes = np.diff(ends, prepend=0)
        ids.append(np.insert(some, np.repeat(ends - sizes, len(before)), np.tile(before, len(ends))))
        lengths.append(sizes + len(before))
        meter.add(sum(len(text.encode()) for text, _ in group))
    return IdLists.of(
        np.concatenate([np.empty(0, dtype_of(tokenizer)), *ids]), np.concatenate([np.empty(0, np.int64), *lengths])
    )
