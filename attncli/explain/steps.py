"""How does one head arrive at what it writes? The arithmetic of one row, number by number, beside the fast path.

The queries, keys and values are the model's own; everything after them is computed here, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attncli.explain.findings import Floats, Steps
from attncli.explain.first_screen import Focus, explain, ids_of, question
from attncli.explain.reading import read, rows_to_watch
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@torch.inference_mode()
def steps(model: Transformer, tokenizer: Tokenizer, pieces: Sequence[Piece], focus: Focus) -> Steps:
    """One row of the head asked for, or of the busiest. Raises BadInput and UsageProblem as `explain` does."""
    asked = question(model, pieces, focus)
    asked_for = focus.layer is not None and focus.head is not None
    busiest = explain(model, tokenizer, pieces, focus, check=False).map
    layer, head = busiest.layer, busiest.head
    ids, row = ids_of(model, pieces), asked.focus
    rows = rows_to_watch(range(row, min(row + 2, len(pieces))), len(pieces))  # with one that the mask forbids
    watch = _Inputs(layer)
    read(model, ids, rows, watch)
    module, seen = watch.module, watch.steps
    query = seen.query[0, :, row - rows.start].double()  # (H, D)
    groups = module.heads // module.kv_heads
    key, value = (held[0].double().repeat_interleave(groups, 0) for held in (seen.key, seen.value))  # (H, S, D)
    products = torch.einsum("hd,hsd->hs", query, key)
    scores = products / math.sqrt(module.head_width)
    allowed = causal_mask(rows.stop - row, rows.stop, module.window, ids.device)[0]
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    mixed = torch.einsum("hs,hsd->hd", weights, value)
    matrix = module.output.weight.double().view(-1, module.heads, module.head_width)  # (C, H, D)
    written = torch.einsum("chd,hd->hc", matrix, mixed)
    bias = module.output.bias
    attention = written.sum(0) + (0 if bias is None else bias.double())
    fast = _fast_output(model, module, ids, rows)[0, row - rows.start].double()
    return Steps(
        question=asked,
        layer=layer,
        head=head,
        asked_for=asked_for,
        shared_by=groups,
        window=module.window,
        query=_array(query[head]),
        keys=_array(key[head]),
        values=_array(value[head]),
        products=_array(products[head]),
        scores=_array(scores[head]),
        allowed=allowed.cpu().numpy(),
        weights=_array(weights[head]),
        mixed=_array(mixed[head]),
        written=_array(written[head]),
        attention=_array(attention),
        difference=float((attention - fast).abs().max()),
    )


def _array(tensor: Tensor) -> Floats:
    found: Floats = tensor.cpu().numpy()
    return found


def _fast_output(model: Transformer, module: Attention, ids: Tensor, rows: range) -> Tensor:
    """What a layer's attention gives at these rows (1, R, C) when nobody watches."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        read(model, ids, rows)
    finally:
        handle.remove()
    return outputs[-1]


class _Inputs(Observer):
    """Keeps one layer's attention."""

    steps: AttentionSteps
    module: Attention

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        if layer == self.layer:
            self.steps, self.module = steps, module
