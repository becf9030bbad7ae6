"""The input of a view: the tokens of a text, the token in focus, and the selected layers and heads.

`subject_of` checks a focus against the text and the model, and returns a Subject, which is a part of every finding.
Layers, heads and tokens are counted from 0. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput, UsageProblem
from attncli.explain.defaults import Measure
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.model.transformer import Transformer

Floats = NDArray[np.float64]
ROWS_AROUND = 40  # rows in the map of a long text


@dataclass(frozen=True)
class Focus:
    """The selection that a user makes for a view: a token, a layer, a head, and how a source is measured.

    If `token` is None, the last token is in focus. If `layer` is None, all layers are selected; if `head` is None, all
    heads are selected.
    """

    token: int | None = None
    layer: int | None = None
    head: int | None = None
    weights: Measure = "norm"


@dataclass(frozen=True)
class Subject:
    """A text, the shape of the model that reads it, and the token in focus."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    focus: int


def subject_of(model: Transformer, pieces: Sequence[Piece], focus: Focus) -> Subject:
    """Checks a focus against a text and a model, and returns the subject.

    Raises BadInput and UsageProblem as `focused_unit` does.
    """
    config = model.config
    return Subject(tuple(pieces), config.layers, config.heads, focused_unit(model, pieces, focus, len(pieces)))


def focused_unit(model: Transformer, pieces: Sequence[Piece], focus: Focus, units: int) -> int:
    """Returns the index of the unit in focus, in a text that is counted as `units` tokens or words.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, layer or head that does not exist; the message says which exist.
    """
    config = model.config
    refuse_length(pieces, config.context)
    unit = units - 1 if focus.token is None else focus.token
    refuse_missing("token", unit, units)
    if focus.layer is not None:
        refuse_missing("layer", focus.layer, config.layers)
    if focus.head is not None:
        refuse_missing("head", focus.head, config.heads)
    return unit


def refuse_missing(what: str, index: int, count: int) -> None:
    """Raises UsageProblem for an index that is not from 0 to `count` - 1.

    `what` is the noun in the message, such as 'layer'.
    """
    if not 0 <= index < count:
        raise UsageProblem(f"There is no {what} {index}.", f"There are {count}: 0 to {count - 1}.")


def refuse_length(pieces: Sequence[Piece], context: int) -> None:
    """Raises BadInput for a text with no tokens, or with more tokens than the context."""
    if not pieces:
        raise BadInput(
            "The text has no tokens.", 'Give a sentence, such as "The little cat sat on the old mat. The little".'
        )
    if len(pieces) > context:
        fitting = sum(len(piece.completed) for piece in pieces[:context])
        raise BadInput(
            f"The text has {len(pieces)} tokens, and the model reads at most {context}.",
            f"Give less of it: the first {fitting} characters fit.",
        )


def layers_read(model: Transformer, layer: int | None) -> int:
    """Returns the number of layers after which the residual stream is read. None means all layers, 0 the embedding.

    Raises UsageProblem for more layers than the model has.
    """
    after = model.config.layers if layer is None else layer
    if not 0 <= after <= model.config.layers:
        raise UsageProblem.naming(
            lambda named: (
                f"There is no stream after {after} layers.",
                f"{named('layer')} is from 0, the embedding, to {model.config.layers}.",
            )
        )
    return after


def rows_around(focus: int, count: int) -> range:
    """Returns the rows that the map of a text of `count` tokens or words shows: at most ROWS_AROUND rows.

    Three quarters of the rows are before the focus, except near the beginning and the end of the text.
    """
    first = max(0, min(focus - ROWS_AROUND * 3 // 4, count - ROWS_AROUND))
    return range(first, min(first + ROWS_AROUND, count))
