"""Writes findings as files for other programs: tables as CSV, arrays as NumPy's .npz."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from attncli.explain.every_weight import EveryWeight
    from attncli.explain.first_screen import Explanation


def sources_csv(finding: Explanation) -> str:
    """Returns a CSV table with a row for each source: its share, its raw weight, and its share in each layer.

    If the text is counted in words, a source is a word. Its row has the first and the last token instead of an id.
    """
    sources, axes = finding.sources, finding.axes
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a token may contain a line end
    named = ["id"] if finding.words is None else ["first_token", "last_token"]
    of = ["of"] if axes.sources else []
    layers = (f"layer_{layer}" for layer in sources.layers)
    table.writerow(["index", finding.unit, *of, *named, "share", "raw", *layers])
    tokens = 0 if finding.words is None or not axes.sources else finding.words.spans[axes.sources].start
    for at, piece in enumerate(finding.pieces[: sources.reach]):
        figures = (sources.shares[at], sources.raw[at], *sources.by_layer[:, at])
        text = [axes.text_of(at)] if axes.sources else []
        span = None if finding.words is None else finding.words.spans[at]
        moved = 0 if at < axes.sources else tokens
        which = (piece.id,) if span is None else (span[0] - moved, span[-1] - moved)
        table.writerow([axes.column_index(at), piece.text, *text, *which, *map(float, figures)])
    return written.getvalue()


def write_weights(finding: EveryWeight, file: BinaryIO) -> None:
    """Writes `weights` (layers, heads, T, S), and the `ids` (S,) and `texts` (S,) of the columns, without pickles.

    For an encoder-decoder, `row_ids` (T,) and `row_texts` (T,) describe the rows. NumPy drops NUL characters at the
    end of a text, so only the ids identify the tokens.
    """
    axes = finding.axes
    named = {"": axes.columns} if axes.part is None else {"": axes.columns, "row_": axes.rows}
    arrays: dict[str, Any] = {"weights": finding.weights}
    for name, pieces in named.items():
        arrays[f"{name}ids"] = np.array([piece.id for piece in pieces], np.int64)
        arrays[f"{name}texts"] = np.array([piece.text for piece in pieces], np.str_)
    np.savez(file, **arrays)
