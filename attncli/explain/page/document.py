"""Puts together everything that the page shows of one text, and decides how much of a long text fits.

A short text is recorded whole. Of a long text, the attention of the rows around the focus is recorded, the thumbnails
and the rollout of all rows, and the vectors of the busiest heads. `limits` says what is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attncli.checkpoint.load import LoadedModel
from attncli.config import ModelConfig
from attncli.errors import UsageProblem
from attncli.explain.defaults import PARTS, AttentionPart, Measure
from attncli.explain.heads import HeadScores
from attncli.explain.next_token import name_of
from attncli.explain.page.attention import PageAttention, page_attention
from attncli.explain.page.cuts import CUT_KINDS, CutEffect, Cuts, cuts
from attncli.explain.page.predictions import LENS, Predictions, Streams, predictions_of
from attncli.explain.question import Focus, default_row, focused_row
from attncli.explain.reading import Observers, Reading, TextPair
from attncli.model.attention import Observer
from attncli.text.tokenizer import Piece

MOST_CELLS = 10_000_000  # weights that are recorded: layers x heads x rows x sources
VECTOR_NUMBERS = 1_000_000  # of queries, keys and values, in each attention
_FEW_ROWS = 24  # fewer rows always have a lens: without it, their small matrix product may be rounded differently
KEPT_LOGITS = 50  # the largest logits of a row that are stored
MOST_LOGITS = 200_000_000  # logits that are computed: (layers + 1) x rows x vocabulary
MOST_EFFECTS = 2_000_000  # probabilities after cuts of edges in single heads, in each attention
OmissionCode = Literal["rows", "thumbnails", "rollout", "vectors", "predictions", "cuts"]


@dataclass(frozen=True)
class Omission:
    """Something of which the document contains only a part: `shown` of `of`."""

    code: OmissionCode
    part: AttentionPart
    shown: int
    of: int


@dataclass(frozen=True)
class Start:
    """The initial selection of the page: attention, row, heads and settings."""

    part: AttentionPart
    row: int
    heads: tuple[tuple[int, int], ...]
    temperature: float = 1.0
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    words: bool = False  # whether tokens are grouped into words
    weights: Measure = "norm"


@dataclass(frozen=True)
class PageDocument:
    """Everything that the page shows of one text."""

    model: str
    config: ModelConfig
    pieces: tuple[Piece, ...]  # the tokens that are read: by the decoder, or by the only stack
    source: tuple[Piece, ...] | None  # the tokens of the source text of a translation
    attentions: tuple[PageAttention, ...]
    kinds: Mapping[AttentionPart, HeadScores]
    predictions: Predictions | None  # None if the model predicts no words
    cuts: Mapping[AttentionPart, Cuts]  # empty if nothing was cut
    vocabulary: Mapping[int, str]  # the text of every token that is predicted, before or after a cut
    start: Start
    limits: tuple[Omission, ...]


def page_document(
    loaded: LoadedModel,
    text: Sequence[Piece] | TextPair,
    *,
    token: int | None = None,
    part: AttentionPart | None = None,
    head: tuple[int, int] | None = None,
    kinds: Mapping[AttentionPart, HeadScores] | None = None,
    cut_budget: float = 0,
    lens: bool = True,
    steps: bool = True,
    watch: Observer | None = None,
) -> PageDocument:
    """Returns everything that the page shows of a text, or of a source text and its translation.

    `token` is the row in focus; None means the default row. `part` is the attention that is shown first: by default
    cross-attention in an encoder-decoder, the only attention in other models. `head` is the head that is shown first,
    by default the busiest one. `kinds` are the scores of `scores_by_part`. `cut_budget` is the number of multiply-adds
    that the cuts of all attentions may take; 0 means no cuts. Without `lens`, the document of more than a few rows has
    no logit lens; without `steps`, it has no queries, keys and values. `watch` observes the forward passes, but those
    of cuts.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, part or head that does not exist.
    """
    readings = readings_of(loaded, text)
    part = part or next(reversed(readings))
    if part not in readings:
        raise UsageProblem(f"{loaded.name} has no attention {part!r}.", f"It has {', '.join(readings)}.")
    layer, number = head or (None, None)
    focus = focused_row(readings[part], Focus(token, layer, number), readings[part].axes)
    rows = {each: focus if _same_rows(each, part) else default_row(reading.axes) for each, reading in readings.items()}
    found = _Predicting(loaded, readings, rows, watch)
    vectors = VECTOR_NUMBERS if steps else 0
    attentions = {
        each: page_attention(
            reading, stored_rows(reading, rows[each]), rows[each], vectors=vectors, more=found.watch(each)
        )
        for each, reading in readings.items()
    }
    predicted = found.predictions(lens=lens)
    cut = (
        {} if predicted is None or not cut_budget else _cuts(loaded, readings, predicted.rows, found.focus, cut_budget)
    )
    translation = readings[part].translation
    return PageDocument(
        model=loaded.name,
        config=loaded.model.config,
        pieces=readings[part].pieces,
        source=None if translation is None else translation.source,
        attentions=tuple(attentions.values()),
        kinds=kinds or {},
        predictions=predicted,
        cuts=cut,
        vocabulary=_names(loaded, _ids(predicted, cut.values())),
        start=Start(part, focus, (head or attentions[part].busiest,)),
        limits=_all_limits(attentions.values(), found, cut),
    )


def _all_limits(
    attentions: Iterable[PageAttention], found: _Predicting, cut: Mapping[AttentionPart, Cuts]
) -> tuple[Omission, ...]:
    """Returns what the document leaves out of its attentions, its predictions and its cuts."""
    return (
        *(limit for each in attentions for limit in _limits(each)),
        *found.limits(),
        *(limit for each, made in cut.items() for limit in _cut_limits(each, made, len(found.axes.rows))),
    )


class _Predicting:
    """Records what the last attention of a text predicts, while this attention is recorded."""

    def __init__(
        self,
        loaded: LoadedModel,
        readings: Mapping[AttentionPart, Reading],
        focus: Mapping[AttentionPart, int],
        watch: Observer | None,
    ) -> None:
        """`focus` is the row in focus of each attention. `watch` observes the passes of all attentions."""
        self._part, self._reading = list(readings.items())[-1]
        self._loaded, self._also = loaded, watch
        self.axes, self.focus = self._reading.axes, focus[self._part]
        stored = stored_rows(self._reading, self.focus)
        states = self._reading.model.config.layers + 1
        self.rows = _around(stored, self.focus, MOST_LOGITS // (states * loaded.tokenizer.vocab_size))
        self._streams = Streams(self._reading, self.rows, stored)

    def watch(self, part: AttentionPart) -> Observer | None:
        """Returns the observer of the pass in which an attention is recorded."""
        if part != self._part or not self._reading.predicts:
            return self._also
        return Observers([each for each in (self._streams, self._also) if each is not None])

    def predictions(self, *, lens: bool) -> Predictions | None:
        """Returns what the rows predict, after the passes; None if the model predicts no words."""
        if not self._reading.predicts:
            return None
        tokens = LENS if lens or len(self.rows) < _FEW_ROWS else 0
        return predictions_of(
            self._reading, self._loaded.tokenizer, self.rows, self._streams.stacked, kept=KEPT_LOGITS, lens=tokens
        )

    def limits(self) -> Iterator[Omission]:
        """Yields what the document lacks of the predictions."""
        count = len(self.axes.rows)
        if self._reading.predicts and len(self.rows) < count:
            yield Omission("predictions", self._part, len(self.rows), count)


def _cuts(
    loaded: LoadedModel, readings: Mapping[AttentionPart, Reading], rows: range, focus: int, budget: float
) -> dict[AttentionPart, Cuts]:
    """Measures cuts in each attention on the predictions of `rows`, the row `focus` first."""
    made = {
        part: cuts(reading, loaded.tokenizer, part, focus=focus, budget=budget / len(readings), measured=rows)
        for part, reading in readings.items()
    }
    return {part: _trimmed(each, focus) for part, each in made.items() if each is not None}


def _trimmed(made: Cuts, focus: int) -> Cuts:
    """Returns cuts whose edges in single heads are those of as many rows as fit, the nearest to the focus."""
    effect = made.head_edges
    if effect is None or effect.kept.size <= MOST_EFFECTS:
        return made
    fitting = max(1, MOST_EFFECTS // effect.kept[:, :, 0].size)
    nearest = sorted(range(len(effect.rows)), key=lambda at: abs(effect.rows[at] - focus))[:fitting]
    at = sorted(nearest)
    rows = tuple(effect.rows[each] for each in at)
    kept, ids, probabilities = effect.kept[:, :, at], effect.ids[:, :, at], effect.probabilities[:, :, at]
    return replace(made, head_edges=CutEffect(rows, kept, ids, probabilities))


def _cut_limits(part: AttentionPart, made: Cuts, count: int) -> Iterator[Omission]:
    """Yields what the document lacks of the cuts in one attention: rows for which no single head was cut."""
    covered = len(made.head_edges.rows if made.head_edges else made.heads.rows if made.heads and not made.edges else ())
    if covered < count:
        yield Omission("cuts", part, covered, count)


def _ids(predicted: Predictions | None, made: Iterable[Cuts]) -> Iterator[NDArray[np.int32]]:
    """Yields the arrays with the ids of all tokens that are named."""
    if predicted is not None:
        yield predicted.ids
        if predicted.lens is not None:
            yield predicted.lens.ids
    for each in made:
        yield each.candidates
        yield from (effect.ids for kind in CUT_KINDS if (effect := getattr(each, kind)) is not None)


def _names(loaded: LoadedModel, ids: Iterable[NDArray[np.int32]]) -> dict[int, str]:
    """Returns the text of every id of some arrays."""
    every = np.unique(np.concatenate([np.zeros(0, np.int32), *(each.ravel() for each in ids)]))
    return {id_: name_of(loaded.tokenizer, id_) for id_ in every.tolist()}


def readings_of(loaded: LoadedModel, text: Sequence[Piece] | TextPair) -> dict[AttentionPart, Reading]:
    """Returns the reading of a text by each attention of the model, in the order of PARTS."""
    if isinstance(text, TextPair):
        return {part: Reading.translated(loaded.model, text, [part]) for part in PARTS}
    return {"decoder" if loaded.model.config.causal else "encoder": Reading.of(loaded.model, text)}


def stored_rows(reading: Reading, focus: int) -> range:
    """Returns the rows of attention that are recorded: all rows, or as many rows around the focus as fit."""
    axes = reading.axes
    return _around(range(len(axes.rows)), focus, MOST_CELLS // (reading.layers * reading.heads * len(axes.columns)))


def _around(rows: range, focus: int, fitting: int) -> range:
    """Returns as many rows as fit, but at least one: three quarters of them up to the focus."""
    fitting = max(fitting, 1)
    first = max(rows.start, min(focus - fitting * 3 // 4, rows.stop - fitting))
    return range(first, min(first + fitting, rows.stop))


def _same_rows(one: AttentionPart, other: AttentionPart) -> bool:
    """Whether two attentions have the same rows: the decoder and cross-attention have."""
    return (one == "encoder") == (other == "encoder")


def _limits(attention: PageAttention) -> Iterator[Omission]:
    """Yields what the document lacks of one attention."""
    layers, heads = attention.shape
    if len(attention.rows) < len(attention.axes.rows):
        yield Omission("rows", attention.part, len(attention.rows), len(attention.axes.rows))
        if attention.thumbnails is None:
            yield Omission("thumbnails", attention.part, 0, layers * heads)
    if attention.rollout is None and attention.part != "cross":
        yield Omission("rollout", attention.part, 0, len(attention.axes.rows))
    if attention.vectors is not None and len(attention.vectors.heads) < layers * heads:
        yield Omission("vectors", attention.part, len(attention.vectors.heads), layers * heads)
