"""Decomposes one logit into what every component writes to the residual stream: direct logit attribution.

The components are the embedding, the positions, each head for each source, each feed-forward layer, and each bias. If
the scale of every norm between a component and the logit is fixed, a logit is linear in what these components write to
the stream. So the projections of the writes on the direction of the logit sum to the logit (Elhage et al., 2021).

In a pre-norm model, only the final norm is between a write and the logit, so all writes have the same direction. In a
post-norm model, a write passes through every later norm, so each write has a direction of its own. The directions are
computed from the logit backwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attncli.errors import UsageProblem
from attncli.explain.contributions import by_head, output_rows, through_norm, through_output
from attncli.explain.next_token import NextToken, most_probable, name_of
from attncli.explain.question import Floats, Focus, Subject, subject_of
from attncli.explain.reading import Reading
from attncli.model.attention import Attention, AttentionSteps, Observer, RMSNorm
from attncli.model.stack import Block
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LogitAttribution:
    """One logit at the focus as a sum of terms, one for each write to the residual stream.

    The logit is relative to the logit of the token `against` if it is given, and otherwise to the mean logit over the
    vocabulary. In a decoder with an encoder, the sources of `heads` are the source text, through the heads of
    cross-attention, then the target text, through the heads of self-attention.
    """

    subject: Subject
    target: NextToken
    against: NextToken | None
    logit: float  # as the model computes it
    embedding: float
    position: float | None  # the term of learned or sinusoidal positions
    heads: Floats  # (L, H, S): the contribution of each source through each head
    attention_bias: Floats | None  # (L,), of self-attention
    feed_forward: Floats  # (L,), without its bias
    feed_forward_bias: Floats | None  # (L,)
    norm_bias: float | None  # the final norm's bias; in a post-norm model, the biases of all norms
    cross_bias: Floats | None = None  # (L,), of cross-attention
    head_bias: float | None = None  # of the output head
    post_norm: bool = False  # the writes pass through the norms of all later parts

    @property
    def total(self) -> float:
        """The sum of the terms."""
        single = (self.embedding, self.position, self.norm_bias, self.head_bias)
        arrays = (self.heads, self.attention_bias, self.cross_bias, self.feed_forward, self.feed_forward_bias)
        return sum(term for term in single if term is not None) + sum(
            float(terms.sum()) for terms in arrays if terms is not None
        )

    @property
    def remainder(self) -> float:
        """The logit minus the sum of the terms, which is the rounding error."""
        return self.logit - self.total


@torch.inference_mode()
def logit_attribution(
    reading: Reading, tokenizer: Tokenizer, focus: Focus, *, target: str | None = None, against: str | None = None
) -> LogitAttribution:
    """Computes the terms of the target's logit in float64.

    By default, the target is the predicted token; in a translation, it is the token in focus.

    Raises BadInput and UsageProblem as `subject_of` does, and UsageProblem for a target that is not one token, and for
    a model whose logits are not linear in its residual stream.
    """
    reading.require_prediction()
    subject, model = subject_of(reading, focus), reading.model
    if model.head_transform is not None:
        raise UsageProblem(
            "The logits of this model are not a sum of terms: its head has an activation.", "Use another view."
        )
    rows = reading.rows_to_watch(range(subject.focus, subject.focus + 1))
    watch = _Writes(subject.focus - rows.start)
    hidden = reading.run(rows, watch)[0, watch.row]
    logits = model.unembed(hidden).double()
    if target is not None:
        chosen = token_named(tokenizer, target, logits)
    elif reading.translation is not None:
        chosen = _named(tokenizer, subject.axes.rows[subject.focus].id, logits)
    else:
        chosen = most_probable(logits, tokenizer, 1)[0]
    other = None if against is None else token_named(tokenizer, against, logits)
    logit = float(logits[chosen.id] - (logits.mean() if other is None else logits[other.id]))
    return _terms(reading, subject, watch, chosen=chosen, other=other, logit=logit)


def _terms(
    reading: Reading, subject: Subject, watch: _Writes, *, chosen: NextToken, other: NextToken | None, logit: float
) -> LogitAttribution:
    """Projects every write to the stream on the direction of the logit at the place of this write."""
    model, layers = reading.model, watch.layers
    toward, head_bias = _logit_direction(model, chosen, other)
    token, position = _embedded(reading, subject.focus)
    directions, norm_bias = _directions(model, watch, token if position is None else token + position, toward)
    blocks = [cast(Block, block) for block in model.blocks]
    attention_bias = _along(directions, "attention", [block.attention.output.bias for block in blocks])
    crosses = [cast(Attention, block.cross_attention).output.bias for block in blocks] if model.encoder else []
    down_bias = _along(directions, "feed_forward", [block.feed_forward.down.bias for block in blocks])
    fed = _projected([layer.fed for layer in layers], [way.feed_forward for way in directions])
    brought = [
        torch.cat([moved.along(getattr(way, part)) for part, moved in reversed(layer.moved.items())], -1)
        for layer, way in zip(layers, directions, strict=True)
    ]  # (H, S) per layer
    later = len(subject.pieces) - brought[0].shape[-1]
    start = directions[0].embedding
    return LogitAttribution(
        subject=subject,
        target=chosen,
        against=other,
        logit=logit,
        embedding=float(token @ start),
        position=None if position is None else float(position @ start),
        heads=F.pad(torch.stack(brought), (0, later)).cpu().numpy(),
        attention_bias=attention_bias,
        feed_forward=fed.cpu().numpy() - (0 if down_bias is None else down_bias),
        feed_forward_bias=down_bias,
        norm_bias=norm_bias,
        cross_bias=_along(directions, "cross", crosses),
        head_bias=head_bias,
        post_norm=not model.config.pre_norm,
    )


def _logit_direction(model: Transformer, chosen: NextToken, other: NextToken | None) -> tuple[Tensor, float | None]:
    """Returns the direction (C,) of the logit in the input of the head, and the term of the head's bias."""
    matrix = output_rows(model)  # (V, C)
    toward = matrix[chosen.id].double() - (matrix.double().mean(0) if other is None else matrix[other.id].double())
    if model.config.scaled_output:
        toward = toward / math.sqrt(model.config.width)
    if (bias := model.head_bias) is None:
        return toward, None
    return toward, float((bias[chosen.id] - (bias.mean() if other is None else bias[other.id])).double())


@dataclass(frozen=True)
class _Directions:
    """The directions (C,) of the logit at each place where one layer writes to the stream.

    `embedding` is the direction at the embedding; only the first layer uses it.
    """

    attention: Tensor
    cross: Tensor
    feed_forward: Tensor
    embedding: Tensor


def _directions(
    model: Transformer, watch: _Writes, embedded: Tensor, toward: Tensor
) -> tuple[list[_Directions], float | None]:
    """Returns the directions of every layer, and the sum of the bias terms of the norms.

    `embedded` (C,) is the input of the stack, and `toward` (C,) the direction of the logit in the input of the head.
    """
    direction, biases = toward, list[float | None]()

    def through(norm: nn.Module | None, stream: Tensor) -> None:
        nonlocal direction
        if norm is not None and not isinstance(norm, nn.Identity):
            direction, bias = _read_by(norm, stream.double(), direction)
            biases.append(bias)

    through(model.norm, watch.last)
    found: list[_Directions] = []
    for block, layer in zip(reversed(model.blocks), reversed(watch.layers), strict=True):
        assert isinstance(block, Block)
        seen = dict.fromkeys(("feed_forward", "cross", "attention"), direction)
        for part, norm, stream in () if model.config.pre_norm else layer.norms(block):
            through(norm, stream)
            seen[part] = direction
        found.append(_Directions(seen["attention"], seen["cross"], seen["feed_forward"], direction))
    if model.embedding_norm is not None:
        through(model.embedding_norm, embedded)
        found[-1] = replace(found[-1], embedding=direction)
    known = [bias for bias in biases if bias is not None]
    return found[::-1], sum(known) if known else None


def _embedded(reading: Reading, at: int) -> tuple[Tensor, Tensor | None]:
    """Returns the embedding (C,) of the token at a position, and the vector of this position or None, in float64."""
    model = reading.model
    token, added = model.embed(reading.ids[0, at]), model.positions(slice(at, at + 1), at + 1)
    return token.double(), None if added is None else added[0].to(token.dtype).double()


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


def _along(directions: Sequence[_Directions], part: str, biases: Sequence[Tensor | None]) -> Floats | None:
    """Returns the projections (L,) of the biases of one part of every layer; None if there are no biases."""
    known = [bias for bias in biases if bias is not None]
    if not known:
        return None
    array: Floats = _projected(known, [getattr(way, part) for way in directions]).cpu().numpy()
    return array


def _projected(vectors: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Returns the projections (L,) of vectors (C,) on directions (C,), with one product for equal directions."""
    wide = torch.stack(list(vectors)).double()
    if all(direction is directions[0] for direction in directions):
        return wide @ directions[0]
    return torch.stack([vector @ direction for vector, direction in zip(wide, directions, strict=True)])


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
class _Layer:
    """The vectors that one layer adds to the residual stream of one row."""

    stream: Tensor  # (C,), before the layer
    moved: dict[str, _Moved] = field(default_factory=dict)  # by part: attention, then cross
    outputs: dict[str, Tensor] = field(default_factory=dict)  # (C,) by part

    @property
    def fed(self) -> Tensor:
        """The output (C,) of the feed-forward part."""
        return self.outputs["feed_forward"]

    def norms(self, block: Block) -> list[tuple[str, nn.Module, Tensor]]:
        """Returns the parts of a post-norm block, the last part first, each with its norm and the norm's input."""
        norms = {"attention": block.attention_norm, "cross": block.cross_norm, "feed_forward": block.feed_forward_norm}
        found, stream = [], self.stream
        for part, output in self.outputs.items():
            norm, added = cast(nn.Module, norms[part]), stream + output
            found.append((part, norm, added))
            stream = norm(added)
        return found[::-1]


@dataclass
class _Writes(Observer):
    """Records what each layer's attentions and feed-forward part write to the stream of one row."""

    row: int
    layers: list[_Layer] = field(default_factory=list)

    def residual(self, layer: int, stream: Tensor) -> None:
        self.last = stream[0, self.row]

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        if layer == len(self.layers):
            self.layers.append(_Layer(self.last))
        part = "cross" if module.part == "cross" else "attention"
        weights = steps.weights[0, :, self.row].clone()
        self.layers[-1].moved[part] = _Moved(weights, steps.value[0], module.output.weight)
        self.layers[-1].outputs[part] = steps.output[0, self.row]

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.layers[-1].outputs["feed_forward"] = output[0, self.row]


def token_named(tokenizer: Tokenizer, name: str, logits: Tensor) -> NextToken:
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
    return _named(tokenizer, max(ids, key=lambda token: float(logits[token])), logits)


def _named(tokenizer: Tokenizer, token: int, logits: Tensor) -> NextToken:
    """Returns a token with its name and its probability."""
    return NextToken(token, name_of(tokenizer, token), float(logits.softmax(-1)[token]))
