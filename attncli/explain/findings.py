"""What an explanation finds: plain records of NumPy arrays, strings and numbers, for whoever draws them.

Layers, heads and tokens are counted from 0. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attncli.explain.student import t_quantile
from attncli.text.tokenizer import Piece

Weights = Literal["norm", "raw"]
Floats = NDArray[np.float64]
NAMED = 8  # sources that a screen shows by name, the first token aside
MAP_ROWS = 40  # of a map, at most


def rows_around(focus: int, count: int) -> range:
    """The rows of a map that are shown of so many: the focus, most of them before it."""
    first = max(0, min(focus - MAP_ROWS * 3 // 4, count - MAP_ROWS))
    return range(first, min(first + MAP_ROWS, count))


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
    beside_stream: float | None = None  # length of attention's output over the stream's after it, mean of layers

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
    """One head's attention weights: row looks at column. Of a long text only R rows around the focus, else all T."""

    layer: int
    head: int
    weights: Floats  # (R, T), rows sum to 1, 0 above the diagonal
    asked_for: bool  # else it is the head that moves most to the focus token from other tokens
    previous_token: float | None  # mean weight on the token before, over these rows, those that have one
    previous_token_chance: float | None  # the same for attention spread evenly
    first_row: int = 0  # the token that the first of the rows is of


@dataclass(frozen=True)
class NextToken:
    """A token that may follow, and its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class EdgeChecks:
    """The most probable next token, and what is left of its probability when an edge to the focus is cut.

    Cut in the heads and layers that the shares are of, by a score of -inf (Geva et al., 2023).
    """

    token: NextToken  # its probability is that with nothing cut
    sources: tuple[int, ...]
    probabilities: tuple[float, ...]  # with the edge from each of these sources cut
    random: float | None  # the mean over cuts of single sources before the focus; None where none can be seen
    random_cuts: int  # how many that is the mean of
    random_of: int  # of how many


@dataclass(frozen=True)
class Words:
    """The tokens of a text that is told in words, and which of them each word is."""

    tokens: tuple[Piece, ...]
    spans: tuple[range, ...]


@dataclass(frozen=True)
class Explanation:
    """The first screen.

    With words, everything is of words, their indices too: a word is the sum of its tokens as sources, and the mean of
    them where they look. The prediction is that after the last token of the word in focus.
    """

    pieces: tuple[Piece, ...]  # tokens, or words
    layers: int
    heads: int
    sources: Sources
    map: HeadMap
    next_tokens: tuple[NextToken, ...]  # what may follow the focus token, most probable first
    checks: EdgeChecks | None = None
    words: Words | None = None
    temperature: float = 1.0  # of all probabilities

    @property
    def tokens(self) -> tuple[Piece, ...]:
        """The text as the model reads it."""
        return self.pieces if self.words is None else self.words.tokens

    @property
    def unit(self) -> str:
        """What the pieces are called."""
        return "token" if self.words is None else "word"


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


@dataclass(frozen=True)
class WordInText:
    """A word in one of two texts: the tokens it can see, and what each of them gave it.

    A pull is how far what a source gives to the word moves it away from its other self: along the line from the other
    text's stream to this one's, measured, head by head, from the midpoint of what the head gives in the two texts.
    """

    pieces: tuple[Piece, ...]  # the whole text
    first: int  # the word's first token
    at: int  # its last token, whose stream is compared
    pulls: Floats  # (at + 1,), in units of the stream
    shares: Floats  # (at + 1,), norm-weighted, as in Sources


@dataclass(frozen=True)
class Comparison:
    """One word in two texts.

    The pulls of both texts, `feed_forward` and `embedding` sum to `distance`: each is the part of the difference that
    came that way. A bias adds the same in both, so it has no part.
    """

    words: tuple[WordInText, WordInText]
    layers: int
    heads: int
    cosines: Floats  # (layers + 1,), of the two streams: of the embedding first, then after each layer
    others: Floats | None  # the same, on average over pairs of different tokens of the two texts; None: there is none
    layer: int  # the number of layers after which the difference is measured
    distance: float  # the length of the difference of the two streams there
    feed_forward: float
    embedding: float  # the token's own and, where they are learned, that of the position


@dataclass(frozen=True)
class Neighbor:
    """A token, in the vocabulary or at an index of a text, and the cosine with what was asked for."""

    id: int
    text: str
    index: int | None
    cosine: float


@dataclass(frozen=True)
class Chance:
    """The cosines with all that was compared, and what the largest of so many, spread like these, would be by chance.

    That is below `median` in half of all draws, below `most` in 95%.
    """

    compared: int
    average: float
    spread: float  # standard deviation
    median: float
    most: float


@dataclass(frozen=True)
class Neighbors:
    """The tokens nearest to a word: among token embeddings, or among the tokens of a text.

    Without a text the word is the mean of the embeddings of its tokens, and these are left out of the neighbours. With
    one it is the residual stream of its last token there.
    """

    word: tuple[Piece, ...]
    text: tuple[Piece, ...] | None
    at: int | None  # the index in the text
    layer: int | None  # the stream after so many layers
    among: Literal["vocabulary", "text"]
    nearest: tuple[Neighbor, ...]
    chance: Chance


@dataclass(frozen=True)
class Expected:
    """Where a hoped-for word comes among the answers: 1 is the nearest."""

    word: tuple[Piece, ...]
    cosine: float
    rank: int
    rank_without: int  # by nearness to the third word alone, without the arithmetic


@dataclass(frozen=True)
class Analogy:
    """What is to the third word as the second is to the first: the tokens nearest to second - first + third."""

    words: tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]
    nearest: tuple[Neighbor, ...]
    chance: Chance
    expected: Expected | None


@dataclass(frozen=True)
class EveryWeight:
    """All attention weights of one text."""

    pieces: tuple[Piece, ...]
    weights: NDArray[np.float32]  # (layers, heads, T, T): row looks at column, rows sum to 1


HeadKind = Literal["previous", "duplicate", "induction", "sink"]
HEAD_KINDS: tuple[HeadKind, ...] = ("previous", "duplicate", "induction", "sink")
_STANDS_OUT = 0.05  # of the way from chance to 1


@dataclass(frozen=True)
class HeadScores:
    """How much of its attention every head puts where a kind of head looks, on random tokens that come twice.

    Of shape (kinds, layers, heads), kinds in the order of HEAD_KINDS: the mean weight over the rows of the text in
    which the pattern can be followed. NaN where there is none, as in a layer whose window is too short.
    """

    scores: Floats
    chances: Floats  # (kinds, layers): of attention spread evenly over what the mask and the window allow
    length: int  # random tokens that come twice, after the one that starts a text
    sequences: int  # averaged
    seed: int
    errors: Floats | None = None  # standard errors of the scores, over the sequences; None of one alone

    @property
    def layers(self) -> int:
        """How many."""
        return int(self.scores.shape[1])

    @property
    def heads(self) -> int:
        """How many a layer has."""
        return int(self.scores.shape[2])

    def score(self, kind: HeadKind, layer: int, head: int) -> float:
        """One head's score; NaN where it has none."""
        return float(self.scores[HEAD_KINDS.index(kind), layer, head])

    def error(self, kind: HeadKind, layer: int, head: int) -> float | None:
        """The standard error of one head's score; None where there is none."""
        found = math.nan if self.errors is None else float(self.errors[HEAD_KINDS.index(kind), layer, head])
        return found if math.isfinite(found) else None

    def chance(self, kind: HeadKind, layer: int) -> float:
        """The score of even attention in a layer; NaN where there is none."""
        return float(self.chances[HEAD_KINDS.index(kind), layer])

    def table(self, kind: HeadKind) -> list[list[float | None]]:
        """Every head's score, by layer and head; None where it has none."""
        rows = self.scores[HEAD_KINDS.index(kind)].tolist()
        return [[value if math.isfinite(value) else None for value in row] for row in rows]

    def ranked(self, kind: HeadKind) -> list[tuple[int, int]]:
        """Layers and heads that have a score, the highest first."""
        scores = self.scores[HEAD_KINDS.index(kind)]
        known = [(int(layer), int(head)) for layer, head in np.argwhere(np.isfinite(scores))]
        return sorted(known, key=lambda at: -scores[at])

    def best(self, kind: HeadKind) -> tuple[int, int] | None:
        """Layer and head of the highest score; None where no head has one."""
        return next(iter(self.ranked(kind)), None)

    def worth_a_look(self) -> tuple[HeadKind, int, int] | None:
        """The kind, layer and head furthest above chance, as a share of the way from there to 1.

        None when none stands out. Sinks are left out: mostly a head that looks at the start has nothing to say.
        """
        found: list[tuple[float, tuple[HeadKind, int, int]]] = []
        for kind in HEAD_KINDS:
            if kind != "sink" and (best := self.best(kind)) is not None:
                score, chance = self.score(kind, *best), self.chance(kind, best[0])
                found.append(((score - chance) / max(1 - chance, 1e-9), (kind, *best)))
        above, which = max(found, default=(0.0, None))
        return which if above > _STANDS_OUT else None


Head = tuple[int, int]  # layer, head
Edge = tuple[int, int]  # query, source
Replacement = Literal["zero", "mean"]


@dataclass(frozen=True)
class Effect:
    """A prediction without some heads or edges."""

    heads: tuple[Head, ...]
    edges: tuple[Edge, ...]
    log_probability: float  # in nats, of the token that the whole model thinks most probable
    next_tokens: tuple[NextToken, ...]  # what is most probable now

    @property
    def probability(self) -> float:
        """Of the same token."""
        return math.exp(self.log_probability)


@dataclass(frozen=True)
class Ablation:
    """What parts of the model are worth to one prediction."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    token: int  # whose prediction it is
    replacement: Replacement  # what stood for a head: zeros, or its mean over the positions of the text
    before: Effect  # with everything in place
    effects: tuple[Effect, ...]

    @property
    def predicted(self) -> NextToken:
        """The token whose probability is followed."""
        return self.before.next_tokens[0]

    def drop(self, effect: Effect) -> float:
        """By how much a part's absence lowers the log-probability, in nats; negative where it raises it."""
        return self.before.log_probability - effect.log_probability


Ranking = Literal["raw", "norm", "rollout", "logit", "random"]
RANKINGS: tuple[Ranking, ...] = ("raw", "norm", "rollout", "logit", "random")
LEAST_TEXTS = 8  # fewer are too few to tell rankings apart
_LEVEL = 0.05  # at most so often does a verdict name a ranking that is no better than those it is compared with
_VIEWS = RANKINGS[:-1]
COMPARISONS = 2 * len(_VIEWS) + len(_VIEWS) * (len(_VIEWS) - 1)  # with random, two ways; of any view with any other


@dataclass(frozen=True)
class Faithfulness:
    """What cutting the sources of a prediction does, the first by each ranking and all others, on several texts.

    Drops of the log-probability of the predicted token, in nats, of shape (texts, rankings, sizes), rankings in the
    order of RANKINGS; those of 'random' are means over several random ones. What is said of rankings is a one-sided t
    test of the paired differences over texts, with Bonferroni's correction for all COMPARISONS.
    """

    sizes: tuple[int, ...]  # k, in tokens
    comprehensiveness: Floats  # the first k cut: the more, the better the ranking
    sufficiency: Floats  # all but the first k cut: the less, the better
    mean_tokens: float  # of a text
    seed: int

    @property
    def texts(self) -> int:
        """How many."""
        return len(self.comprehensiveness)

    @property
    def needed(self) -> float:
        """The standard errors that a difference must be from zero, infinite for fewer than LEAST_TEXTS."""
        return t_quantile(1 - _LEVEL / COMPARISONS, self.texts - 1) if self.texts >= LEAST_TEXTS else math.inf

    def advantage(self, ranking: Ranking, *, sufficient: bool = False) -> tuple[float, float]:
        """How much better than the random ranking, averaged over sizes: the mean over texts, and its standard error."""
        drops = self.sufficiency if sufficient else self.comprehensiveness
        return _mean_and_error(_difference(drops, ranking, "random") * (-1 if sufficient else 1))

    def beats_random(self, ranking: Ranking) -> bool:
        """Whether it is ahead by more than chance explains, in one way of measuring, and not behind in the other."""
        ways = [self.advantage(ranking, sufficient=sufficient) for sufficient in (False, True)]
        sure = self.needed
        return any(mean > sure * error for mean, error in ways) and all(mean > -sure * error for mean, error in ways)

    @property
    def rivals(self) -> tuple[Ranking, ...]:
        """The rankings that the best one is not ahead of by more than chance explains, both ways together."""
        best, found = self.best, []
        if best is None:
            return ()
        for ranking in _VIEWS:
            mean, error = _mean_and_error(_difference(self.comprehensiveness - self.sufficiency, best, ranking))
            if ranking != best and not mean > self.needed * error:
                found.append(ranking)
        return tuple(found)

    @property
    def best(self) -> Ranking | None:
        """Of the rankings that beat the random one, that with the largest advantage, both ways together."""
        sure = [ranking for ranking in _VIEWS if self.beats_random(ranking)]
        return max(sure, key=lambda r: sum(self.advantage(r, sufficient=way)[0] for way in (False, True)), default=None)


def _difference(drops: Floats, one: Ranking, other: Ranking) -> Floats:
    """Drops (texts, rankings, sizes) of one ranking less those of another, averaged over sizes: a number a text."""
    found: Floats = (drops[:, RANKINGS.index(one)] - drops[:, RANKINGS.index(other)]).mean(-1)
    return found


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean of some values and its standard error; NaN of a single one."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error
