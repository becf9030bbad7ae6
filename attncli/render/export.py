"""Writes findings as files for other programs: tables as CSV, arrays as NumPy's .npz."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from attncli.explain.every_weight import EveryWeight
    from attncli.explain.first_screen import Explanation


def sources_csv(finding: Explanation) -> str:
    """Returns a CSV table with a row for each source: its share, its raw weight, and its share in each layer.

    If the text is counted in words, a source is a word. Its row has the first and the last token instead of an id.
    """
    sources = finding.sources
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a token may contain a line end
    named = ["id"] if finding.words is None else ["first_token", "last_token"]
    layers = (f"layer_{layer}" for layer in sources.layers)
    table.writerow(["index", finding.unit, *named, "share", "raw", *layers])
    for at, piece in enumerate(finding.pieces[: sources.focus + 1]):
        figures = (sources.shares[at], sources.raw[at], *sources.by_layer[:, at])
        span = None if finding.words is None else finding.words.spans[at]
        which = (piece.id,) if span is None else (span[0], span[-1])
        table.writerow([at, piece.text, *which, *map(float, figures)])
    return written.getvalue()


def write_weights(finding: EveryWeight, file: BinaryIO) -> None:
    """Writes `weights` (layers, heads, T, T), `ids` (T,) and `texts` (T,), without pickles.

    NumPy drops NUL characters at the end of a text, so only the ids identify the tokens.
    """
    np.savez(
        file,
        weights=finding.weights,
        ids=np.array([piece.id for piece in finding.pieces], np.int64),
        texts=np.array([piece.text for piece in finding.pieces], np.str_),
    )
