"""Where does one logit come from? Everything that was written to the residual stream, projected onto the token's row.

Direct logit attribution (Elhage et al., 2021): with the scale of the final norm held as it is, a logit is linear in
what the embedding, each head from each source, each feed-forward part and each bias wrote, so the terms sum to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.errors import UsageProblem
from attncli.explain.findings import Ledger, NextToken
from attncli.explain.first_screen import Focus, ids_of, most_probable, question
from attncli.explain.reading import read, rows_to_watch
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@torch.inference_mode()
def ledger(
    model: Transformer,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    focus: Focus,
    *,
    target: str | None = None,
    against: str | None = None,
) -> Ledger:
    """The terms of the target's logit, by default of the token predicted, in float64.

    Raises BadInput and UsageProblem as `explain` does, and UsageProblem for a target that is not one token.
    """
    asked = question(model, pieces, focus)
    seen = rows_to_watch(range(asked.focus, asked.focus + 1), len(pieces))
    watch = _Writes(asked.focus - seen.start)
    hidden = read(model, ids_of(model, pieces), seen, watch)[0, watch.row]
    logits = model.unembed(hidden).double()
    chosen = most_probable(logits, tokenizer, 1)[0] if target is None else _token(tokenizer, target, logits)
    other = None if against is None else _token(tokenizer, against, logits)
    rows = model.embedding.weight if model.head is None else model.head.weight  # (V, C)
    base = rows.double().mean(0) if other is None else rows[other.id].double()
    toward = rows[chosen.id].double() - base
    direction, bias = _read(model.norm, watch.last.double(), toward)
    parameters = dict(model.named_parameters())
    attention_bias, down_bias = (
        _along(direction, [parameters.get(f"blocks.{layer}.{part}.bias") for layer in range(asked.layers)])
        for part in ("attention.output", "feed_forward.down")
    )
    fed = torch.stack(watch.fed).double() @ direction  # (L,)
    position = None
    if model.position is not None:
        position = float(model.position.weight[asked.focus].double() @ direction)
    brought = torch.stack([moved.along(direction) for moved in watch.moved])  # (L, H, S)
    return Ledger(
        question=asked,
        target=chosen,
        against=other,
        logit=float(logits[chosen.id] - (logits.mean() if other is None else logits[other.id])),
        embedding=float(model.embedding.weight[pieces[asked.focus].id].double() @ direction),
        position=position,
        heads=F.pad(brought, (0, len(pieces) - seen.stop)).cpu().numpy(),
        attention_bias=None if attention_bias is None else attention_bias.cpu().numpy(),
        feed_forward=(fed if down_bias is None else fed - down_bias).cpu().numpy(),
        feed_forward_bias=None if down_bias is None else down_bias.cpu().numpy(),
        norm_bias=bias,
    )


def _read(norm: nn.Module, stream: Tensor, toward: Tensor) -> tuple[Tensor, float | None]:
    """The direction (C,) whose product with a part of the stream is that part's share of norm(stream) . toward.

    And what the norm's own bias adds. LayerNorm takes the mean off the stream; taking it off the direction is the same.
    """
    direction = norm.weight.double() * toward  # type: ignore[operator]
    if not isinstance(norm, nn.LayerNorm):
        return direction / (stream.square().mean() + norm.eps).sqrt(), None  # type: ignore[operator]
    bias = None if norm.bias is None else float(norm.bias.double() @ toward)
    sigma = (stream.var(unbiased=False) + norm.eps).sqrt()
    return (direction - direction.mean()) / sigma, bias


def _along(direction: Tensor, biases: Sequence[Tensor | None]) -> Tensor | None:
    """(L,) what these biases add, or None where there are none."""
    there = [bias for bias in biases if bias is not None]
    return torch.stack(there).double() @ direction if there else None


@dataclass(frozen=True)
class _Moved:
    """One layer's attention at one query: weights (H, S), values (K, S, D), the output matrix (C, H x D)."""

    weights: Tensor
    value: Tensor
    matrix: Tensor

    def along(self, direction: Tensor) -> Tensor:
        """(H, S): a_hj f_h(x_j) . direction, without the vectors themselves."""
        heads = len(self.weights)
        through = (direction @ self.matrix.double()).view(heads, -1)  # (H, D)
        value = self.value.double().repeat_interleave(heads // len(self.value), 0)
        return self.weights.double() * torch.einsum("hsd,hd->hs", value, through)


@dataclass
class _Writes(Observer):
    """Keeps what each part of each layer writes to the stream of one row."""

    row: int
    moved: list[_Moved] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)  # (C,)

    def residual(self, layer: int, stream: Tensor) -> None:
        self.last = stream[0, self.row]

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.moved.append(_Moved(steps.weights[0, :, self.row].clone(), steps.value[0], module.output.weight))

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.fed.append(output[0, self.row])


def _token(tokenizer: Tokenizer, wanted: str, logits: Tensor) -> NextToken:
    """The token meant: '#262', '␣the' or 'the', which is two where a space may come before it; then the likelier.

    Raises UsageProblem when the text is not one token.
    """
    if re.fullmatch("#[0-9]{1,9}", wanted):
        found = [int(wanted[1:])]
        if found[0] >= len(logits):
            raise UsageProblem(f"There is no token {wanted}.", f"There are {len(logits)}: #0 to #{len(logits) - 1}.")
    else:
        plain = wanted.replace("␣", " ")
        spelled = [plain] if plain != wanted else [wanted, f" {wanted}"]
        found = [form[0].id for form in map(tokenizer.pieces_within, spelled) if len(form) == 1 and wanted]
    if not found:
        cut = " ".join(repr(piece.text) for piece in tokenizer.pieces_within(wanted)[:8])
        raise UsageProblem(
            f"{wanted!r} is not one token of this model.", f"It is {cut or 'none'}. Name one, or its #ID."
        )
    best = max(found, key=lambda token: float(logits[token]))
    text = tokenizer.name(best) if best < tokenizer.vocab_size else ""
    return NextToken(best, text, float(logits.softmax(-1)[best]))
