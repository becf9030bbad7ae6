"""Adaptation: a frozen model and the adapters that a run trains on it; makes the network of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attncli.checkpoint.adapter import adapted
from attncli.checkpoint.families.registry import family_of
from attncli.checkpoint.weights import our_shapes
from attncli.config import ModelConfig
from attncli.config.lora import LoraConfig
from attncli.model.lora import add_adapters
from attncli.model.transformer import Transformer


@dataclass(frozen=True)
class Adaptation:
    """The adapters of a run, and the model that they change."""

    lora: LoraConfig
    base: Path  # the directory of the model, which is only read
    digest: str  # the sha256 of the model's weights on the disk
    weights: Mapping[str, Tensor]  # the model's weights in main memory, in float32

    def network(self, config: ModelConfig, dropout: float, seed: int) -> Transformer:
        """Returns the network with new adapters, which are drawn from the seed. It shares the frozen weights."""
        with torch.device("meta"):
            model = Transformer(config, dropout)
        model.load_state_dict(self.weights, assign=True)
        groups = adapted(config, family_of(config).tensor_names, self.lora.targets).values()
        add_adapters(model, groups, self.lora.rank, self.lora.scale, torch.Generator().manual_seed(seed))
        return model

    def count(self, config: ModelConfig) -> int:
        """Returns the number of parameters of the adapters."""
        shapes, numbers = our_shapes(config), 0
        for layers in adapted(config, family_of(config).tensor_names, self.lora.targets).values():
            sizes = [shapes[f"{layer}.weight"] for layer in layers]
            numbers += sizes[0][1] + sum(rows for rows, _ in sizes)
        return numbers * self.lora.rank
