"""Chooses the learning rates, weight decay, dropout and label smoothing of a run from its tokens and its epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attncli.config import OptimizerKind, TrainConfig
from attncli.errors import UsageProblem
from attncli.training import recipe
from attncli.training.decision import Decision
from attncli.training.recipe import Tuning


@dataclass(frozen=True)
class Rates:
    """The learning rates, weight decay, dropout and label smoothing of a run."""

    lr: Decision[float]  # the peak rate of the matrices that Muon updates; with AdamW alone, of every parameter
    adam_lr: float  # the peak rate of the parameters that AdamW updates
    dropout: Decision[float]
    weight_decay: Decision[float]
    label_smoothing: float


def choose_rates(
    config: TrainConfig, optimizer: OptimizerKind, tokens: int, epochs: float, tuning: Tuning, *, fine_tuning: bool
) -> Rates:
    """Chooses the rates of a run that trains on `tokens` tokens, which are `epochs` passes over its text.

    Raises UsageProblem if `adam_lr` is given although AdamW updates every parameter.
    """
    lr, adam_lr = choose_learning_rates(config, optimizer, tokens, tuning, fine_tuning=fine_tuning)
    dropout, decay = choose_dropout(config, epochs, tuning), choose_weight_decay(config, epochs)
    smoothing = tuning.label_smoothing if config.label_smoothing is None else config.label_smoothing
    return Rates(lr, adam_lr, dropout, decay, smoothing)


def choose_learning_rates(
    config: TrainConfig, optimizer: OptimizerKind, tokens: int, tuning: Tuning, *, fine_tuning: bool
) -> tuple[Decision[float], float]:
    """Returns the peak learning rates `lr` and `adam_lr` of `Rates`.

    With Muon, a run on few tokens has larger rates. Fine-tuning has a tenth of the usual rates;
    adapters have a rate of their own.
    """
    reason = None
    if config.lr is None:
        reason = "for fine-tuning" if fine_tuning else f"for {tokens:,} tokens"
    if optimizer == "adamw":
        if config.adam_lr is not None:
            raise UsageProblem.naming(
                lambda named: (
                    f"{named('adam_lr')} needs Muon, and this run uses AdamW for every parameter.",
                    f"Give {named('lr')} instead.",
                )
            )
        usual = recipe.FINE_TUNING_ADAMW_LR if fine_tuning else tuning.adamw_lr
        if config.lora is not None:
            usual, reason = recipe.LORA_LR, reason and "for adapters"
        lr = config.lr or usual
        return Decision(lr, reason), lr
    if fine_tuning:
        lr, adam_lr = recipe.FINE_TUNING_MUON_LR, recipe.FINE_TUNING_ADAMW_LR
    else:
        factor = min(max(math.sqrt(recipe.TUNED_TOKENS / tokens), 1.0), tuning.largest_adamw_factor)
        lr = tuning.muon_lr * min(factor, tuning.largest_muon_factor)
        adam_lr = tuning.adamw_lr * factor
    return Decision(config.lr or lr, reason), config.adam_lr or adam_lr


def choose_dropout(config: TrainConfig, epochs: float, tuning: Tuning) -> Decision[float]:
    """Chooses the dropout rate, which grows with the number of epochs."""
    if config.dropout is not None:
        return Decision(config.dropout)
    dropout = next(dropout for limit, dropout in tuning.dropouts if epochs < limit)
    return Decision(dropout, f"for {epochs:.1f} epochs")


def choose_weight_decay(config: TrainConfig, epochs: float) -> Decision[float]:
    """Chooses the weight decay, which grows with the number of epochs."""
    if config.weight_decay is not None:
        return Decision(config.weight_decay)
    growth = math.pow(max(epochs / recipe.WEIGHT_DECAY_EPOCHS, 1.0), recipe.WEIGHT_DECAY_POWER)
    decay = min(recipe.WEIGHT_DECAY * growth, recipe.LARGEST_WEIGHT_DECAY)
    return Decision(decay, f"for {epochs:.1f} epochs" if epochs > recipe.WEIGHT_DECAY_EPOCHS else None)
