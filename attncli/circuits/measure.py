"""The measure of a run: after the last token, the difference of two logits or the log-probability of a token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.circuits.defaults import MeasureKind


@dataclass(frozen=True)
class Answer:
    """The token that a clean run should predict, and the token that its corrupt run predicts instead."""

    target: int
    against: int
    kind: MeasureKind = "logit-difference"

    def of(self, logits: Tensor) -> Tensor:
        """Returns the measure (N,) of logits (N, V), in nats."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.kind == "log-probability":
            return wide.log_softmax(-1)[:, self.target]
        return wide[:, self.target] - wide[:, self.against]
