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
