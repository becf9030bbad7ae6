"""The first screen of an explanation: sources, one head's map, the next token, and the cuts. One forward pass.

Holds one layer's attention at a time, of the maps only the best so far, and the keys and values that the cuts need. Of
a long text only the rows around the focus are watched, so nothing here grows with the square of its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attncli.explain.checks import EdgeChecks, Prediction, check_edges
from attncli.explain.contributions import contribution_norms
from attncli.explain.defaults import SOURCES
from attncli.explain.head_map import BusiestHead, HeadMap
from attncli.explain.next_token import NextToken, most_probable
from attncli.explain.question import Focus, focused_unit, rows_around
from attncli.explain.reading import ids_of, read, rows_to_watch
from attncli.explain.sources import Sources, SourceShares
from attncli.explain.units import Units
from attncli.explain.words import Words, joined
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.cache import SharedPast
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@dataclass(frozen=True)
class Explanation:
    """The finding of the first screen and of the views `bars` and `map`.

    Counted in words, everything is of words, their indices too: a word is the sum of its tokens as sources, and the
    mean of them as queries. The prediction is that after the last token of the word in focus.
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
    named: int = SOURCES  # sources told by name, the first token aside

    @property
    def tokens(self) -> tuple[Piece, ...]:
        """The text as the model reads it."""
        return self.pieces if self.words is None else self.words.tokens

    @property
    def unit(self) -> str:
        """The name of one of the pieces."""
        return "token" if self.words is None else "word"


def explain(
    model: Transformer,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    focus: Focus,
    *,
    words: Sequence[range] | None = None,
    next_tokens: int = 10,
    named: int = SOURCES,
    check: bool = True,
    temperature: float = 1.0,
) -> Explanation:
    """Explains where the token in focus gets its information, in a text given as its tokens.

    With `words`, the tokens of each word in order, focus and findings are of words. The `named` greatest sources are
    told by name; `check` cuts each of them off in turn. All probabilities are those at `temperature`.

    Raises:
        BadInput: for no tokens, or more than the context.
        UsageProblem: for a token, layer or head that does not exist, naming those that do.
    """
    spans = words or [range(at, at + 1) for at in range(len(pieces))]
    units = _units(model, pieces, focus, spans)
    watch = _Pass(focus, SourceShares(focus, units), BusiestHead(focus, units), units)
    ids = ids_of(model, pieces)
    with torch.inference_mode():
        hidden = read(model, ids, units.rows, watch)[0, units.query_rows[-1]]
        logits = model.unembed(hidden).float()[: tokenizer.vocab_size]
        following = most_probable(logits, tokenizer, next_tokens, temperature)
        sources, checks = watch.shares.sources(), None
        if check and units.focus > 0:  # a query never loses its last key
            prediction = watch.prediction(model, ids, following[0].id, temperature, tokenizer.vocab_size)
            seen, heads = spans[: units.focus + 1], _heads_asked(model, focus)
            checks = check_edges(model, prediction, seen, sources.named(named), following[0], heads)
    shape = model.config.layers, model.config.heads
    told = pieces if words is None else joined(pieces, spans)
    tokens = None if words is None else Words(tuple(pieces), tuple(spans))
    head_map = watch.busiest.head_map()
    return Explanation(tuple(told), *shape, sources, head_map, following, checks, tokens, temperature, named)


def _units(model: Transformer, pieces: Sequence[Piece], focus: Focus, spans: Sequence[range]) -> Units:
    """The unit in focus, and the rows to watch around it."""
    unit = focused_unit(model, pieces, focus, len(spans))
    around = rows_around(unit, len(spans))
    rows = range(spans[around[0]].start, spans[around[-1]].stop)
    return Units(spans, unit, rows_to_watch(rows, len(pieces)))


def _heads_asked(model: Transformer, focus: Focus) -> dict[int, Sequence[int]] | None:
    """The heads of each layer that a focus asks about; None for all."""
    if focus.layer is None and focus.head is None:
        return None
    layers = range(model.config.layers) if focus.layer is None else [focus.layer]
    return {layer: range(model.config.heads) if focus.head is None else [focus.head] for layer in layers}


@dataclass
class _Pass(Observer):
    """One forward pass: shares and map of the layers asked about, and all keys and values before the focus."""

    focus: Focus
    shares: SourceShares
    busiest: BusiestHead
    units: Units
    keys: list[Tensor] = field(default_factory=list)  # (1, K, S, D) per layer
    values: list[Tensor] = field(default_factory=list)

    def prediction(self, model: Transformer, ids: Tensor, target: int, temperature: float, known: int) -> Prediction:
        """What the cuts are measured on: the prediction after the tokens in focus, which stand after these keys."""
        past = SharedPast(self.keys, self.values, model.config.context)
        queries = self.units.queries
        return Prediction(past, ids[0, queries.start : queries.stop], target, temperature, known)

    def residual(self, layer: int, stream: Tensor) -> None:
        """Compares attention's output with the stream."""
        self.shares.compare(layer, stream)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Takes one layer."""
        start = self.units.queries.start
        self.keys.append(steps.key[:, :, :start])
        self.values.append(steps.value[:, :, :start])
        if self.focus.layer is None or layer == self.focus.layer:
            contributed = [contribution_norms(steps, module, row) for row in self.units.query_rows]
            self.shares.take(layer, steps.weights[0], steps.output, contributed)
            self.busiest.take(layer, steps.weights[0], contributed, module.window)
