"""Computes the contribution of each source to an attention output, as a norm or as a projection on a direction.

Head h adds the sum over j of a_hj f_h(x_j) to the residual stream. Here a_hj is the attention weight of source j, and
f_h(x_j) is the value vector of source j times the D columns of the output matrix that belong to head h. The vectors
a_hj f_h(x_j) of all heads and sources are never in memory, only their norms or projections.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from attncli.model.attention import Attention, AttentionSteps, norm_gain
from attncli.model.transformer import Transformer


def contribution_norms(
    steps: AttentionSteps, module: Attention, query: int, matrix: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the norms of the vectors that each source adds to one query's attention output, for a batch of one.

    `matrix` (C, H x D) replaces the output matrix, such as a matrix that `matrix_after_norm` returns.

    Returns:
        per head (H, S): |a_hj f_h(x_j)|; over all heads (S,): |sum over h of a_hj f_h(x_j)|, the norm of the sum.
    """
    weights = steps.weights[0, :, query].float()  # (H, S)
    value = by_head(steps.value[0], module.heads).float()  # (H, S, D)
    matrix = module.output.weight.float() if matrix is None else matrix.float()  # (C, H x D)
    scaled = weights[..., None] * value  # (H, S, D)
    together = (scaled.transpose(0, 1).flatten(1) @ matrix.T).norm(dim=-1)
    columns = matrix.view(len(matrix), module.heads, -1).permute(1, 0, 2)  # (H, C, D)
    # |W v| without forming W v: sqrt(v' W'W v), where W'W is only (D, D).
    squared = ((scaled @ (columns.transpose(1, 2) @ columns)) * scaled).sum(-1)
    return squared.clamp_min(0).sqrt(), together


def matrix_after_norm(norm: nn.Module, stream: Tensor, matrix: Tensor) -> Tensor:
    """Returns the output matrix (C, H x D) of a post-norm attention, multiplied by the norm that follows it.

    `stream` (C,) is the input of the norm, to which the attention has added its output. Its mean and scale are held
    fixed, so the norm is linear.
    """
    layered = isinstance(norm, nn.LayerNorm)
    centered = matrix - matrix.mean(0, keepdim=True) if layered else matrix
    square = stream.var(unbiased=False) if layered else stream.square().mean()
    return norm_gain(norm)[:, None] * centered / (square + cast(nn.LayerNorm, norm).eps).sqrt()


def normalized(norms: Tensor) -> Tensor:
    """Divides the norms (S,) by their sum. Returns zeros if all norms are zero."""
    return norms / norms.sum().clamp_min(1e-30)


def direct_effects(steps: AttentionSteps, module: Attention, direction: Tensor) -> Tensor:
    """Returns the effect (S,) of each source: what it adds to the last query along a direction (C,), over all heads."""
    reads = through_output(direction, module.output.weight, module.heads)  # (H, D)
    value = by_head(steps.value[0], module.heads)
    return (steps.weights[0, :, -1] * (value * reads[:, None]).sum(-1)).sum(0)


def by_head(shared: Tensor, heads: int) -> Tensor:
    """Repeats keys or values for the query heads that share them: (K, S, D) -> (H, S, D)."""
    return shared.repeat_interleave(heads // len(shared), 0)


def through_output(direction: Tensor, matrix: Tensor, heads: int) -> Tensor:
    """Multiplies a direction u (C,) by an output matrix (C, H x D). Returns rows (H, D), one for each head.

    The dot product of row h and a value v is u.(W_h v).
    """
    return (direction @ matrix).view(heads, -1)


def output_rows(model: Transformer) -> Tensor:
    """Returns the rows of the output head (V, C). A token's logit is its row times the normalized residual stream."""
    return model.embedding.weight if model.head is None else model.head.weight


def through_norm(norm: nn.Module, toward: Tensor) -> Tensor:
    """Returns the direction (C,) in a norm's input that corresponds to the direction `toward` (C,) in its output.

    The dot product of the result and the residual stream, divided by the norm's scale, is the norm's output along
    `toward` without the norm's bias. LayerNorm subtracts the mean of the stream. This function subtracts the mean of
    the direction instead, which is equivalent (Elhage et al., 2021).
    """
    direction = norm_gain(norm).to(toward.dtype) * toward
    return direction - direction.mean() if isinstance(norm, nn.LayerNorm) else direction
