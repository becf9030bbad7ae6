"""Encodes documents of the page as compressed bytes: a JSON header, followed by quantized arrays.

The bytes are a zlib stream of: the length of the header as a little-endian uint32, the header as UTF-8, zeros up to a
multiple of 8, then the arrays, each at a multiple of 8. In the header, an array is {"array": {"at", "type", "shape",
"scale"}}; its value is the stored integer times the scale. Shares of 0 to 1 are stored as 16 bits, in large documents
as 8 bits, so the greatest rounding error is half of 1/65535 or of 1/255. Rollout always has 16 bits, because the page
divides it by its baseline.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attncli import __version__
from attncli.explain.words import joined
from attncli.model.count import count_parameters
from attncli.render.escape import id_label, token_label
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.compare import Comparison
    from attncli.explain.heads import HeadScores
    from attncli.explain.page.attention import PageAttention, Vectors
    from attncli.explain.page.cuts import CutEffect, CutKind, Cuts
    from attncli.explain.page.document import PageDocument
    from attncli.explain.page.predictions import Predictions

FORMAT = 1
_FINE_CELLS = 400_000  # weights of a document that are stored as 16 bits; with more, as 8 bits
_FINE_NUMBERS = 50_000  # numbers of queries, keys and values that are stored as 16 bits; with more, as 8 bits
_CANDIDATES_OF_EDGES = 3  # candidates that are stored for the cuts of single edges in single heads, which are many
_KINDS_OF_CUTS: tuple[CutKind, ...] = ("edges", "head_edges", "rows", "head_rows", "columns", "heads")
_ALIGNED = 8
_TYPES = {"u1": "u8", "u2": "u16", "i1": "i8", "i2": "i16", "i4": "i32", "f4": "f32", "f8": "f64"}


def payload(documents: Sequence[PageDocument], comparison: Comparison | None = None) -> bytes:
    """Returns the compressed bytes of one document, or of two and their comparison."""
    arrays = _Arrays()
    header = {
        "format": FORMAT,
        "tool": f"attncli {__version__}",
        "documents": [_document(document, arrays) for document in documents],
        "comparison": None if comparison is None else _comparison(comparison, arrays),
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    start = struct.pack("<I", len(text)) + text
    # The numbers repeat nothing but zeros. For them, run lengths and a Huffman code give smaller files than zlib's
    # search for repetitions (5.0 MB instead of 5.5 MB for 256 tokens of 12 x 12 heads), and take 0.2 s instead of 6 s.
    compress = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, zlib.Z_RLE)
    return compress.compress(start + bytes(-len(start) % _ALIGNED) + bytes(arrays.stored)) + compress.flush()


class _Arrays:
    """Appends arrays to the bytes of a payload."""

    def __init__(self) -> None:
        self.stored = bytearray()

    def exact(self, array: NDArray[Any]) -> dict[str, Any]:
        """Stores integers or floating-point numbers as they are."""
        return self._append(array)

    def whole(self, array: NDArray[Any]) -> dict[str, Any]:
        """Stores whole numbers of at least 0 in the smallest type that holds them."""
        most = int(array.max(initial=0))
        return self._append(array.astype(np.uint8 if most < 256 else np.uint16 if most < 65536 else np.int32))

    def shares(self, array: NDArray[Any], *, fine: bool) -> dict[str, Any]:
        """Stores numbers from 0 to 1 as 16 bits if `fine`, otherwise as 8 bits."""
        most = 65535 if fine else 255
        codes = np.rint(np.clip(array, 0, 1) * most).astype(np.uint16 if fine else np.uint8)
        return self._append(codes, scale=1 / most)

    def changes(self, array: NDArray[Any]) -> dict[str, Any]:
        """Stores differences of probabilities, from -1 to 1, as 16 bits."""
        return self._append(np.rint(np.clip(array, -1, 1) * 32767).astype(np.int16), scale=1 / 32767)

    def signed(self, array: NDArray[Any], *, fine: bool) -> dict[str, Any]:
        """Stores vectors (..., D), each with a scale of its own, as 16 bits if `fine`, otherwise as 8 bits."""
        most = 32767 if fine else 127
        scales = np.abs(array).max(-1, keepdims=True) / most
        codes = np.rint(array / np.where(scales > 0, scales, 1)).astype(np.int16 if fine else np.int8)
        reference = self._append(codes)
        reference["array"]["scales"] = self._append(scales[..., 0].astype(np.float32))["array"]
        return reference

    def _append(self, array: NDArray[Any], **more: Any) -> dict[str, Any]:
        self.stored += bytes(-len(self.stored) % _ALIGNED)
        kind = _TYPES[array.dtype.str[1:]]
        reference = {"at": len(self.stored), "type": kind, "shape": list(array.shape), **more}
        self.stored += np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        return {"array": reference}


def _document(document: PageDocument, arrays: _Arrays) -> dict[str, Any]:
    fine = sum(attention.raw.size for attention in document.attentions) <= _FINE_CELLS
    relative = document.config.positions == "relative"
    start = document.start
    return {
        "model": document.model,
        "kind": document.config.kind,
        "parameters": sum(count_parameters(document.config).values()),
        "context": document.config.context,
        "tokens": _tokens(document.pieces),
        "source": None if document.source is None else _tokens(document.source),
        "attentions": [
            _attention(attention, document.kinds.get(attention.part), arrays, fine=fine, relative=relative)
            | {"cuts": _cuts(document.cuts.get(attention.part), attention, arrays)}
            for attention in document.attentions
        ],
        "predictions": document.predictions and _predictions(document.predictions, arrays),
        "vocabulary": {str(id_): id_label(id_, text) for id_, text in document.vocabulary.items()},
        "start": asdict(start),
        "limits": [
            {"code": limit.code, "part": limit.part, "shown": limit.shown, "of": limit.of} for limit in document.limits
        ],
    }


def _comparison(finding: Comparison, arrays: _Arrays) -> dict[str, Any]:
    return {
        "words": [
            {"first": word.first, "at": word.at, "pulls": None if word.pulls is None else arrays.exact(word.pulls)}
            for word in finding.words
        ],
        "cosines": arrays.exact(finding.cosines),
        "others": None if finding.others is None else arrays.exact(finding.others),
        "layer": finding.layer,
        "distance": finding.distance,
        "feed_forward": finding.feed_forward,
        "embedding": finding.embedding,
    }


def _tokens(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    return [{"id": piece.id, "label": token_label(piece), "special": piece.special} for piece in pieces]


def _attention(
    attention: PageAttention, scores: HeadScores | None, arrays: _Arrays, *, fine: bool, relative: bool
) -> dict[str, Any]:
    """Encodes one attention. `relative`: a bias of relative positions is added to the scores of self-attention."""
    biased = relative and attention.part != "cross"
    axes, (layers, heads) = attention.axes, attention.shape
    pooled = attention.thumbnails
    return {
        "part": attention.part,
        "layers": layers,
        "heads": heads,
        "rows": _tokens(axes.rows),
        "columns": _tokens(axes.columns),
        "first": axes.first,
        "row_words": _words(axes.rows, attention.words.rows),
        "column_words": _words(axes.columns, attention.words.columns),
        "reach": axes.reach,
        "windows": attention.windows,
        "square": axes.squared,
        "stored": [attention.rows.start, len(attention.rows)],
        "raw": arrays.shares(attention.raw, fine=fine),
        "norm": arrays.shares(attention.norm, fine=fine),
        "layer_shares": arrays.shares(attention.layer_shares, fine=fine),
        "rollout": None if attention.rollout is None else arrays.shares(attention.rollout, fine=True),
        "even": None if attention.even is None else arrays.shares(attention.even, fine=True),
        "thumbnails": pooled and {"pool": pooled.pool, "weights": arrays.shares(pooled.weights, fine=False)},
        "kinds": None if scores is None else _kinds(scores, arrays),
        "steps": attention.vectors and _vectors(attention.vectors, arrays, biased=biased),
    }


def _words(pieces: Sequence[Piece], spans: Sequence[range]) -> list[tuple[int, int, str]]:
    """Returns the first token, the token after the last, and the label of each word."""
    words = joined(pieces, spans)
    return [(span.start, span.stop, token_label(word)) for span, word in zip(spans, words, strict=True)]


def _predictions(found: Predictions, arrays: _Arrays) -> dict[str, Any]:
    lens = found.lens
    return {
        "what": found.what,
        "rows": [found.rows.start, len(found.rows)],
        "ids": arrays.whole(found.ids),
        "logits": arrays.exact(found.logits),
        "tail": arrays.whole(found.tail),
        "tail_width": found.tail_width,
        "probability_of_kept": arrays.exact(found.probability_of_kept),
        "actual": arrays.exact(found.actual),
        "entropy": arrays.exact(found.entropy),
        "lens": lens
        and {
            "ids": arrays.whole(lens.ids),
            "probabilities": arrays.exact(lens.probabilities),
            "target": arrays.exact(lens.target),
            "rank": arrays.whole(lens.rank),
        },
    }


def _cuts(cuts: Cuts | None, attention: PageAttention, arrays: _Arrays) -> dict[str, Any] | None:
    """Encodes the effects of cuts: the changes of the candidates' probabilities, and the most probable tokens."""
    if cuts is None:
        return None
    reach = np.array(attention.axes.reach)
    return {
        "measured": [cuts.measured.start, len(cuts.measured)],
        "candidates": arrays.whole(cuts.candidates),
        "before": arrays.exact(cuts.before),
        **{kind: _effect(kind, getattr(cuts, kind), cuts, reach, arrays) for kind in _KINDS_OF_CUTS},
    }


def _effect(
    kind: CutKind, effect: CutEffect | None, cuts: Cuts, reach: NDArray[Any], arrays: _Arrays
) -> dict[str, Any] | None:
    """Encodes the effects of one kind of cut. What is masked is stored as zeros, which need little space."""
    if effect is None:
        return None
    at = np.array(effect.rows) - cuts.measured.start
    of_a_source = kind in ("edges", "head_edges", "columns")
    before = cuts.before[at]  # (r, K)
    change = effect.kept - (before[:, None] if of_a_source else before)
    ids, probabilities = effect.ids, effect.probabilities
    if of_a_source:
        seen = (np.arange(change.shape[-2]) < reach[list(effect.rows)][:, None])[..., None]  # (r, S, 1)
        change, ids, probabilities = change * seen, ids * seen, probabilities * seen
    many = kind == "head_edges"
    return {
        "rows": list(effect.rows),
        "change": arrays.changes(change[..., :_CANDIDATES_OF_EDGES] if many else change),
        "ids": None if many else arrays.whole(ids),
        "probabilities": None if many else arrays.shares(probabilities, fine=True),
    }


def _kinds(scores: HeadScores, arrays: _Arrays) -> dict[str, Any]:
    return {
        "names": scores.kinds,
        "scores": arrays.exact(scores.scores),
        "chances": arrays.exact(scores.chances),
        "sequences": scores.sequences,
        "length": scores.length,
    }


def _vectors(vectors: Vectors, arrays: _Arrays, *, biased: bool) -> dict[str, Any]:
    fine = vectors.query.size + vectors.key.size + vectors.value.size <= _FINE_NUMBERS
    return {
        "heads": vectors.heads,
        "rows": [vectors.rows.start, len(vectors.rows)],
        "query": arrays.signed(vectors.query, fine=fine),
        "key": arrays.signed(vectors.key, fine=fine),
        "value": arrays.signed(vectors.value, fine=fine),
        "scores": arrays.signed(vectors.scores, fine=True),
        "written": arrays.exact(vectors.written),
        "divided": vectors.divided,
        "biased": biased,
        "width": vectors.query.shape[-1],
    }
