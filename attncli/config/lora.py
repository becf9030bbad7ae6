"""LoraConfig: the adapters of a fine-tuning run (LoRA): their rank, their scale, and the matrices that they change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import require, require_between, require_whole

LoraTargets = Literal["attention", "all"]
LORA_TARGETS: tuple[LoraTargets, ...] = ("attention", "all")
LARGEST_RANK = 1 << 16
ALPHAS = (-1e6, 1e6)  # the range of alpha


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al., 2021): a frozen matrix W is used as W + scale x B A, and only A and B are trained.

    For W (out, in), A is (rank, in) and B is (out, rank).
    """

    rank: int
    alpha: float
    targets: LoraTargets  # attention: query, key, value and output; all: also the feed-forward part
    rslora: bool = False  # the scale is alpha / sqrt(rank) (Kalajdzievski, 2023) instead of alpha / rank

    def __post_init__(self) -> None:
        require_whole("rank", self.rank, 1, LARGEST_RANK)
        require_between("alpha", self.alpha, ALPHAS)
        require(self.targets in LORA_TARGETS, "targets", self.targets, " or ".join(LORA_TARGETS))

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return lora_scale(self.alpha, self.rank, rslora=self.rslora)


def lora_scale(alpha: float, rank: int, *, rslora: bool) -> float:
    """Returns the factor of B A: alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)
