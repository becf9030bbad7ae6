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
_LOGITS_AT_ONCE = 1 << 24


def losses(
    model: Transformer, hidden: Tensor, targets: Tensor, reduction: Literal["sum", "none"] = "sum"
) -> Iterator[Tensor]:
    """Yields the losses of targets (N,), given the input of the output head (N, C), for some targets at a time.

    With the reduction `sum`, yields the sum () of the losses of some targets; with `none`, each of their losses.
    """
    at_once = max(_LOGITS_AT_ONCE // model.config.vocab_size, 1)
    for some, right in zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True):
        yield F.cross_entropy(model.unembed(some).float(), right, ignore_index=UNSCORED, reduction=reduction)


def refuse_not_finite(loaded: LoadedModel, score: Score) -> None:
    """Raises BadCheckpoint if a model gives probabilities that are not finite."""
    if not math.isfinite(score.nats):
        message = f"{loaded.path} gives probabilities that are not numbers."
        raise BadCheckpoint.naming(lambda name: (message, f"Try {name('dtype')} float32."))
