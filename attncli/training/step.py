"""One step of training: forward, backward, clip, update. The run takes it, and the measurement before a run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.errors import Diverged
from attncli.model.transformer import Transformer
from attncli.training.optimizer import LARGEST_GRADIENT, set_lr

_STREAM = 1_000_003  # keeps the random streams of neighbouring seeds apart


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random in a step: a pure function, so that resuming needs no replay."""
    return (seed * _STREAM + step) % 2**63


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    *,
    step: int,
    seed: int,
    lr: float,
    dtype: torch.dtype,
) -> float:
    """Takes one step on rows (B, T + 1) of ids; returns the loss before it, in nats per token.

    Dropout draws from PyTorch's default generator, which is set to a function of seed and step first.

    Raises Diverged, before anything is updated, when the loss or the gradient is not finite.
    """
    if model.dropout.p > 0:
        torch.manual_seed(step_seed(seed, step))
    with torch.autocast(rows.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(rows[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    if not (torch.isfinite(loss) & torch.isfinite(norm)):
        optimizer.zero_grad()
        raise Diverged(
            f"Training diverged at step {step + 1}: loss {loss.item():.4g}, gradient norm {norm.item():.4g}.",
            "Nothing saved was overwritten. Try a smaller --lr.",
        )
    set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
