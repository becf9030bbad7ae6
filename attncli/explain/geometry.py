"""Finds the tokens nearest to a word by cosine, and computes analogies. Both are compared with chance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attncli.errors import BadInput, UsageProblem
from attncli.explain.chance import Chance, chance_among
from attncli.explain.locate import find_span
from attncli.explain.question import Floats, layers_read, refuse_length
from attncli.explain.ranking import ranked
from attncli.explain.reading import read_text, text_stack
from attncli.model.attention import Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

Among = Literal["vocabulary", "text"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbor:
    """A token of the vocabulary or of a text, and the cosine of its vector with the query."""

    id: int
    text: str
    index: int | None  # in the text; None for a token of the vocabulary
    cosine: float


@dataclass(frozen=True)
class Neighbors:
    """The tokens nearest to a word, found among all token embeddings or among the tokens of a text.

    Without a text, the query is the mean of the embeddings of the word's tokens, and these tokens are left out of the
    neighbors. With a text, the query is the residual stream of the word's last token.
    """

    word: tuple[Piece, ...]
    text: tuple[Piece, ...] | None
    at: int | None  # the index of the word's last token in the text
    layer: int | None  # the number of layers after which the stream is taken
    among: Among
    nearest: tuple[Neighbor, ...]
    chance: Chance
    of_encoder: bool = False  # whether the encoder of an encoder-decoder read the text


@dataclass(frozen=True)
class Expected:
    """The cosine and the rank of the expected answer. The nearest token has rank 1."""

    word: tuple[Piece, ...]
    cosine: float
    rank: int
    rank_without: int  # the rank by cosine with the third word alone


@dataclass(frozen=True)
class Analogy:
    """The answers to 'first is to second as third is to what?': the tokens nearest to second - first + third."""

    words: tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]
    nearest: tuple[Neighbor, ...]
    chance: Chance
    expected: Expected | None


def spell(tokenizer: Tokenizer, word: str) -> tuple[Piece, ...]:
    """Returns the tokens of a word with a leading space, or without the space if this gives fewer tokens.

    Raises BadInput for a word without tokens.
    """
    forms = [word] if word[:1].isspace() else [f" {word}", word]
    spelled = [tuple(tokenizer.pieces_within(form)) for form in forms if word.strip()]
    if not spelled or not min(map(len, spelled)):
        raise BadInput("The word is empty.", "Give one, such as river.")
    return min(spelled, key=len)


def neighbors(model: Transformer, tokenizer: Tokenizer, word: Sequence[Piece], *, count: int = 10) -> Neighbors:
    """Returns the tokens whose embeddings are nearest to the mean embedding of a word's tokens."""
    cosines = _cosines_with_tokens(model, tokenizer, _mean(model, word))
    compared = _all_but(cosines, {piece.id for piece in word})
    nearest = _nearest_tokens(tokenizer, cosines, compared, count)
    return Neighbors(tuple(word), None, None, None, "vocabulary", nearest, chance_among(cosines[compared]))


def neighbors_in_text(
    model: Transformer,
    tokenizer: Tokenizer,
    text: Sequence[Piece],
    name: str,
    *,
    layer: int | None = None,
    among: Among = "vocabulary",
    count: int = 10,
) -> Neighbors:
    """Returns the tokens nearest to the residual stream of a word in a text, after `layer` layers (None: all layers).

    In an encoder-decoder, the encoder reads the text.

    If `among` is 'vocabulary', the stream is compared with the embeddings of all tokens, including the word's last
    token. If `among` is 'text', the stream is compared with the streams of the other tokens of the text.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a word or a layer that does not exist.
    """
    refuse_length(text, model.config.context)
    after = layers_read(len(text_stack(model).blocks), layer)
    first, at = find_span(text, name)
    streams = _streams(model, text, after)
    if among == "text":
        cosines = _cosines(streams, streams[at])
        compared = _all_but(cosines, {at})
        nearest = tuple(
            Neighbor(text[i].id, text[i].text, i, float(cosines[i])) for i in ranked(cosines, compared)[:count]
        )
    else:
        cosines = _cosines_with_tokens(model, tokenizer, streams[at])
        compared = _all_but(cosines, ())
        nearest = _nearest_tokens(tokenizer, cosines, compared, count)
    word = tuple(text[first : at + 1])
    chance = chance_among(cosines[compared])
    return Neighbors(word, tuple(text), at, after, among, nearest, chance, of_encoder=model.encoder is not None)


def analogy(
    model: Transformer,
    tokenizer: Tokenizer,
    words: tuple[Sequence[Piece], Sequence[Piece], Sequence[Piece]],
    expected: Sequence[Piece] | None = None,
    *,
    count: int = 10,
) -> Analogy:
    """Returns the tokens nearest to b - a + c (Mikolov et al., 2013), without the tokens of a, b and c.

    Raises UsageProblem when the expected word is one of the tokens left out.
    """
    a, b, c = (_mean(model, word) for word in words)
    cosines = _cosines_with_tokens(model, tokenizer, b - a + c)
    compared = _all_but(cosines, {piece.id for word in words for piece in word})
    return Analogy(
        words=(tuple(words[0]), tuple(words[1]), tuple(words[2])),
        nearest=_nearest_tokens(tokenizer, cosines, compared, count),
        chance=chance_among(cosines[compared]),
        expected=None if expected is None else _expected(model, tokenizer, expected, (b - a + c, c), compared),
    )


def _expected(
    model: Transformer, tokenizer: Tokenizer, word: Sequence[Piece], queries: tuple[Tensor, Tensor], compared: Indices
) -> Expected:
    """Returns the rank of a word by its cosine with each of the two `queries`: the analogy, and the third word alone.

    A rank is one more than the number of tokens nearer to the query. A word of several tokens also has a rank: its
    vector is the mean of its tokens' embeddings.
    """
    if len(word) == 1 and word[0].id not in compared:
        raise UsageProblem(
            f"{word[0].text.strip()!r} is a token of the three words, so it cannot be an answer.",
            "Expect another word.",
        )
    vector = _mean(model, word)
    ranks = []
    for query in queries:
        others = _cosines_with_tokens(model, tokenizer, query)[compared]
        own = float(_cosines(vector[None], query)[0])
        nearer = others[compared != word[0].id] > own if len(word) == 1 else others > own
        ranks.append(int(nearer.sum()) + 1)
    return Expected(tuple(word), float(_cosines(vector[None], queries[0])[0]), *ranks)


def _mean(model: Transformer, word: Sequence[Piece]) -> Tensor:
    """Returns the mean embedding (C,) of a word's tokens."""
    ids = torch.tensor([piece.id for piece in word], device=model.embedding.weight.device)
    return model.embedding.weight.detach()[ids].mean(0)


def _cosines_with_tokens(model: Transformer, tokenizer: Tokenizer, query: Tensor) -> Floats:
    """Returns the cosines (V,) of a vector (C,) with the embeddings of all tokens of the tokenizer."""
    return _cosines(model.embedding.weight.detach()[: tokenizer.vocab_size], query)


def _cosines(vectors: Tensor, query: Tensor) -> Floats:
    """Returns the cosines of vectors (N, C) with one vector (C,); 0 for a vector of zeros."""
    lengths = (vectors.norm(dim=-1) * query.norm()).clamp_min(1e-30)
    cosines: Floats = ((vectors @ query.to(vectors.dtype)) / lengths).cpu().double().numpy().clip(-1, 1)
    return cosines


def _all_but(cosines: Floats, excluded: Collection[int]) -> Indices:
    """Returns the indices of the cosines that are compared: all except the excluded ones."""
    return np.setdiff1d(np.arange(len(cosines)), list(excluded))


def _nearest_tokens(tokenizer: Tokenizer, cosines: Floats, compared: Indices, count: int) -> tuple[Neighbor, ...]:
    """Returns the tokens of the vocabulary with the largest of these cosines, the nearest first."""
    return tuple(Neighbor(i, tokenizer.name(i), None, float(cosines[i])) for i in ranked(cosines, compared)[:count])


class _Stream(Observer):
    """Records the residual stream after a number of layers."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.stream = torch.empty(0)

    def residual(self, layer: int, stream: Tensor) -> None:
        if layer == self._after:
            self.stream = stream[0]


def _streams(model: Transformer, text: Sequence[Piece], after: int) -> Tensor:
    """Returns the residual stream (T, C) of the tokens of a text after `after` layers."""
    watch = _Stream(after)
    read_text(model, text, watch)
    return watch.stream
