"""Aligns the words of sentence pairs by what an encoder-decoder knows, with or without word statistics.

Each `LinkMethod` gives every pair a matrix of link strengths (`link_matrices`), and its links:

- "attention": the weights of cross-attention, averaged over some heads. `head_choice` chooses them without gold links.
- "predictions": the nats that the prediction of each target word loses without each source word.
- "combined": the link probabilities of an HMM (`ibm`) that is trained on these pairs. The losses of the predictions are
  its prior.

Shapes: I source words, J target words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from attncli.evaluation.alignment import Link, LinkMethod, Links, grow_diagonal_final
from attncli.evaluation.bitext import WordPair, lowered
from attncli.evaluation.cross_attention import PairBatch, batches_of
from attncli.evaluation.ibm import Aligner, LinkPrior
from attncli.evaluation.link_matrices import (
    Floats,
    HeadSelection,
    drops_of,
    linked,
    links_of_drops,
    mean_weights,
    softmax,
)
from attncli.evaluation.pair_words import WordsOfPair
from attncli.model.transformer import Transformer

Progress = Callable[[int], None]  # gets the number of pairs that are done

AT_ONCE = 2000  # pairs that are sorted by length together
_PRIOR_FLOOR = 0.05  # of a link that the predictions exclude; a link of which they say nothing has the prior 1


def _ignore(done: int) -> None:
    """Does nothing with the number of pairs that are done."""


@dataclass(frozen=True)
class Alignment:
    """The words of a pair, how strongly each two of them are linked, and the links."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Floats  # (J, I), of target word j and source word i: attention weights, lost nats, or probabilities
    links: tuple[Link, ...]  # (source word, target word), sorted

    @property
    def link_weights(self) -> tuple[float, ...]:
        """The weight of each link."""
        return tuple(float(self.weights[j, i]) for i, j in self.links)


def align_pairs(
    model: Transformer,
    pairs: Iterable[WordsOfPair],
    method: LinkMethod,
    selection: HeadSelection | None = None,
    training: Sequence[WordPair] = (),
    progress: Progress = _ignore,
) -> Iterable[Alignment]:
    """Returns the alignment of each pair by a method, in order.

    Attention reads the heads of `selection`, and the HMM of "combined" is also trained on the pairs of `training`.
    """
    if method == "attention":
        assert selection is not None
        return align_by_attention(model, pairs, selection, progress)
    predicted = predicted_pairs(model, pairs, progress)
    return (
        (one.alignment for one in predicted) if method == "predictions" else align_combined(list(predicted), training)
    )


def align_by_attention(
    model: Transformer, pairs: Iterable[WordsOfPair], selection: HeadSelection, progress: Progress = _ignore
) -> Iterator[Alignment]:
    """Yields the alignment of each pair by the cross-attention of some heads, in order."""

    def weights_of(batch: PairBatch) -> list[Floats]:
        return [weights[0] for weights in mean_weights(model, batch, [selection])]

    for pair, weights in _in_order(model, pairs, weights_of, progress):
        yield _alignment(pair, weights, linked(weights))


@dataclass(frozen=True)
class PredictedPair:
    """A pair, with the nats that the prediction of each target word loses without each source word: (J, I)."""

    pair: WordsOfPair
    drops: Floats

    @property
    def alignment(self) -> Alignment:
        """The alignment by predictions: each link is the strongest of its source word and of its target word."""
        return _alignment(self.pair, self.drops, links_of_drops(self.drops))


def predicted_pairs(
    model: Transformer, pairs: Iterable[WordsOfPair], progress: Progress = _ignore
) -> Iterator[PredictedPair]:
    """Yields each pair with its prediction drops, in order."""
    for pair, drops in _in_order(model, pairs, lambda batch: drops_of(model, batch), progress, rows=True):
        yield PredictedPair(pair, drops)


def align_combined(pairs: Sequence[PredictedPair], training: Sequence[WordPair] = ()) -> list[Alignment]:
    """Returns the alignment of each pair by an HMM whose prior is what the model's predictions lose.

    The HMM is trained on these pairs and on the `training` pairs, which have no prior. It learns which words correspond
    throughout the pairs, and the prior tells it where to begin.
    """
    words = [(lowered(one.pair.source.words), lowered(one.pair.target.words)) for one in pairs]
    words += [(lowered(source), lowered(target)) for source, target in training]
    aligner = Aligner(words, priors=[_prior_of(one.drops) for one in pairs])
    forward, backward = aligner.links(len(pairs))
    weights = aligner.probabilities(len(pairs))
    return [
        _alignment(one.pair, weights[at].T, grow_diagonal_final(forward[at], backward[at]))
        for at, one in enumerate(pairs)
    ]


def _in_order(
    model: Transformer,
    pairs: Iterable[WordsOfPair],
    read: Callable[[PairBatch], list[Floats]],
    progress: Progress,
    rows: bool = False,
) -> Iterator[tuple[WordsOfPair, Floats]]:
    """Yields each pair with the matrix (J, I) that `read` returns for it. `rows` is as in `batches_of`."""
    left, done = iter(pairs), 0
    while some := list(islice(left, AT_ONCE)):
        found: dict[int, Floats] = {}
        for batch in batches_of(some, model, rows):
            found.update(zip(batch.numbers, read(batch), strict=True))
            progress(done + len(found))
        yield from ((pair, found[at]) for at, pair in enumerate(some))
        done += len(some)


def _alignment(pair: WordsOfPair, weights: Floats, links: Links) -> Alignment:
    return Alignment(pair.source.words, pair.target.words, weights, tuple(sorted(links)))


def _prior_of(drops: Floats) -> LinkPrior:
    """Returns the prior of an HMM from drops (J, I): of a word, exp(drop) in proportion to the mean over all words."""
    targets, sources = drops.shape
    forward, backward = sources * softmax(drops, 1), targets * softmax(drops, 0)
    return LinkPrior(forward.T + _PRIOR_FLOOR, backward.T + _PRIOR_FLOOR)
