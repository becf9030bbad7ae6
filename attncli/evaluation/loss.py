"""The loss of tokens: the negative log-likelihood of each, in nats, with few logits in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.checkpoint.load import LoadedModel
from attncli.errors import BadCheckpoint
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer

UNSCORED = -100  # the target of a token that is not scored
LOGITS_AT_ONCE = 1 << 24


def losses(
    model: Transformer, hidden: Tensor, targets: Tensor, reduction: Literal["sum", "none"] = "sum"
) -> Iterator[Tensor]:
    """Yields the losses of targets (N,), given the input of the output head (N, C), for some targets at a time.

    With the reduction `sum`, yields the sum () of the losses of some targets; with `none`, each of their losses.
    """
    for logits, right in logits_of(model, hidden, targets):
        yield F.cross_entropy(logits, right, ignore_index=UNSCORED, reduction=reduction)


def logits_of(model: Transformer, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the logits (n, V) and the targets (n,) of some targets at a time, given all targets (N,).

    `hidden` (N, C) is the input of the output head.
    """
    at_once = max(LOGITS_AT_ONCE // model.config.vocab_size, 1)
    for some, right in zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True):
        yield model.unembed(some).float(), right


def refuse_not_finite(loaded: LoadedModel, score: Score) -> None:
    """Raises BadCheckpoint if a model gives probabilities that are not finite."""
    if not math.isfinite(score.nats):
        message = f"{loaded.path} gives probabilities that are not numbers."
        raise BadCheckpoint.naming(lambda name: (message, f"Try {name('dtype')} float32."))
