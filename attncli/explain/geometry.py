"""Which tokens lie near a word, and does the space of embeddings do arithmetic with words? Measured by the cosine.

Beside the nearest tokens stands what chance would give. Embeddings share a common part, so that any two have a cosine
well above 0; and of many numbers some are large. So chance is the largest of as many as were compared, drawn from a
bell curve with the mean and the spread of the very cosines that were found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attncli.errors import BadInput, UsageProblem
from attncli.explain.findings import Analogy, Chance, Expected, Floats, Neighbor, Neighbors
from attncli.explain.first_screen import find_run, refuse_length
from attncli.model.attention import Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

Among = Literal["vocabulary", "text"]
Indices = NDArray[np.int64]
_ANGLES = 1 << 16  # cells of the numerical integral


def spell(tokenizer: Tokenizer, word: str) -> tuple[Piece, ...]:
    """A word as its tokens: with the space that stands before it in a sentence, unless it takes more tokens so.

    Raises BadInput for a word without tokens.
    """
    forms = [word] if word[:1].isspace() else [f" {word}", word]
    spelled = [tuple(tokenizer.pieces_within(form)) for form in forms if word.strip()]
    if not spelled or not min(map(len, spelled)):
        raise BadInput("The word is empty.", "Give one, such as river.")
    return min(spelled, key=len)


def neighbors(model: Transformer, tokenizer: Tokenizer, word: Sequence[Piece], *, count: int = 10) -> Neighbors:
    """The tokens whose embeddings are nearest to a word's: to the mean of them where it has several."""
    cosines = _cosines_with_tokens(model, tokenizer, _mean(model, word))
    left = _all_but(cosines, {piece.id for piece in word})
    return Neighbors(
        word=tuple(word),
        text=None,
        at=None,
        layer=None,
        among="vocabulary",
        nearest=_nearest_tokens(tokenizer, cosines, left, count),
        chance=chance_among(cosines[left]),
    )


def neighbors_in_text(
    model: Transformer,
    tokenizer: Tokenizer,
    text: Sequence[Piece],
    wanted: str,
    *,
    layer: int | None = None,
    among: Among = "vocabulary",
    count: int = 10,
) -> Neighbors:
    """The same for the residual stream of a word in a text, after `layer` layers (None is all of them).

    It is compared with all token embeddings, its own included, or with the streams of the other tokens of the text.

    Raises:
        BadInput: for no tokens, or more than the context.
        UsageProblem: for a word or a layer that is not there.
    """
    refuse_length(text, model.config.context)
    after = model.config.layers if layer is None else layer
    if not 0 <= after <= model.config.layers:
        raise UsageProblem(
            f"There is no stream after {after} layers.", f"--layer is from 0, the embedding, to {model.config.layers}."
        )
    first, at = find_run(text, wanted)
    streams = _streams(model, text, after)
    if among == "text":
        cosines = _cosines(streams, streams[at])
        left = _all_but(cosines, {at})
        nearest = tuple(
            Neighbor(text[i].id, text[i].text, i, float(cosines[i])) for i in _ranked(cosines, left)[:count]
        )
    else:
        cosines = _cosines_with_tokens(model, tokenizer, streams[at])
        left = _all_but(cosines, ())
        nearest = _nearest_tokens(tokenizer, cosines, left, count)
    return Neighbors(
        word=tuple(text[first : at + 1]),
        text=tuple(text),
        at=at,
        layer=after,
        among=among,
        nearest=nearest,
        chance=chance_among(cosines[left]),
    )


def analogy(
    model: Transformer,
    tokenizer: Tokenizer,
    words: tuple[Sequence[Piece], Sequence[Piece], Sequence[Piece]],
    expected: Sequence[Piece] | None = None,
    *,
    count: int = 10,
) -> Analogy:
    """The tokens nearest to b - a + c (Mikolov et al., 2013), those of a, b and c left out.

    Raises UsageProblem when the word expected is one of the tokens left out.
    """
    a, b, c = (_mean(model, word) for word in words)
    cosines = _cosines_with_tokens(model, tokenizer, b - a + c)
    left = _all_but(cosines, {piece.id for word in words for piece in word})
    return Analogy(
        words=(tuple(words[0]), tuple(words[1]), tuple(words[2])),
        nearest=_nearest_tokens(tokenizer, cosines, left, count),
        chance=chance_among(cosines[left]),
        expected=None if expected is None else _expected(model, tokenizer, expected, (b - a + c, c), left),
    )


def _expected(
    model: Transformer, tokenizer: Tokenizer, word: Sequence[Piece], asked: tuple[Tensor, Tensor], left: Indices
) -> Expected:
    """Its rank is one more than the number of tokens that are nearer: so a mean of several tokens has one too."""
    if len(word) == 1 and word[0].id not in left:
        raise UsageProblem(
            f"{word[0].text.strip()!r} is a token of the three words, which are no answers.", "Expect another word."
        )
    vector = _mean(model, word)
    ranks = []
    for query in asked:
        others = _cosines_with_tokens(model, tokenizer, query)[left]
        own = float(_cosines(vector[None], query)[0])
        nearer = others[left != word[0].id] > own if len(word) == 1 else others > own
        ranks.append(int(nearer.sum()) + 1)
    return Expected(tuple(word), float(_cosines(vector[None], asked[0])[0]), *ranks)


def chance_among(cosines: Floats) -> Chance:
    """What the largest of these cosines (N,) would be, were they spread around their mean by chance alone.

    A value is an outlier when it lies further above the mean, in standard deviations, than the largest of N normal
    draws does (Grubbs, 1950). Less their mean and over their length, N normal draws are a random direction in N - 1
    dimensions, so this is the largest cosine of random directions, scaled. That they sum to 0 is not counted: for a few
    dozen the median is a little low, and what 1 in 20 exceeds is not. Of fewer than three nothing can be said.
    """
    count = len(cosines)
    if count < 3:
        return Chance(count, float(cosines.mean()) if count else 0.0, 0.0, 1.0, 1.0)
    average, spread = float(cosines.mean()), float(cosines.std(ddof=1))
    in_spreads = (count - 1) / count**0.5  # of a cosine of 1: as far as one of N can lie from their mean
    median, most = (min(average + spread * in_spreads * one, 1.0) for one in largest_by_chance(count, count - 1))
    return Chance(count, average, spread, median, most)


def largest_by_chance(vectors: int, width: int) -> tuple[float, float]:
    """The largest cosine with a fixed direction of random vectors of a width: its median, and what 1 in 20 exceeds.

    Their angles with it have the density sin(angle)^(width - 2); none of them is below an angle with the probability
    (1 - F(angle))^vectors.
    """
    if width < 2 or not vectors:
        return 1.0, 1.0
    edges = np.linspace(0, np.pi, _ANGLES + 1)
    logarithms = (width - 2) * np.log(np.sin((edges[1:] + edges[:-1]) / 2))
    upto = np.concatenate([[0], np.cumsum(np.exp(logarithms - logarithms.max()))])
    median, most = (
        float(np.cos(np.interp(-np.expm1(np.log(probability) / vectors), upto / upto[-1], edges)))
        for probability in (0.5, 0.95)
    )
    return median, most


def _mean(model: Transformer, word: Sequence[Piece]) -> Tensor:
    """(C,): the embedding of a word's token, or the mean of several."""
    ids = torch.tensor([piece.id for piece in word], device=model.embedding.weight.device)
    return model.embedding.weight.detach()[ids].mean(0)


def _cosines_with_tokens(model: Transformer, tokenizer: Tokenizer, query: Tensor) -> Floats:
    """Of a vector (C,) with the embedding of every token that the tokenizer has."""
    return _cosines(model.embedding.weight.detach()[: tokenizer.vocab_size], query)


def _cosines(vectors: Tensor, query: Tensor) -> Floats:
    """Of vectors (N, C) with one (C,); 0 for a vector of zeros."""
    lengths = (vectors.norm(dim=-1) * query.norm()).clamp_min(1e-30)
    cosines: Floats = ((vectors @ query.to(vectors.dtype)) / lengths).cpu().double().numpy().clip(-1, 1)
    return cosines


def _all_but(cosines: Floats, excluded: Collection[int]) -> Indices:
    """The indices that are compared."""
    return np.setdiff1d(np.arange(len(cosines)), list(excluded))


def _ranked(cosines: Floats, left: Indices) -> list[int]:
    """These indices, nearest first."""
    order: list[int] = left[np.argsort(-cosines[left], kind="stable")].tolist()
    return order


def _nearest_tokens(tokenizer: Tokenizer, cosines: Floats, left: Indices, count: int) -> tuple[Neighbor, ...]:
    return tuple(Neighbor(i, tokenizer.name(i), None, float(cosines[i])) for i in _ranked(cosines, left)[:count])


class _Stream(Observer):
    """Keeps the residual stream of one place."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.stream = torch.empty(0)

    def residual(self, layer: int, stream: Tensor) -> None:
        if layer == self._after:
            self.stream = stream[0]


def _streams(model: Transformer, text: Sequence[Piece], after: int) -> Tensor:
    """(T, C): the residual stream of every token after so many layers."""
    watch = _Stream(after)
    ids = torch.tensor([[piece.id for piece in text]], device=model.embedding.weight.device)
    with torch.inference_mode():
        model.hidden(ids, observe=watch)
    return watch.stream
