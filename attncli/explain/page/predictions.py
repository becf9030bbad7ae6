"""Computes what every row predicts: the largest logits, a histogram of the others, surprise, and the logit lens.

All of it follows from the residual streams of one forward pass, which the observer `Streams` records. A row stores its
K largest logits, and counts the other logits in bins. From both, a page recomputes the distribution at any temperature:
a token in a bin counts as exp((m - b w - w/2) / temperature), for the largest logit m, the bin b and its width w.
So the sum over the tail is wrong by a factor of at most exp(w / 2 / temperature).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.question import Floats
from attncli.explain.reading import Reading
from attncli.model.attention import Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import MASK, Piece, Tokenizer

KEPT = 100  # the largest logits of a row that are stored
LENS = 5  # the most probable tokens that are stored after each layer
_FINE_ROWS = 64  # the most rows whose bins have the smaller width
_FINE, _COARSE = 1 / 16, 1 / 4  # widths of a bin
_WIDEST = 128.0  # the last bin starts at most here: at temperature 2, such a token counts less than exp(-64)
_MOST_ELEMENTS = 1 << 23  # the most logits that are computed at once, over all rows and layers

Floats32 = NDArray[np.float32]
Ints32 = NDArray[np.int32]


@dataclass(frozen=True)
class LensRows:
    """The logit lens of R rows: what each row would predict after 0 to L layers; 0 layers means the embedding."""

    ids: Ints32  # (R, L + 1, n), the most probable first
    probabilities: Floats32  # (R, L + 1, n)
    target: Floats32  # (R, L + 1): the probability of the token that the whole model predicts
    rank: Ints32  # (R, L + 1): its rank; 1 is the most probable


@dataclass(frozen=True)
class Predictions:
    """The predictions of R rows. Probabilities are at temperature 1."""

    what: Literal["next", "itself"]  # a row predicts the token after it, or the token that it is named by
    rows: range
    ids: Ints32  # (R, K): the tokens with the largest logits, the largest first
    logits: Floats32  # (R, K): their logits minus the row's largest logit, so at most 0
    tail: Ints32  # (R, B): the number of other tokens whose offset from the largest logit is in (-(b + 1) w, -b w]
    tail_width: float  # w; the last bin also counts all smaller logits
    probability_of_kept: Floats  # (R,): of the K tokens together
    actual: Floats32  # (R,): log-probability in nats of the token that stands in the text; NaN if there is none
    entropy: Floats32  # (R,): in nats
    lens: LensRows | None  # None if it was left out


class Streams(Observer):
    """Records the residual streams of some rows, before each layer and after the last."""

    def __init__(self, reading: Reading, rows: range, observed: range | None = None) -> None:
        """`observed` are the rows of the forward pass, as `Reading.run` takes them; None: `rows`."""
        start = rows.start - (rows if observed is None else observed).start if reading.causal else rows.start
        self._rows = slice(start, start + len(rows))
        self._streams: list[Tensor] = []

    def residual(self, layer: int, stream: Tensor) -> None:
        """Records the streams of the rows before one layer."""
        self._streams.append(stream[0, self._rows])

    @property
    def stacked(self) -> Tensor:
        """The streams (L + 1, R, C)."""
        return torch.stack(self._streams)


def predictions(
    reading: Reading, tokenizer: Tokenizer, rows: range, *, kept: int = KEPT, lens: int = LENS
) -> Predictions | None:
    """Runs a forward pass, and returns what the rows predict; None if the rows of the reading predict nothing."""
    if not reading.predicts:
        return None
    watch = Streams(reading, rows)
    reading.run(rows, watch)
    return predictions_of(reading, tokenizer, rows, watch.stacked, kept=kept, lens=lens)


@torch.inference_mode()
def predictions_of(
    reading: Reading, tokenizer: Tokenizer, rows: range, streams: Tensor, *, kept: int = KEPT, lens: int = LENS
) -> Predictions | None:
    """Returns what the rows predict, given their residual streams (L + 1, R, C); None if they predict nothing.

    `kept` is the number of logits that a row stores, and `lens` the number of tokens after each layer; 0 leaves out
    the lens, which takes most of the time.
    """
    if not reading.predicts:
        return None
    actual, width = _actual(reading, rows), _FINE if len(rows) <= _FINE_ROWS else _COARSE
    finals: list[dict[str, Tensor]] = []
    layers: list[dict[str, Tensor]] = []
    for chunk, logits in _logits(reading.model, streams if lens else streams[-1:], tokenizer.vocab_size):
        totals = logits.logsumexp(-1)  # (L + 1, r)
        finals.append(_final(logits[-1], totals[-1], actual[chunk].to(logits.device), kept, width))
        if lens:
            layers.append(_lens(logits, totals, lens))
    bins = max(final["tail"].shape[1] for final in finals)
    for final in finals:
        final["tail"] = F.pad(final["tail"], (0, bins - final["tail"].shape[1]))
    what: Literal["next", "itself"] = "next" if reading.axes.predicts_next else "itself"
    rows_of_lens = LensRows(**_joined(layers)) if lens else None
    return Predictions(what=what, rows=rows, tail_width=width, lens=rows_of_lens, **_joined(finals))


def _joined(chunks: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Concatenates each field of the chunks of rows -> arrays (R, ...)."""
    return {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in chunks[0]}


def _logits(model: Transformer, streams: Tensor, known: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields the logits (L + 1, r, V) of a few rows after each layer, without ids that the tokenizer does not have."""
    states, rows = streams.shape[:2]
    at_once = max(1, _MOST_ELEMENTS // (states * known))
    for start in range(0, rows, at_once):
        chunk = slice(start, start + at_once)
        logits = model.unembed(model.norm(streams[:, chunk]))[..., :known]
        yield chunk, logits.to(torch.promote_types(logits.dtype, torch.float32))


def _final(logits: Tensor, totals: Tensor, actual: Tensor, kept: int, width: float) -> dict[str, Tensor]:
    """Returns the fields of `Predictions` that depend on the row, given the model's own logits (r, V).

    `totals` (r,) are the logarithms of the sums of exponentials; `actual` (r,) are ids, or -1.
    """
    values, ids = largest(logits, kept)
    offsets = logits - values[:, :1]
    bins = (offsets / -width).nan_to_num(0).clamp_max(_WIDEST / width).long()
    counts = torch.zeros(len(logits), int(bins.amax()) + 1, dtype=torch.int32, device=logits.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
    counts.scatter_add_(1, bins.gather(1, ids), torch.full_like(ids, -1, dtype=torch.int32))
    logs = logits - totals[:, None]
    entropy = -(logs.exp() * logs).nan_to_num(0).sum(-1)  # a logit of -inf adds nothing
    named = logs.gather(1, actual.clamp_min(0)[:, None])[:, 0].masked_fill(actual < 0, torch.nan)
    return {
        "ids": ids.int(),
        "logits": (values - values[:, :1]).float(),
        "tail": counts,
        "probability_of_kept": logs.gather(1, ids).cpu().double().exp().sum(-1),
        "actual": named.float(),
        "entropy": entropy.float(),
    }


def _lens(logits: Tensor, totals: Tensor, count: int) -> dict[str, Tensor]:
    """Returns the fields of `LensRows`, given the logits (L + 1, r, V) and the logarithms of their sums (L + 1, r)."""
    values, ids = largest(logits, count)
    target = logits.gather(-1, logits[-1].argmax(-1)[None, :, None].expand(len(logits), -1, 1))  # (L + 1, r, 1)
    rank = (logits > target).sum(-1) + 1
    probabilities = (values - totals[..., None]).exp().float()
    of_target = (target[..., 0] - totals).exp().float()
    fields = {"ids": ids.int(), "probabilities": probabilities, "target": of_target, "rank": rank.int()}
    return {name: field.transpose(0, 1) for name, field in fields.items()}


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest logits of (..., V), and their ids: the largest first, and of equal ones the first."""
    values, ids = logits.topk(min(count, logits.shape[-1]))
    ids, order = ids.sort(-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def _actual(reading: Reading, rows: range) -> Tensor:
    """Returns the id (R,) of the token in the text that each row predicts; -1 if there is none.

    There is none after the last token, and at a masked word of an encoder.
    """
    named = reading.axes.rows
    predicted: list[Piece | None] = [*named]
    if reading.axes.predicts_next:
        predicted = [*named[1:], None]
    elif reading.translation is None:
        predicted = [None if piece.text.strip() == MASK else piece for piece in named]
    return torch.tensor([-1 if piece is None else piece.id for piece in predicted])[rows.start : rows.stop]
