"""Computes the logit lens: what the model would predict if it stopped after each layer.

The final norm and the output head are applied to the residual stream after each layer. The norm computes its statistics
from the stream of that layer. Logits of ids that the tokenizer does not have are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.explain.next_token import NextToken, most_probable
from attncli.explain.question import Focus, Subject, subject_of
from attncli.explain.reading import Reading
from attncli.model.attention import Observer
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LensRow:
    """The prediction from the residual stream after `layers_read` layers; 0 layers means the embedding."""

    layers_read: int
    top: tuple[NextToken, ...]
    probability: float  # of the token that the whole model predicts
    rank: int  # of the token that the whole model predicts; 1 is the most probable


@dataclass(frozen=True)
class Lens:
    """The prediction after each layer. The last row is the model's own distribution."""

    subject: Subject
    target: NextToken  # the token that the whole model predicts
    rows: tuple[LensRow, ...]


@torch.inference_mode()
def lens(reading: Reading, tokenizer: Tokenizer, focus: Focus, *, top: int = 10) -> Lens:
    """Returns the prediction in the row in focus, layer by layer.

    Raises BadInput and UsageProblem as `subject_of` does, and UsageProblem for a model that predicts no words.
    """
    reading.require_prediction()
    subject, model = subject_of(reading, focus), reading.model
    rows = reading.rows_to_watch(range(subject.focus, subject.focus + 1))
    watch = _Streams(subject.focus - rows.start)
    reading.run(rows, watch)
    logits = model.unembed(model.norm(torch.stack(watch.streams)))[:, : tokenizer.vocab_size]  # (L + 1, V)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = most_probable(wide[-1], tokenizer, 1)[0]
    probabilities = wide.softmax(-1)[:, target.id].tolist()
    ranks = (wide > wide[:, target.id, None]).sum(-1) + 1
    layers = (
        LensRow(at, most_probable(wide[at], tokenizer, top), probabilities[at], int(ranks[at]))
        for at in range(len(wide))
    )
    return Lens(subject, target, tuple(layers))


class _Streams(Observer):
    """Records the residual stream (C,) of one row before each layer and after the last."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.streams: list[Tensor] = []

    def residual(self, layer: int, stream: Tensor) -> None:
        self.streams.append(stream[0, self.row])
