"""Computes the first screen of an explanation: the sources, one head's map, the next token, and the cuts.

One forward pass is observed layer by layer. Only the current layer's attention, the best map so far, and the keys and
values that the cuts need are in memory. In a long text only the rows around the focus are observed, so memory does not
grow with the square of the text's length.
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

    If the text is counted in words, all shares, weights and indices refer to words. The values of a word's tokens are
    summed if the word is a source, and averaged if the word is a query. The prediction is for the token after the word
    in focus.
    """

    pieces: tuple[Piece, ...]  # tokens, or words
    layers: int
    heads: int
    sources: Sources
    map: HeadMap
    next_tokens: tuple[NextToken, ...]  # candidates for the token after the focus, most probable first
    checks: EdgeChecks | None = None
    words: Words | None = None
    temperature: float = 1.0  # at which all probabilities are computed
    named: int = SOURCES  # sources shown by name, besides the first token

    @property
    def tokens(self) -> tuple[Piece, ...]:
        """The tokens of the text, even if `pieces` are words."""
        return self.pieces if self.words is None else self.words.tokens

    @property
    def unit(self) -> str:
        """The unit of a source: 'token' or 'word'."""
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
    """Finds the tokens of a text from which the token in focus gets its information.

    `pieces` are the tokens of the text. If `words` gives the range of tokens of each word, the focus and the finding
    are counted in words. `named` is the number of sources that are shown by name, besides the first token. If `check`
    is true, each source that is shown by name is cut in turn. All probabilities are computed at `temperature`.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, layer or head that does not exist; the message says which exist.
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
        if check and units.focus > 0:  # the first unit attends only to itself, so it has no edge to cut
            prediction = watch.prediction(model, ids, following[0].id, temperature, tokenizer.vocab_size)
            seen, heads = spans[: units.focus + 1], _heads_asked(model, focus)
            checks = check_edges(model, prediction, seen, sources.named(named), following[0], heads)
    shape = model.config.layers, model.config.heads
    told = pieces if words is None else joined(pieces, spans)
    tokens = None if words is None else Words(tuple(pieces), tuple(spans))
    head_map = watch.busiest.head_map()
    return Explanation(tuple(told), *shape, sources, head_map, following, checks, tokens, temperature, named)


def _units(model: Transformer, pieces: Sequence[Piece], focus: Focus, spans: Sequence[range]) -> Units:
    """Returns the units of the text, the unit in focus, and the rows of attention to observe around the focus."""
    unit = focused_unit(model, pieces, focus, len(spans))
    around = rows_around(unit, len(spans))
    rows = range(spans[around[0]].start, spans[around[-1]].stop)
    return Units(spans, unit, rows_to_watch(rows, len(pieces)))


def _heads_asked(model: Transformer, focus: Focus) -> dict[int, Sequence[int]] | None:
    """Returns the heads that a focus selects, by layer. None means all heads of all layers."""
    if focus.layer is None and focus.head is None:
        return None
    layers = range(model.config.layers) if focus.layer is None else [focus.layer]
    return {layer: range(model.config.heads) if focus.head is None else [focus.head] for layer in layers}


@dataclass
class _Pass(Observer):
    """Records one forward pass: shares and map of the selected layers, and all keys and values before the focus."""

    focus: Focus
    shares: SourceShares
    busiest: BusiestHead
    units: Units
    keys: list[Tensor] = field(default_factory=list)  # (1, K, S, D) per layer
    values: list[Tensor] = field(default_factory=list)

    def prediction(self, model: Transformer, ids: Tensor, target: int, temperature: float, known: int) -> Prediction:
        """Returns the prediction that the cuts change; the recorded keys and values are its cache."""
        past = SharedPast(self.keys, self.values, model.config.context)
        queries = self.units.queries
        return Prediction(past, ids[0, queries.start : queries.stop], target, temperature, known)

    def residual(self, layer: int, stream: Tensor) -> None:
        """Compares the previous layer's attention output with the residual stream after that layer."""
        self.shares.compare(layer, stream)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Records the keys, values and contributions of one layer."""
        start = self.units.queries.start
        self.keys.append(steps.key[:, :, :start])
        self.values.append(steps.value[:, :, :start])
        if self.focus.layer is None or layer == self.focus.layer:
            contributed = [contribution_norms(steps, module, row) for row in self.units.query_rows]
            self.shares.take(layer, steps.weights[0], steps.output, contributed)
            self.busiest.take(layer, steps.weights[0], contributed, module.window)
