"""What an explanation is asked: a text as its tokens, the token in focus, and the layer and head of interest.

Every view begins here: the focus is checked against the text and the model, and becomes a Question, which each finding
carries. Layers, heads and tokens are counted from 0. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from attncli.errors import BadInput, UsageProblem
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.model.transformer import Transformer

Floats = NDArray[np.float64]
Measure = Literal["norm", "raw"]  # of a source: the length of what it contributes, or its attention weight
ROWS_AROUND = 40  # of a long text's map


@dataclass(frozen=True)
class Focus:
    """What a user asks about: a token (None is the last), a layer and a head (None is all), and the measure."""

    token: int | None = None
    layer: int | None = None
    head: int | None = None
    weights: Measure = "norm"


@dataclass(frozen=True)
class Question:
    """A text, the shape of the model that reads it, and the token in focus."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    focus: int


def ask(model: Transformer, pieces: Sequence[Piece], focus: Focus) -> Question:
    """Checks a focus against the text and the model. Raises BadInput and UsageProblem as `focused_unit` does."""
    config = model.config
    return Question(tuple(pieces), config.layers, config.heads, focused_unit(model, pieces, focus, len(pieces)))


def focused_unit(model: Transformer, pieces: Sequence[Piece], focus: Focus, units: int) -> int:
    """The index of the token in focus, or of the word where the tokens are counted as this many units.

    Raises:
        BadInput: for no tokens, or more than the context.
        UsageProblem: for a token, layer or head that does not exist, naming those that do.
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
    """Raises UsageProblem for an index that is not below the count."""
    if not 0 <= index < count:
        raise UsageProblem(f"There is no {what} {index}.", f"There are {count}: 0 to {count - 1}.")


def refuse_length(pieces: Sequence[Piece], context: int) -> None:
    """Raises BadInput for no tokens, or more than the context."""
    if not pieces:
        raise BadInput(
            "The text has no tokens.",
            'Give a sentence: attncli explain "The little cat sat on the old mat. The little"',
        )
    if len(pieces) > context:
        fitting = sum(len(piece.completed) for piece in pieces[:context])
        raise BadInput(
            f"The text has {len(pieces)} tokens, and the model reads at most {context}.",
            f"Give less of it: the first {fitting} characters fit.",
        )


def layers_read(model: Transformer, layer: int | None) -> int:
    """After how many layers the residual stream is taken: None is all of them, 0 the embedding.

    Raises UsageProblem for more than the model has.
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
    """The rows of `count` that a map shows of a long text: ROWS_AROUND of them, three quarters before the focus."""
    first = max(0, min(focus - ROWS_AROUND * 3 // 4, count - ROWS_AROUND))
    return range(first, min(first + ROWS_AROUND, count))
