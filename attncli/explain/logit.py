"""Decomposes one logit into what every component writes to the residual stream: direct logit attribution.

The components are the embedding, each head for each source, each feed-forward layer, and each bias. If the scale of the
final norm is fixed, a logit is linear in what these components write to the stream. So the projections of the writes on
the direction of the logit sum to the logit (Elhage et al., 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.errors import UsageProblem
from attncli.explain.contributions import by_head, output_rows, through_norm, through_output
from attncli.explain.next_token import NextToken, most_probable, name_of
from attncli.explain.question import Floats, Focus, Subject, subject_of
from attncli.explain.reading import ids_of, read, rows_to_watch
from attncli.model.attention import Attention, AttentionSteps, Observer, RMSNorm
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@dataclass(frozen=True)
class LogitAttribution:
    """One logit at the focus as a sum of terms, one for each write to the residual stream.

    The logit is relative to the logit of the token `against` if it is given, and otherwise to the mean logit over the
    vocabulary.
    """

    subject: Subject
    target: NextToken
    against: NextToken | None
    logit: float  # as the model computes it
    embedding: float
    position: float | None  # of a learned position embedding
    heads: Floats  # (L, H, T): the contribution of each source through each head
    attention_bias: Floats | None  # (L,)
    feed_forward: Floats  # (L,), without its bias
    feed_forward_bias: Floats | None  # (L,)
    norm_bias: float | None  # of the final norm

    @property
    def total(self) -> float:
        """The sum of the terms."""
        single = (self.embedding, self.position, self.norm_bias)
        arrays = (self.heads, self.attention_bias, self.feed_forward, self.feed_forward_bias)
        return sum(term for term in single if term is not None) + sum(
            float(terms.sum()) for terms in arrays if terms is not None
        )

    @property
    def remainder(self) -> float:
        """The logit minus the sum of the terms, which is the rounding error."""
        return self.logit - self.total


@torch.inference_mode()
def logit_attribution(
    model: Transformer,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    focus: Focus,
    *,
    target: str | None = None,
    against: str | None = None,
) -> LogitAttribution:
    """Computes the terms of the target's logit in float64. By default, the target is the predicted token.

    Raises BadInput and UsageProblem as `subject_of` does, and UsageProblem for a target that is not one token.
    """
    subject = subject_of(model, pieces, focus)
    rows = rows_to_watch(range(subject.focus, subject.focus + 1), len(pieces))
    watch = _Writes(subject.focus - rows.start)
    hidden = read(model, ids_of(model, pieces), rows, watch)[0, watch.row]
    logits = model.unembed(hidden).double()
    chosen = most_probable(logits, tokenizer, 1)[0] if target is None else _token(tokenizer, target, logits)
    other = None if against is None else _token(tokenizer, against, logits)
    matrix = output_rows(model)  # (V, C)
    base = matrix.double().mean(0) if other is None else matrix[other.id].double()
    toward = matrix[chosen.id].double() - base
    logit = float(logits[chosen.id] - (logits.mean() if other is None else logits[other.id]))
    return _terms(model, subject, watch, toward, chosen=chosen, other=other, logit=logit)


def _terms(
    model: Transformer,
    subject: Subject,
    watch: _Writes,
    toward: Tensor,
    *,
    chosen: NextToken,
    other: NextToken | None,
    logit: float,
) -> LogitAttribution:
    """Returns the projection of every write to the stream on the direction of the logit.

    `toward` (C,) is this direction in the output of the final norm.
    """
    direction, norm_bias = _read_by(model.norm, watch.last.double(), toward)
    attention_bias = _along(direction, _biases(model, "attention.output"))
    down_bias = _along(direction, _biases(model, "feed_forward.down"))
    fed = torch.stack(watch.fed).double() @ direction  # (L,)
    position = None
    if model.position is not None:
        position = float(model.position.weight[subject.focus].double() @ direction)
    brought = torch.stack([moved.along(direction) for moved in watch.moved])  # (L, H, S)
    later = len(subject.pieces) - brought.shape[-1]
    token = ids_of(model, subject.pieces)[0, subject.focus]
    return LogitAttribution(
        subject=subject,
        target=chosen,
        against=other,
        logit=logit,
        embedding=float(model.embed(token).double() @ direction),
        position=position,
        heads=F.pad(brought, (0, later)).cpu().numpy(),
        attention_bias=None if attention_bias is None else attention_bias.cpu().numpy(),
        feed_forward=(fed if down_bias is None else fed - down_bias).cpu().numpy(),
        feed_forward_bias=None if down_bias is None else down_bias.cpu().numpy(),
        norm_bias=norm_bias,
    )


def _read_by(norm: nn.Module, stream: Tensor, toward: Tensor) -> tuple[Tensor, float | None]:
    """Returns the direction (C,) in the norm's input that corresponds to `toward` (C,), and the norm's bias term.

    The dot product of this direction and a write to the stream is the write's term in norm(stream) . toward. The bias
    term is the term of the norm's bias; None if the norm has no bias.
    """
    assert isinstance(norm, RMSNorm | nn.LayerNorm)
    direction = through_norm(norm, toward)
    if not isinstance(norm, nn.LayerNorm):
        return direction / (stream.square().mean() + norm.eps).sqrt(), None
    bias = None if norm.bias is None else float(norm.bias.double() @ toward)
    return direction / (stream.var(unbiased=False) + norm.eps).sqrt(), bias


def _biases(model: Transformer, part: str) -> list[Tensor]:
    """Returns the bias (C,) of one matrix in each layer. Layers without this bias are left out."""
    parameters = dict(model.named_parameters())
    names = (f"blocks.{layer}.{part}.bias" for layer in range(model.config.layers))
    return [parameters[name] for name in names if name in parameters]


def _along(direction: Tensor, biases: Sequence[Tensor]) -> Tensor | None:
    """Returns the projections (L,) of biases on a direction; None if there are no biases."""
    return torch.stack(list(biases)).double() @ direction if biases else None


@dataclass(frozen=True)
class _Moved:
    """One layer's attention at one query: weights (H, S), values (K, S, D), and the output matrix (C, H x D)."""

    weights: Tensor
    value: Tensor
    matrix: Tensor

    def along(self, direction: Tensor) -> Tensor:
        """Returns the projections (H, S) a_hj f_h(x_j) . direction, without forming the vectors f_h(x_j)."""
        heads = len(self.weights)
        through = through_output(direction, self.matrix.double(), heads)  # (H, D)
        return self.weights.double() * torch.einsum("hsd,hd->hs", by_head(self.value.double(), heads), through)


@dataclass
class _Writes(Observer):
    """Records what each layer's attention and feed-forward write to the stream of one row."""

    row: int
    moved: list[_Moved] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)  # (C,)

    def residual(self, layer: int, stream: Tensor) -> None:
        self.last = stream[0, self.row]

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.moved.append(_Moved(steps.weights[0, :, self.row].clone(), steps.value[0], module.output.weight))

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.fed.append(output[0, self.row])


def _token(tokenizer: Tokenizer, name: str, logits: Tensor) -> NextToken:
    """Finds a token by name: '#262', '␣the' or 'the'.

    If '␣the' and 'the' are both tokens, 'the' means the more probable one.

    Raises UsageProblem when the name is not one token.
    """
    if re.fullmatch("#[0-9]{1,9}", name):
        ids = [int(name[1:])]
        if ids[0] >= len(logits):
            raise UsageProblem(f"There is no token {name}.", f"There are {len(logits)}: #0 to #{len(logits) - 1}.")
    else:
        plain = name.replace("␣", " ")
        spelled = [plain] if plain != name else [name, f" {name}"]
        ids = [form[0].id for form in map(tokenizer.pieces_within, spelled) if len(form) == 1 and name]
    if not ids:
        tokens = " ".join(repr(piece.text) for piece in tokenizer.pieces_within(name)[:8]) or "none"
        raise UsageProblem(f"{name!r} is not one token.", f"Its tokens are: {tokens}. Name one token, or its #ID.")
    best = max(ids, key=lambda token: float(logits[token]))
    return NextToken(best, name_of(tokenizer, best), float(logits.softmax(-1)[best]))
