"""The input of a view: the tokens of a text, the token in focus, and the selected layers and heads.

`subject_of` checks a focus against a reading, and returns a Subject, which is a part of every finding. Layers, heads
and tokens are counted from 0. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput, UsageProblem
from attncli.explain.defaults import AttentionPart, Measure
from attncli.text.tokenizer import MASK, Piece

if TYPE_CHECKING:
    from attncli.explain.reading import Reading

Floats = NDArray[np.float64]
ROWS_AROUND = 40  # rows in the map of a long text


@dataclass(frozen=True)
class Focus:
    """The selection that a user makes for a view: a token, a layer, a head, and how a source is measured.

    `token` is the index of a row of attention. If it is None, the default row of the reading is in focus. If `layer` is
    None, all layers are selected; if `head` is None, all heads are selected.
    """

    token: int | None = None
    layer: int | None = None
    head: int | None = None
    weights: Measure = "norm"


@dataclass(frozen=True)
class MapAxes:
    """The rows and columns of attention weights: tokens or words.

    A row is a query, a column is a source to which the query may attend. In an encoder-decoder, a row of the decoder is
    named by the token that it predicts.
    """

    rows: tuple[Piece, ...]
    columns: tuple[Piece, ...]
    reach: tuple[int, ...]  # for each row, the number of columns that are not masked; these columns come first
    part: AttentionPart | Literal["both"] | None = None  # the attention of an encoder-decoder; None for other models
    first: int = 0  # the index with which the first row is named
    sources: int = 0  # for 'both', the number of columns of the source text, which come first; else 0

    @property
    def squared(self) -> bool:
        """Whether the rows are the same tokens as the columns."""
        return self.part in (None, "encoder")

    @property
    def masked(self) -> bool:
        """Whether some row cannot attend to some column."""
        return min(self.reach, default=0) < len(self.columns)

    @property
    def predicts_next(self) -> bool:
        """Whether each row predicts the token after it, as in a decoder alone."""
        return self.part is None and (self.masked or len(self.columns) == 1)

    def row_index(self, row: int) -> int:
        """Returns the index with which a row is named."""
        return row + self.first

    def column_index(self, column: int) -> int:
        """Returns the index with which a column is named: its index in the source text or in the target text."""
        return column if column < self.sources else column - self.sources

    def text_of(self, column: int) -> Literal["source", "target"] | None:
        """Returns the text of a column; None if all columns are tokens of one text."""
        if not self.sources:
            return None
        return "source" if column < self.sources else "target"

    def itself(self, row: int) -> int | None:
        """Returns the column of the row's own token; None if the token is not among the visible columns."""
        if self.squared:
            return row
        own = self.sources + row + 1 if self.part != "cross" else len(self.columns)
        return own if own < self.reach[row] else None

    def apart(self, row: int) -> tuple[int, ...]:
        """Returns the columns that are listed separately for a row, because idle heads attend to them.

        They are the first token of a decoder alone, and the special tokens around the texts of other models.
        """
        if self.predicts_next:
            return (0,) if row > 1 else ()
        visible = range(self.reach[row])
        special = tuple(at for at in visible if self.columns[at].special)
        return special if len(special) < len(visible) else ()


@dataclass(frozen=True)
class Subject:
    """The axes of a text's attention, the shape of the model that reads it, and the row in focus."""

    axes: MapAxes
    layers: int
    heads: int
    focus: int

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The tokens of the columns: the sources."""
        return self.axes.columns

    @property
    def reach(self) -> int:
        """The number of columns to which the row in focus can attend."""
        return self.axes.reach[self.focus]


def subject_of(reading: Reading, focus: Focus) -> Subject:
    """Checks a focus against a reading, and returns the subject.

    Raises BadInput and UsageProblem as `focused_row` does.
    """
    row = focused_row(reading, focus, reading.axes)
    return Subject(reading.axes, reading.layers, reading.heads, row)


def focused_row(reading: Reading, focus: Focus, axes: MapAxes) -> int:
    """Returns the row in focus, by default the default row of the axes, which may be counted in words.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, layer or head that does not exist; the message says which exist.
    """
    for text in reading.texts:
        refuse_length(text, reading.model.config.context)
    row = default_row(axes) if focus.token is None else focus.token
    refuse_missing("token", row, len(axes.rows), axes.first)
    if focus.layer is not None:
        refuse_missing("layer", focus.layer, reading.layers)
    if focus.head is not None:
        refuse_missing("head", focus.head, reading.heads)
    return row


def default_row(axes: MapAxes) -> int:
    """Returns the row in focus if the user names none.

    In a decoder alone, this is the last row. In other models, it is the last masked word, or without a mask the last
    row whose token has a letter or digit.
    """
    last = len(axes.rows) - 1
    if axes.predicts_next:
        return last
    masks = [at for at, piece in enumerate(axes.rows) if piece.text.strip() == MASK]
    if masks:
        return masks[-1]
    words = (at for at, piece in enumerate(axes.rows) if not piece.special and any(map(str.isalnum, piece.text)))
    return max(words, default=last)


def refuse_missing(what: str, index: int, count: int, first: int = 0) -> None:
    """Raises UsageProblem for an index that is not from 0 to `count` - 1.

    `what` is the noun in the message, such as 'layer'. In the message, the indices are counted from `first`.
    """
    if not 0 <= index < count:
        hint = f"There are {count}: {first} to {first + count - 1}."
        raise UsageProblem(f"There is no {what} {first + index}.", hint)


def refuse_length(pieces: Sequence[Piece], context: int) -> None:
    """Raises BadInput for a text with no tokens, or with more tokens than the context."""
    if not pieces:
        raise BadInput(
            "The text has no tokens.", 'Give a sentence, such as "The little cat sat on the old mat. The little".'
        )
    if len(pieces) > context:
        of_text = [piece for piece in pieces if not piece.special]
        room = max(context - (len(pieces) - len(of_text)), 0)  # for tokens of the text, beside the special ones
        fitting = sum(len(piece.completed) for piece in of_text[:room])
        raise BadInput(
            f"The text has {len(pieces)} tokens, and the model reads at most {context}.",
            f"Give less of it: the first {fitting} characters fit.",
        )


def layers_read(layers: int, layer: int | None) -> int:
    """Returns the number of layers after which the residual stream is read. None means all layers, 0 the embedding.

    Raises UsageProblem for more layers than the stack has.
    """
    after = layers if layer is None else layer
    if not 0 <= after <= layers:
        raise UsageProblem.naming(
            lambda named: (
                f"There is no stream after {after} layers.",
                f"{named('layer')} is from 0, the embedding, to {layers}.",
            )
        )
    return after


def rows_around(focus: int, count: int) -> range:
    """Returns the rows that a map of `count` rows shows: at most ROWS_AROUND rows.

    Three quarters of the rows are before the focus, except near the beginning and the end of the text.
    """
    first = max(0, min(focus - ROWS_AROUND * 3 // 4, count - ROWS_AROUND))
    return range(first, min(first + ROWS_AROUND, count))
