"""Recomputes one row of one head step by step, and compares the output with the model's fast path.

The model computes the queries, keys and values; all later steps are computed here, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attncli.explain.contributions import by_head
from attncli.explain.first_screen import explain
from attncli.explain.question import Floats, Focus, Subject, subject_of
from attncli.explain.reading import Reading
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Steps:
    """The numbers of one row of one head at every step, from the query to the attention output.

    S is the number of sources: all tokens of the text or, in a long text, all tokens up to the first masked one, which
    is included.
    """

    subject: Subject
    layer: int
    head: int
    asked_for: bool
    shared_by: int  # query heads that share this head's keys and values
    window: int | None
    query: Floats  # (D,), after query norm and rotation
    keys: Floats  # (S, D), after key norm and rotation
    values: Floats  # (S, D)
    products: Floats  # (S,): query . key
    scores: Floats  # (S,): products / sqrt(D), plus the bias of relative positions
    allowed: NDArray[np.bool_]  # (S,), the mask
    weights: Floats  # (S,): softmax over the allowed scores; 0 where masked
    mixed: Floats  # (D,): weights x values
    written: Floats  # (C,): this head's columns of the output matrix x mixed
    attention: Floats  # (C,): the output of all heads, plus the bias
    difference: float  # the largest between `attention` and the output of the fast path, in absolute value
    scaled: bool = True  # False: the products are not divided by sqrt(D)
    bias: Floats | None = None  # (S,): the bias of relative positions


@torch.inference_mode()
def steps(reading: Reading, tokenizer: Tokenizer, focus: Focus) -> Steps:
    """Returns the numbers of every step in the row in focus, in the given head or in the busiest head.

    Raises BadInput and UsageProblem as `subject_of` does.
    """
    subject = subject_of(reading, focus)
    busiest = explain(reading, tokenizer, focus, check=False, aligning=False).map
    row, count = subject.focus, len(subject.axes.rows)
    rows = reading.rows_to_watch(range(row, min(row + 2, count)))  # includes a masked source
    watch = _OneLayer(busiest.layer)
    reading.run(rows, watch)
    fast = _fast_output(reading, watch.module, rows)[0, row - rows.start].double()
    allowed = reading.allowed(reading.parts[0], rows, watch.module.window)[row - rows.start]
    return _row(reading, subject, watch, rows, allowed, fast, head=busiest.head, asked_for=busiest.asked_for)


def _row(
    reading: Reading,
    subject: Subject,
    watch: _OneLayer,
    rows: range,
    allowed: Tensor,
    fast: Tensor,
    *,
    head: int,
    asked_for: bool,
) -> Steps:
    """Computes all heads at the focus, and returns the numbers of one head.

    `allowed` (S,) is the mask of the row. `fast` (C,) is the attention output of the fast path, with which the
    recomputed output is compared.
    """
    module, seen, row = watch.module, watch.steps, subject.focus
    query = seen.query[0, :, row - rows.start].double()  # (H, D)
    key, value = (by_head(shared[0].double(), module.heads) for shared in (seen.key, seen.value))  # (H, S, D)
    products = torch.einsum("hd,hsd->hs", query, key)
    scores = products / math.sqrt(module.head_width) if module.scaled else products
    relative = reading.bias(rows, row)
    if relative is not None:
        scores = scores + relative.double()
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    mixed = torch.einsum("hs,hsd->hd", weights, value)
    matrix = module.output.weight.double().view(-1, module.heads, module.head_width)  # (C, H, D)
    written = torch.einsum("chd,hd->hc", matrix, mixed)
    bias = module.output.bias
    attention = written.sum(0) + (0 if bias is None else bias.double())
    return Steps(
        subject=subject,
        layer=watch.layer,
        head=head,
        asked_for=asked_for,
        shared_by=module.heads // module.kv_heads,
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
        scaled=module.scaled,
        bias=None if relative is None else _array(relative[head].double()),
    )


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.cpu().numpy()
    return array


def _fast_output(reading: Reading, module: Attention, rows: range) -> Tensor:
    """Returns a layer's attention output at `rows` (1, R, C), computed by the fast path."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        reading.run(rows)
    finally:
        handle.remove()
    return outputs[-1]


class _OneLayer(Observer):
    """Records one layer's attention."""

    steps: AttentionSteps
    module: Attention

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        if layer == self.layer:
            self.steps, self.module = steps, module
