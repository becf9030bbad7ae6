"""Ablates heads or edges of attention, and measures how a prediction changes.

For a decoder alone, the prediction is the most probable next token. For an encoder alone, it is the most probable token
at a position. For an encoder-decoder, it is a token of the translation, or the whole translation with its end token.
`ablated_pass` computes all ablations in a few forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attncli.errors import UsageProblem
from attncli.explain.ablated_pass import AblatedPass, Edge, Head, Means, Without
from attncli.explain.defaults import AttentionPart, Replacement
from attncli.explain.locate import find_span
from attncli.explain.next_token import NextToken, highest, name_of
from attncli.explain.question import MapAxes, default_row, refuse_length, refuse_missing
from attncli.explain.reading import BOTH, Reading
from attncli.text.tokenizer import Tokenizer

_NEXT = 5


@dataclass(frozen=True)
class Effect:
    """A prediction, with some heads or edges ablated."""

    heads: tuple[Head, ...]
    edges: tuple[Edge, ...]
    log_probability: float  # in nats, of the token or the translation that is measured
    next_tokens: tuple[NextToken, ...]  # the most probable tokens under the ablation; () for a whole translation
    part: AttentionPart | None = None  # the attention with these heads or edges; None for a model with one stack
    by_token: tuple[float, ...] = ()  # the log-probability of each token of a whole translation

    @property
    def probability(self) -> float:
        """The probability of the token or the translation that is measured."""
        return math.exp(self.log_probability)


@dataclass(frozen=True)
class Ablation:
    """The effects of ablating heads or edges on one prediction."""

    axes: MapAxes  # its rows are the tokens that can be measured; its columns the tokens that are read
    layers: int  # of the decoder, or of the only stack
    heads: int
    token: int | None  # the row whose prediction is measured; None: the whole translation
    replacement: Replacement  # of a head's output: zeros, or its mean over the positions that the prediction reads
    predicted: NextToken | None  # the token that is measured, with nothing ablated; None for a whole translation
    before: Effect  # with nothing ablated
    effects: tuple[Effect, ...]
    parts: Mapping[AttentionPart, int] = field(default_factory=dict)  # the ablated attentions of an encoder-decoder,
    # with their numbers of layers; empty for other models

    @property
    def measured(self) -> range:
        """The rows of the tokens of a whole translation, with its end token, without the tokens that are forced."""
        rows = len(self.axes.rows)
        return range(rows - len(self.before.by_token), rows)

    @property
    def target(self) -> str:
        """The text of the whole translation, if it is measured."""
        return "".join(self.axes.rows[at].completed for at in self.measured[:-1])

    def named_edges(self, effect: Effect) -> list[Edge]:
        """Returns the edges of an effect, with the indices by which users name tokens."""
        first = 0 if effect.part == "encoder" else self.axes.first
        return [(query + first, source) for query, source in effect.edges]

    def drop(self, effect: Effect) -> float:
        """Returns the drop of the log-probability under an ablation, in nats. A rise is negative."""
        return self.before.log_probability - effect.log_probability


def ablate(
    reading: Reading,
    tokenizer: Tokenizer,
    removed: Sequence[Without] | None = None,
    *,
    token: int | None = None,
    replacement: Replacement = "zero",
) -> Ablation:
    """Measures how much each ablation in `removed` lowers the log-probability of a prediction.

    `token` is the row of attention whose prediction is measured. If it is None, the whole translation is measured, or
    for a model with one stack the default row. If `removed` is None, every head of the attentions of the reading is
    ablated in turn. `replacement` is what replaces a head's output: zeros, or its mean over the positions that the
    prediction reads. The model must be in evaluation mode.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, a head or an edge that does not exist, or that cannot affect the prediction.
    """
    for text in reading.texts:
        refuse_length(text, reading.model.config.context)
    axes = (reading if reading.translation is None else replace(reading, parts=BOTH)).axes
    if token is not None:
        refuse_missing("token", token, len(axes.rows), axes.first)
    elif reading.translation is None:
        token = default_row(axes)
    if removed is None:
        removed = [
            Without(((layer, head),), (), part)
            for part in reading.parts
            for layer in range(reading.layers_of(part))
            for head in range(reading.heads)
        ]
    for without in removed:
        _refuse_missing(without, reading, token)
    measured = _Measured.of(reading, tokenizer, token)
    with torch.inference_mode():
        before, targets, means = measured.unablated()
        effects = tuple(measured.effects(removed, targets, means if replacement == "mean" else None))
    translates = reading.translation is not None
    parts = {part: reading.layers_of(part) for part in reading.parts} if translates else {}
    predicted = None if token is None else measured.name(targets[0], before.probability)
    shape = reading.layers_of("decoder"), reading.heads
    return Ablation(axes, *shape, token, replacement, predicted, before, effects, parts)


@dataclass(frozen=True)
class _Measured:
    """The predictions of a reading that are measured: those of a whole translation, or that of one row."""

    reading: Reading
    tokenizer: Tokenizer
    run: AblatedPass
    whole: bool

    @classmethod
    def of(cls, reading: Reading, tokenizer: Tokenizer, token: int | None) -> _Measured:
        """Returns the measurement of a row or, if `token` is None, of the translation without its forced tokens."""
        forced = reading.translation.forced if reading.translation else 0
        positions: Sequence[int] = range(forced, len(reading.pieces)) if token is None else [token]
        return cls(reading, tokenizer, AblatedPass(reading, positions, tokenizer.vocab_size), token is None)

    def unablated(self) -> tuple[Effect, list[int], Means]:
        """Returns the prediction of the unablated model, the ids that are measured, and the heads' mean outputs."""
        logs, means = self.run.unablated()
        if self.reading.translation is None:
            targets = [int(each.argmax()) for each in logs]
        else:
            targets = [self.reading.translation.outputs[at].id for at in self.run.positions]
        by_token = tuple(float(each[target]) for each, target in zip(logs, targets, strict=True))
        return self._effect(Without(), by_token, self._likely(logs[0])), targets, means

    def effects(self, removed: Sequence[Without], targets: Sequence[int], means: Means | None) -> Iterator[Effect]:
        """Yields the effect of each ablation on the log-probability of the targets, one for each position."""
        for batch in self.run.batches(removed):
            by_token: list[list[float]] = []  # for each position, the log-probabilities under each ablation
            for logs, target in zip(self.run.log_probabilities(batch, means), targets, strict=True):
                by_token.append(logs[:, target].tolist())
                likely = [self._likely(row) for row in logs]
            for without, values, tokens in zip(batch, zip(*by_token, strict=True), likely, strict=True):
                yield self._effect(without, values, tokens)

    def _likely(self, logs: Tensor) -> tuple[NextToken, ...]:
        """Returns the most probable tokens of log-probabilities (known,); () if a whole translation is measured."""
        return () if self.whole else highest(logs, self.tokenizer, _NEXT)

    def _effect(self, without: Without, by_token: tuple[float, ...], likely: tuple[NextToken, ...]) -> Effect:
        translates = self.reading.translation is not None
        part = without.part if translates and (without.heads or without.edges) else None
        return Effect(without.heads, without.edges, sum(by_token), likely, part, by_token if self.whole else ())

    def name(self, token: int, probability: float) -> NextToken:
        """Returns the token of an id as a NextToken."""
        return NextToken(token, name_of(self.tokenizer, token), probability)


def edges_between(axes: MapAxes, query: str, source: str) -> tuple[Edge, ...]:
    """Returns the edges from each token of the query word to each token of the source word, without masked edges.

    The query is among the rows of the axes, and the source among the columns. A word is named by its text or its index.
    Raises UsageProblem for a word that does not occur in the text, or occurs more than once.
    """
    spans = find_span(axes.rows, query, axes.first), find_span(axes.columns, source)
    looking, seen = (range(first, last + 1) for first, last in spans)
    pairs = [(at, to) for at in looking for to in seen]
    # If the mask forbids all edges, all are returned, and `ablate` raises an error.
    return tuple((at, to) for at, to in pairs if to < axes.reach[at] and axes.reach[at] > 1) or tuple(pairs)


def _refuse_missing(without: Without, reading: Reading, token: int | None) -> None:
    """Raises UsageProblem for a head or an edge that does not exist, or that cannot affect the prediction of `token`.

    `token` is a row, or None for all rows.
    """
    for layer, head in without.heads:
        refuse_missing("layer", layer, reading.layers_of(without.part))
        refuse_missing("head", head, reading.heads)
    if without.edges:
        one = reading if reading.translation is None else replace(reading, parts=(without.part,))
        for query, source in without.edges:
            _refuse_edge(query, source, one.axes, token if one.causal else None)


def _refuse_edge(query: int, source: int, axes: MapAxes, last: int | None) -> None:
    """Raises UsageProblem for an edge that does not exist, or that cannot affect the prediction of the row `last`."""
    refuse_missing("token", query, len(axes.rows), axes.first)
    refuse_missing("token", source, len(axes.columns))
    row, reach = axes.row_index(query), axes.reach[query]
    if source >= reach and axes.squared:
        raise UsageProblem(
            f"Token {row} cannot look at {source}, which comes later.", f"The opposite edge is {source}:{row}."
        )
    if source >= reach:
        seen = f"tokens 0 to {reach - 1}" if reach > 1 else "token 0"
        raise UsageProblem(f"Token {row} is predicted before token {source} is read.", f"It is predicted from {seen}.")
    if last is not None and query > last:
        message = f"Token {row} comes after token {axes.row_index(last)}, whose prediction is measured."
        raise UsageProblem.naming(lambda name: (message, f"Leave {name('token')} out."))
    if reach == 1:
        other = 2 + axes.first
        raise UsageProblem(
            f"Token {row} can look at nothing but {'itself' if axes.squared else 'token 0'}.",
            f"Cut an edge of a later token, such as {other}:0.",
        )
