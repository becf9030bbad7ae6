"""Where does information come from when attention is followed through all layers? (Abnar and Zuidema, 2020.)

A_l = (mean over heads of the weights + I) / 2, and R = A_L ... A_1. A causal mask alone drives this to the first token,
so it is measured beside the same product for attention spread evenly over what each query may see.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.explain.findings import Rollout
from attncli.explain.first_screen import Focus, ids_of, question
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece


@torch.inference_mode()
def rollout(model: Transformer, pieces: Sequence[Piece], focus: Focus) -> Rollout:
    """The rollout of the token in focus. Raises BadInput and UsageProblem as `explain` does."""
    asked = question(model, pieces, focus)
    watch = _Product()
    model.hidden(ids_of(model, pieces)[:, : asked.focus + 1], observe=watch)
    assert watch.product is not None
    assert watch.even is not None
    later = (0, len(pieces) - asked.focus - 1)  # nothing comes from there
    shares, even = (F.pad(product[-1], later).cpu().numpy() for product in (watch.product, watch.even))
    return Rollout(asked, shares, even)


def rolled(product: Tensor | None, weights: Tensor) -> Tensor:
    """One layer more: the product (T, T) so far, None before the first, and weights averaged over heads (T, T)."""
    step = (weights.double() + torch.eye(len(weights), dtype=torch.float64, device=weights.device)) / 2
    return step if product is None else step @ product


class _Product(Observer):
    product: Tensor | None = None
    even: Tensor | None = None

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        weights = steps.weights[0].mean(0)
        allowed = causal_mask(len(weights), len(weights), module.window, weights.device).double()
        self.product = rolled(self.product, weights)
        self.even = rolled(self.even, allowed / allowed.sum(-1, keepdim=True))
