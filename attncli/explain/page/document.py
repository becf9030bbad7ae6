"""Puts together everything that the page shows of one text, and decides how much of a long text fits.

A short text is recorded whole. Of a long text, the attention of the rows around the focus is recorded, the thumbnails
and the rollout of all rows, and the vectors of the busiest heads. `limits` says what is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attncli.checkpoint.load import LoadedModel
from attncli.config import ModelConfig
from attncli.errors import UsageProblem
from attncli.explain.defaults import PARTS, AttentionPart
from attncli.explain.heads import HeadScores
from attncli.explain.page.attention import PageAttention, page_attention
from attncli.explain.question import Focus, default_row, focused_row
from attncli.explain.reading import Reading, TextPair
from attncli.model.attention import Observer
from attncli.text.tokenizer import Piece

MOST_CELLS = 10_000_000  # weights that are recorded: layers x heads x rows x sources
VECTOR_NUMBERS = 1_000_000  # of queries, keys and values, in each attention
OmissionCode = Literal["rows", "thumbnails", "rollout", "vectors"]


@dataclass(frozen=True)
class Omission:
    """Something of which the document contains only a part: `shown` of `of`."""

    code: OmissionCode
    part: AttentionPart
    shown: int
    of: int


@dataclass(frozen=True)
class Start:
    """What the page shows first."""

    part: AttentionPart
    row: int
    heads: tuple[tuple[int, int], ...]
    temperature: float = 1.0


@dataclass(frozen=True)
class PageDocument:
    """Everything that the page shows of one text."""

    model: str
    config: ModelConfig
    pieces: tuple[Piece, ...]  # the tokens that are read: by the decoder, or by the only stack
    source: tuple[Piece, ...] | None  # the tokens of the source text of a translation
    attentions: tuple[PageAttention, ...]
    kinds: Mapping[AttentionPart, HeadScores]
    start: Start
    limits: tuple[Omission, ...]


def page_document(
    loaded: LoadedModel,
    text: Sequence[Piece] | TextPair,
    *,
    token: int | None = None,
    part: AttentionPart | None = None,
    head: tuple[int, int] | None = None,
    temperature: float = 1.0,
    kinds: Mapping[AttentionPart, HeadScores] | None = None,
    watch: Observer | None = None,
) -> PageDocument:
    """Returns everything that the page shows of a text, or of a source text and its translation.

    `token` is the row in focus; None means the default row. `part` is the attention that is shown first: by default
    cross-attention in an encoder-decoder, the only attention in other models. `head` is the head that is shown first,
    by default the busiest one. `kinds` are the scores of `scores_by_part`. `watch` observes the forward passes.

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
    attentions = {
        each: page_attention(reading, stored_rows(reading, rows[each]), rows[each], vectors=VECTOR_NUMBERS, more=watch)
        for each, reading in readings.items()
    }
    translation = readings[part].translation
    return PageDocument(
        model=loaded.name,
        config=loaded.model.config,
        pieces=readings[part].pieces,
        source=None if translation is None else translation.source,
        attentions=tuple(attentions.values()),
        kinds=kinds or {},
        start=Start(part, focus, (head or attentions[part].busiest,), temperature),
        limits=tuple(limit for attention in attentions.values() for limit in _limits(attention)),
    )


def readings_of(loaded: LoadedModel, text: Sequence[Piece] | TextPair) -> dict[AttentionPart, Reading]:
    """Returns the reading of a text by each attention of the model, in the order of PARTS."""
    if isinstance(text, TextPair):
        return {part: Reading.translated(loaded.model, text, [part]) for part in PARTS}
    return {"decoder" if loaded.model.config.causal else "encoder": Reading.of(loaded.model, text)}


def stored_rows(reading: Reading, focus: int) -> range:
    """Returns the rows of attention that are recorded: all rows, or as many rows around the focus as fit."""
    axes = reading.axes
    fitting = max(MOST_CELLS // (reading.layers * reading.heads * len(axes.columns)), 1)
    first = max(0, min(focus - fitting * 3 // 4, len(axes.rows) - fitting))
    return range(first, min(first + fitting, len(axes.rows)))


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
