"""What an explanation finds: plain records of NumPy arrays, strings and numbers, for whoever draws them.

Layers, heads and tokens are counted from 0. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attncli.text.tokenizer import Piece

Weights = Literal["norm", "raw"]
Floats = NDArray[np.float64]
NAMED = 8  # sources that a screen shows by name, the first token aside


@dataclass(frozen=True)
class Sources:
    """Where one token gets its information.

    `shares` (T,) sums to 1: for every token the share of the focus token's attention output, averaged over the layers
    asked for. With weights 'norm' a share is the length of the vector that the token contributes, over the sum of these
    lengths (Kobayashi et al., 2020); with 'raw' it is the attention weight, averaged over heads.
    """

    focus: int
    weights: Weights
    layers: tuple[int, ...]  # those averaged
    head: int | None  # None: all heads
    shares: Floats  # (T,)
    by_layer: Floats  # (number of layers, T), each row sums to 1
    raw: Floats  # (T,), the attention weight averaged over the same layers and heads

    @property
    def first_is_apart(self) -> bool:
        """Whether the first token, where heads that have nothing to say look, is listed apart from the others."""
        return self.focus > 1

    def ranked(self) -> list[int]:
        """The sources, the greatest share first; without the first token where that is apart."""
        return sorted(range(int(self.first_is_apart), self.focus + 1), key=lambda at: -self.shares[at])

    def named(self, most: int = NAMED) -> list[int]:
        """Those that a screen shows by name: so many of the ranked, and the first token."""
        return [*self.ranked()[:most], *([0] if self.first_is_apart else [])]


@dataclass(frozen=True)
class HeadMap:
    """One head's attention weights: row looks at column."""

    layer: int
    head: int
    weights: Floats  # (T, T), rows sum to 1, 0 above the diagonal
    asked_for: bool  # else it is the head that moves most to the focus token from other tokens
    previous_token: float | None  # mean weight on the token before, over the rows that have one
    previous_token_chance: float | None  # the same for attention spread evenly


@dataclass(frozen=True)
class NextToken:
    """A token that may follow, and its probability at temperature 1."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class EdgeChecks:
    """The most probable next token, and what is left of its probability when an edge to the focus is cut.

    Cut in all heads and layers, by a score of -inf (Geva et al., 2023).
    """

    token: NextToken  # its probability is that with nothing cut
    sources: tuple[int, ...]
    probabilities: tuple[float, ...]  # with the edge from each of these sources cut
    random: float | None  # the mean over cuts of sources other than the first of these; None where there is none
    random_cuts: int  # how many that is the mean of
    random_of: int  # of how many


@dataclass(frozen=True)
class Explanation:
    """The first screen."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    sources: Sources
    map: HeadMap
    next_tokens: tuple[NextToken, ...]  # what may follow the focus token, most probable first
    checks: EdgeChecks | None = None


@dataclass(frozen=True)
class Question:
    """What every view is of: a text, the shape of the model that reads it, and the token in focus."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    focus: int


@dataclass(frozen=True)
class LensRow:
    """What the residual stream predicts after so many layers; after none it is the embedding."""

    layers_read: int
    top: tuple[NextToken, ...]
    probability: float  # of what the model predicts in the end
    rank: int  # of the same, 1 is the most probable


@dataclass(frozen=True)
class Lens:
    """The logit lens: the prediction as it forms. The last row is the model's own distribution."""

    question: Question
    target: NextToken  # what the model predicts in the end
    rows: tuple[LensRow, ...]


@dataclass(frozen=True)
class Ledger:
    """One logit at the focus as the sum of everything that was written to its residual stream.

    Without `against` the logit is counted from the mean over the vocabulary, with it from that token's logit. The scale
    of the final norm is held as it is, so that the terms are additive (Elhage et al., 2021).
    """

    question: Question
    target: NextToken
    against: NextToken | None
    logit: float  # the model's own
    embedding: float
    position: float | None  # of a learned position
    heads: Floats  # (L, H, T): what each head brought from each source
    attention_bias: Floats | None  # (L,)
    feed_forward: Floats  # (L,), without its bias
    feed_forward_bias: Floats | None  # (L,)
    norm_bias: float | None  # of the final norm

    @property
    def total(self) -> float:
        """The sum of the terms."""
        single = (self.embedding, self.position, self.norm_bias)
        arrays = (self.heads, self.attention_bias, self.feed_forward, self.feed_forward_bias)
        return sum(term for term in single if term is not None) + sum(
            float(terms.sum()) for terms in arrays if terms is not None
        )

    @property
    def remainder(self) -> float:
        """What the terms do not account for: rounding."""
        return self.logit - self.total


@dataclass(frozen=True)
class Steps:
    """The arithmetic of one row of one head, from the query on; S sources are all tokens of the text."""

    question: Question
    layer: int
    head: int
    asked_for: bool
    shared_by: int  # query heads that share this head's keys and values
    window: int | None
    query: Floats  # (D,), after query/key norm and rotation
    keys: Floats  # (S, D), likewise
    values: Floats  # (S, D)
    products: Floats  # (S,): query . key
    scores: Floats  # (S,): products / sqrt(D)
    allowed: NDArray[np.bool_]  # (S,), the mask
    weights: Floats  # (S,): softmax of the scores that are allowed, else 0
    mixed: Floats  # (D,): weights x values
    written: Floats  # (C,): mixed through this head's columns of the output matrix
    attention: Floats  # (C,): of all heads, and the bias
    difference: float  # the largest between `attention` and what the model's own fast path computes


@dataclass(frozen=True)
class Grid:
    """Every head's weights as a thumbnail: the largest weight of each square of `pool` x `pool` tokens."""

    question: Question
    pool: int
    weights: Floats  # (L, H, P, P)


@dataclass(frozen=True)
class Rollout:
    """Attention followed through all layers (Abnar and Zuidema, 2020), beside that of even attention."""

    question: Question
    shares: Floats  # (T,), sums to 1
    even: Floats  # (T,), the same for a model of this shape, with these windows, that looks evenly at all it may see
