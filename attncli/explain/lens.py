"""What would the model predict if it stopped after this layer? The logit lens, one row per layer.

The final norm, its statistics computed anew for each layer, and the head are applied to the residual stream as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncli.explain.findings import Lens, LensRow
from attncli.explain.first_screen import Focus, ids_of, most_probable, question
from attncli.explain.reading import read, rows_to_watch
from attncli.model.attention import Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@torch.inference_mode()
def lens(model: Transformer, tokenizer: Tokenizer, pieces: Sequence[Piece], focus: Focus, *, top: int = 10) -> Lens:
    """The prediction after the token in focus as it forms. Raises BadInput and UsageProblem as `explain` does."""
    asked = question(model, pieces, focus)
    seen = rows_to_watch(range(asked.focus, asked.focus + 1), len(pieces))
    watch = _Streams(asked.focus - seen.start)
    read(model, ids_of(model, pieces), seen, watch)
    logits = model.unembed(model.norm(torch.stack(watch.streams)))  # (L + 1, V)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = most_probable(wide[-1], tokenizer, 1)[0]
    probabilities = wide.softmax(-1)[:, target.id].tolist()
    ranks = (wide > wide[:, target.id, None]).sum(-1) + 1
    rows = (
        LensRow(at, most_probable(wide[at], tokenizer, top), probabilities[at], int(ranks[at]))
        for at in range(len(wide))
    )
    return Lens(asked, target, tuple(rows))


class _Streams(Observer):
    """Keeps the residual stream (C,) of one row before each layer and after the last."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.streams: list[Tensor] = []

    def residual(self, layer: int, stream: Tensor) -> None:
        self.streams.append(stream[0, self.row])
