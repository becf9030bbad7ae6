"""Computes the first screen of an explanation: the sources, one head's map, the next token, and the cuts.

One forward pass is observed layer by layer. Only the current layer's attention, the best map so far, and the keys and
values that the cuts need are in memory. In a long text only the rows around the focus are observed, so memory does not
grow with the square of the text's length.

In a decoder with an encoder, self-attention and cross-attention are joined: the sources are the tokens of the source
text and the tokens before the focus, and the shares of all of them sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from attncli.explain.checks import EdgeChecks, Prediction, check_edges, within_reach
from attncli.explain.contributions import contribution_norms, matrix_after_norm
from attncli.explain.defaults import SOURCES
from attncli.explain.head_map import AligningHead, BusiestHead, HeadMap, KnownHead
from attncli.explain.next_token import NextToken, most_probable
from attncli.explain.question import Focus, MapAxes, focused_row, rows_around
from attncli.explain.reading import Reading
from attncli.explain.sources import Sources, SourceShares
from attncli.explain.units import Spans, Units
from attncli.explain.words import Words, joined
from attncli.model.attention import Attention, AttentionSteps, Observer, Part
from attncli.model.cache import SharedPast
from attncli.model.stack import Block
from attncli.text.tokenizer import Piece, Tokenizer


@dataclass(frozen=True)
class Explanation:
    """The finding of the first screen and of the views `bars` and `map`.

    If the text is counted in words, all shares, weights and indices refer to words. The values of a word's tokens are
    summed if the word is a source, and averaged if the word is a query. In a decoder alone, the prediction is for the
    token after the token or word in focus. In a translation, it is for the token or word in focus.
    """

    axes: MapAxes  # tokens, or words
    layers: int
    heads: int
    sources: Sources
    map: HeadMap
    next_tokens: tuple[NextToken, ...]  # candidates for the predicted token, most probable first; () in an encoder
    checks: EdgeChecks | None = None
    words: Words | None = None
    temperature: float = 1.0  # at which all probabilities are computed
    named: int = SOURCES  # sources shown by name, besides those listed separately

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The sources: tokens, or words."""
        return self.axes.columns

    @property
    def tokens(self) -> tuple[Piece, ...]:
        """The tokens of the sources, even if `pieces` are words."""
        return self.pieces if self.words is None else self.words.tokens

    @property
    def unit(self) -> str:
        """The unit of a source: 'token' or 'word'."""
        return "token" if self.words is None else "word"

    @property
    def focus(self) -> Piece:
        """The token or word in focus."""
        return self.axes.rows[self.sources.focus]


def explain(
    reading: Reading,
    tokenizer: Tokenizer,
    focus: Focus,
    *,
    words: Spans | None = None,
    next_tokens: int = 10,
    named: int = SOURCES,
    check: bool = True,
    temperature: float = 1.0,
    aligning: bool = True,
    known: KnownHead | None = None,
) -> Explanation:
    """Finds the tokens from which the token in focus gets its information.

    If `words` gives the tokens of each word, the focus and the finding are counted in words. `named` is the number of
    sources that are shown by name, besides those that are listed separately. If `check` is true, each source that is
    shown by name is cut in turn. All probabilities are computed at `temperature`. If `aligning` is true and no head is
    selected, the map of cross-attention is that of the `known` head or, without it, of the head that looks most like
    an alignment.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, layer or head that does not exist; the message says which exist.
    """
    axes = reading.axes if words is None else word_axes(reading, words)
    spans = words or Spans.single(len(axes.rows), len(axes.columns))
    units = _units(reading, focus, axes, spans)
    watch = _pass_of(reading, focus, axes, units, known, aligning=aligning)
    hidden = reading.run(units.rows, watch)[0]
    sources, checks, following = watch.shares.sources(), None, tuple[NextToken, ...]()
    if reading.predicts:
        predicting = units.query_rows[0 if reading.translation else -1]
        with torch.inference_mode():
            logits = reading.model.unembed(hidden[predicting]).float()[: tokenizer.vocab_size]
        following = most_probable(logits, tokenizer, next_tokens, temperature)
        alone = sources.reach == 1 and axes.itself(units.focus) is not None  # the only edge of a token is not cut
        if check and not alone:
            target = _target(reading, tokenizer, units, axes, following[0])
            checks = watch.checks(reading, tokenizer, sources, target, named, temperature)
    shape = reading.layers, reading.heads
    tokens = None if words is None else Words(reading.axes.columns, tuple(words.columns))
    return Explanation(axes, *shape, sources, watch.map.head_map(), following, checks, tokens, temperature, named)


def word_axes(reading: Reading, words: Spans) -> MapAxes:
    """Returns the axes of a reading in words."""
    tokens = reading.axes
    rows, columns = tuple(joined(tokens.rows, words.rows)), tuple(joined(tokens.columns, words.columns))
    starts = [span.start for span in words.columns]
    reach = tuple(sum(start < tokens.reach[span[-1]] for start in starts) for span in words.rows)
    return replace(tokens, rows=rows, columns=columns, reach=reach, sources=sum(at < tokens.sources for at in starts))


def _units(reading: Reading, focus: Focus, axes: MapAxes, spans: Spans) -> Units:
    """Returns the units of the text, the unit in focus, and the rows of attention to observe around the focus."""
    unit = focused_row(reading, focus, axes)
    around = rows_around(unit, len(spans.rows))
    rows = range(spans.rows[around[0]].start, spans.rows[around[-1]].stop)
    return Units(spans, unit, reading.rows_to_watch(rows))


def _target(
    reading: Reading, tokenizer: Tokenizer, units: Units, axes: MapAxes, predicted: NextToken
) -> tuple[tuple[int, ...], NextToken]:
    """Returns the ids whose probability is measured under cuts, and their name.

    In a translation, these are the tokens in focus; otherwise, the most probable token.
    """
    if reading.translation is None:
        return (predicted.id,), predicted
    ids = tuple(reading.axes.rows[at].id for at in units.queries)
    return ids, NextToken(ids[-1], axes.rows[units.focus].text or tokenizer.name(ids[-1]), predicted.probability)


def _heads_asked(reading: Reading, focus: Focus) -> dict[int, Sequence[int]] | None:
    """Returns the heads that a focus selects, by layer. None means all heads of all layers."""
    if focus.layer is None and focus.head is None:
        return None
    layers = range(reading.layers) if focus.layer is None else [focus.layer]
    return {layer: range(reading.heads) if focus.head is None else [focus.head] for layer in layers}


def _pass_of(
    reading: Reading, focus: Focus, axes: MapAxes, units: Units, known: KnownHead | None, *, aligning: bool
) -> _Pass:
    """Returns the observer of a forward pass; `known` and `aligning` as `explain` takes them."""
    shares = SourceShares(focus, units, axes)
    if focus.layer is not None or focus.head is not None or "cross" not in reading.parts:
        aligning = False
    if len(reading.parts) == 1 and not aligning:
        return _Pass(reading, focus, units, shares, BusiestHead(focus, units, axes))
    columns = reading.columns["cross"]
    # With both attentions, the map is of cross-attention, whose columns come first.
    own = [span for span in units.spans.columns if span.start in columns]
    reach = (len(own),) * len(axes.rows)
    cross = replace(axes, columns=axes.columns[: len(own)], reach=reach, part="cross", sources=0)
    head = AligningHead(replace(units, spans=Spans(units.spans.rows, own)), cross, known)
    return _Pass(reading, focus, units, shares, head)


@dataclass
class _Pass(Observer):
    """Records one forward pass: shares and map of the selected layers, and all keys and values before the focus."""

    reading: Reading
    focus: Focus
    units: Units
    shares: SourceShares
    map: BusiestHead | AligningHead
    keys: list[Tensor] = field(default_factory=list)  # (1, K, S, D) per layer
    values: list[Tensor] = field(default_factory=list)
    _joined: dict[Part, tuple[AttentionSteps, list[tuple[Tensor, Tensor]]]] = field(default_factory=dict)

    def residual(self, layer: int, stream: Tensor) -> None:
        """Compares the previous layer's attention output with the residual stream after that layer."""
        self._stream = stream
        if self.reading.model.config.pre_norm:  # a norm sets the length of the stream
            self.shares.compare(layer, stream)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Records the keys, values and contributions of one layer."""
        if module.part == "decoder" and self.reading.causal:
            start = self.units.queries.start
            self.keys.append(steps.key[:, :, :start])
            self.values.append(steps.value[:, :, :start])
        if self.focus.layer is None or layer == self.focus.layer:
            contributed = [
                contribution_norms(steps, module, row, self._matrix(layer, steps, module, row))
                for row in self.units.query_rows
            ]
            if len(self.reading.parts) > 1:
                self._joined[module.part] = steps, contributed
                if len(self._joined) == len(self.reading.parts):
                    self._take_joined(layer)
                return
            self.shares.take(layer, steps.weights[0], steps.output, contributed)
            if isinstance(self.map, AligningHead):
                self.map.take(layer, steps.weights[0])
            else:
                allowed = self.reading.allowed(self.reading.parts[0], self.units.rows, module.window)
                self.map.take(layer, steps.weights[0], contributed, allowed)

    def _matrix(self, layer: int, steps: AttentionSteps, module: Attention, row: int) -> Tensor | None:
        """Returns the matrix that replaces the output matrix of self-attention in a post-norm model, or None.

        There, a norm rescales the output of self-attention before cross-attention adds its output to the stream.
        """
        if len(self.reading.parts) == 1 or module.part == "cross" or self.reading.model.config.pre_norm:
            return None
        norm = cast(Block, self.reading.stack.blocks[layer]).attention_norm
        return matrix_after_norm(norm, self._stream[0, row] + steps.output[0, row], module.output.weight)

    def _take_joined(self, layer: int) -> None:
        """Joins self-attention and cross-attention of one layer. Each contributes half of the joined weights."""
        parts = [self._joined[part] for part in self.reading.parts]
        weights = torch.cat([steps.weights[0] for steps, _ in parts], -1) / len(parts)
        each = zip(*(contributed for _, contributed in parts), strict=True)
        contributed = [
            (torch.cat([heads for heads, _ in row], -1), torch.cat([together for _, together in row])) for row in each
        ]
        self.shares.take(layer, weights, sum((steps.output for steps, _ in parts), torch.zeros(())), contributed)
        if isinstance(self.map, AligningHead):
            self.map.take(layer, self._joined["cross"][0].weights[0])
        self._joined.clear()

    def checks(
        self,
        reading: Reading,
        tokenizer: Tokenizer,
        sources: Sources,
        target: tuple[tuple[int, ...], NextToken],
        named: int,
        temperature: float,
    ) -> EdgeChecks:
        """Cuts each named source. The recorded keys and values of self-attention are a cache for the forward passes."""
        queries, spans, heads = self.units.queries, self.units.spans, _heads_asked(reading, self.focus)
        past = SharedPast(self.keys, self.values, reading.model.config.context) if self.keys else None
        first = 0 if past is None else queries.start  # the first token that is recomputed
        prediction = Prediction(
            past,
            reading.ids[0, first : queries.stop] if reading.causal else reading.ids[0],
            target[0],
            temperature,
            tokenizer.vocab_size,
            reading.source,
            None if reading.translation is None else reading.columns,
            None if reading.causal else queries[-1],
            reading.segments,
        )
        reach = reading.reach(queries)
        edges = {
            at: frozenset(
                (query - first, source)
                for query, visible in zip(queries, reach, strict=True)
                for source in span
                if source < visible
            )
            for at, span in enumerate(spans.columns[: sources.reach])
        }
        own = self.shares.axes.itself(self.units.focus)
        near: Sequence[int] = range(sources.reach)
        if reading.translation is None and reading.causal:
            near = within_reach(reading.model, spans.columns[: sources.reach], queries.start, heads)
        before = [at for at in near if at != own]
        return check_edges(reading.model, prediction, edges, sources.named(named), before, target[1], heads)
