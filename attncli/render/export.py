"""Findings as files for other programs: tables as CSV, arrays as NumPy's .npz."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from attncli.explain.every_weight import EveryWeight
    from attncli.explain.first_screen import Explanation


def sources_csv(found: Explanation) -> str:
    """A row for each token that the one in focus can see: its share, its raw weight, then its share layer by layer.

    In words, a row for each word, with its first and its last token in place of an id.
    """
    sources = found.sources
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a token may be a line's end
    named = ["id"] if found.words is None else ["first_token", "last_token"]
    layers = (f"layer_{layer}" for layer in sources.layers)
    table.writerow(["index", found.unit, *named, "share", "raw", *layers])
    for at, piece in enumerate(found.pieces[: sources.focus + 1]):
        figures = (sources.shares[at], sources.raw[at], *sources.by_layer[:, at])
        span = None if found.words is None else found.words.spans[at]
        which = (piece.id,) if span is None else (span[0], span[-1])
        table.writerow([at, piece.text, *which, *map(float, figures)])
    return written.getvalue()


def write_weights(found: EveryWeight, file: BinaryIO) -> None:
    """Writes `weights` (layers, heads, T, T), `ids` (T,) and `texts` (T,), without pickles.

    NumPy drops NUL characters at the end of a text; the id is the token.
    """
    np.savez(
        file,
        weights=found.weights,
        ids=np.array([piece.id for piece in found.pieces], np.int64),
        texts=np.array([piece.text for piece in found.pieces], np.str_),
    )
