"""What each source contributes to an attention output: its value vector through a head's part of the output matrix.

Head h adds sum over j of a_hj f_h(x_j) to the residual stream, with a_hj the attention weight of source j and f_h(x_j)
its value through the D columns of the output matrix that belong to h. The functions here never form these vectors of
width C for every source: they take lengths or projections of them.
"""

from __future__ import annotations

from torch import Tensor, nn

from attncli.model.attention import Attention, AttentionSteps, norm_gain
from attncli.model.transformer import Transformer


def contribution_norms(steps: AttentionSteps, module: Attention, query: int) -> tuple[Tensor, Tensor]:
    """Lengths of what every source adds to one query's attention output, for a batch of one.

    Returns:
        per head (H, S): |a_hj f_h(x_j)|, and together (S,): |sum over h of a_hj f_h(x_j)|, the vectors summed first.
    """
    weights = steps.weights[0, :, query].float()  # (H, S)
    value = by_head(steps.value[0], module.heads).float()  # (H, S, D)
    matrix = module.output.weight.float()  # (C, H x D)
    scaled = weights[..., None] * value  # (H, S, D)
    together = (scaled.transpose(0, 1).flatten(1) @ matrix.T).norm(dim=-1)
    columns = matrix.view(len(matrix), module.heads, -1).permute(1, 0, 2)  # (H, C, D)
    # |W v| without the vectors themselves: sqrt(v' W'W v), where W'W is only (D, D).
    squared = ((scaled @ (columns.transpose(1, 2) @ columns)) * scaled).sum(-1)
    return squared.clamp_min(0).sqrt(), together


def normalized(norms: Tensor) -> Tensor:
    """Norms (S,) over their sum: shares. All zeros where nothing is contributed."""
    return norms / norms.sum().clamp_min(1e-30)


def direct_effects(steps: AttentionSteps, module: Attention, direction: Tensor) -> Tensor:
    """What each source of the last query adds to the residual stream along a direction (C,), over all heads: (S,)."""
    reads = through_output(direction, module.output.weight, module.heads)  # (H, D)
    value = by_head(steps.value[0], module.heads)
    return (steps.weights[0, :, -1] * (value * reads[:, None]).sum(-1)).sum(0)


def by_head(shared: Tensor, heads: int) -> Tensor:
    """Keys or values (K, S, D) -> (H, S, D): each repeated for the query heads that share it."""
    return shared.repeat_interleave(heads // len(shared), 0)


def through_output(direction: Tensor, matrix: Tensor, heads: int) -> Tensor:
    """A direction (C,) through an output matrix (C, H x D), backwards: (H, D), whose product with v is u.(W_h v)."""
    return (direction @ matrix).view(heads, -1)


def output_rows(model: Transformer) -> Tensor:
    """The row of every token in the output head (V, C): a logit is this row times the normalized stream."""
    return model.embedding.weight if model.head is None else model.head.weight


def through_norm(norm: nn.Module, toward: Tensor) -> Tensor:
    """A direction (C,) through the gain of a norm, backwards: what the stream over its scale is multiplied with.

    LayerNorm takes the mean off the stream; taking it off the direction is the same (Elhage et al., 2021).
    """
    direction = norm_gain(norm).to(toward.dtype) * toward
    return direction - direction.mean() if isinstance(norm, nn.LayerNorm) else direction
