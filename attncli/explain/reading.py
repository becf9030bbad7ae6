"""Reading: a text as an attention of the model reads it. Every view of attention gets one.

A reading has rows (queries) and columns (sources). For a decoder alone, both are the tokens of the text. For an
encoder-decoder, a reading is of the encoder's self-attention (source by source, without a mask), of the decoder's
self-attention (target by target, causal), of cross-attention (target by source), or of the decoder's two attentions
together, whose columns are the source followed by the target.

A forward pass observes only some rows, each row with all its keys. The tokens before the observed rows are prefilled
into a cache by the fast path, in chunks. So memory grows with the length of a text, not with its square. An encoder has
no cache, so all its rows are observed, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from attncli.errors import UsageProblem
from attncli.explain.question import MapAxes
from attncli.model.attention import Attention, AttentionSteps, Observer, Part
from attncli.model.cache import KVCache
from attncli.model.mask import causal_mask
from attncli.model.stack import Block, Source, Stack
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece

WHOLE = 256  # the most tokens of a text whose rows are all observed
TOKENS_AT_ONCE = 4096  # the most tokens of a batch, over all its rows
_STRETCH = 512  # tokens of one chunk of the prefill
BOTH: tuple[Part, ...] = ("cross", "decoder")


@dataclass(frozen=True)
class TextPair:
    """A source text and its translation, as an encoder-decoder reads them."""

    source: tuple[Piece, ...]  # the tokens of the source text and its end token
    inputs: tuple[Piece, ...]  # the tokens that the decoder reads: the start token, then the target text
    end: Piece  # the token after the target text

    @property
    def outputs(self) -> tuple[Piece, ...]:
        """The tokens that the decoder predicts, one after each input."""
        return (*self.inputs[1:], self.end)

    @property
    def forced(self) -> int:
        """The number of tokens between the start token and the target text, which the model does not choose."""
        special = next((at for at, piece in enumerate(self.inputs) if not piece.special), len(self.inputs))
        return max(special - 1, 0)


@dataclass(frozen=True)
class Reading:
    """A text, or a source text and its translation, as some attentions of the model read it."""

    model: Transformer
    pieces: tuple[Piece, ...]  # the tokens that the decoder reads, or the encoder of a model without a decoder
    translation: TextPair | None = None
    parts: tuple[Part, ...] = ("decoder",)  # the attentions that are observed, in the order of their columns

    @classmethod
    def of(cls, model: Transformer, pieces: Sequence[Piece]) -> Reading:
        """Returns the reading of a text by a decoder alone or an encoder alone."""
        return cls(model, tuple(pieces))

    @classmethod
    def translated(cls, model: Transformer, translation: TextPair, parts: Sequence[Part] = BOTH) -> Reading:
        """Returns the reading of a source text and its translation by an encoder-decoder."""
        return cls(model, translation.inputs, translation, tuple(parts))

    @property
    def of_encoder(self) -> bool:
        """Whether the encoder of an encoder-decoder is read."""
        return self.parts == ("encoder",)

    @property
    def predicts(self) -> bool:
        """Whether each row predicts a token: in a decoder, and in an encoder alone with a head for masked words."""
        return not self.of_encoder and (self.model.config.causal or self.model.config.head_transform)

    def require_prediction(self) -> None:
        """Raises UsageProblem if the rows predict no tokens."""
        if not self.predicts:
            raise UsageProblem(
                "This model predicts no words, so it has no logits to explain.",
                "Use the model with its head for masked words, or another view.",
            )

    @property
    def causal(self) -> bool:
        """Whether self-attention has a causal mask."""
        return not self.of_encoder and self.model.config.causal

    @property
    def stack(self) -> Stack:
        """The stack whose attention is read."""
        return cast(Stack, self.model.encoder) if self.of_encoder else self.model

    @property
    def layers(self) -> int:
        """The number of layers of the stack."""
        return len(self.stack.blocks)

    def layers_of(self, part: Part) -> int:
        """Returns the number of layers of the stack that has this attention."""
        return self.model.config.encoder_layers if part == "encoder" else self.model.config.layers

    @property
    def heads(self) -> int:
        """The number of heads of a layer."""
        return self.model.config.heads

    @property
    def texts(self) -> tuple[tuple[Piece, ...], ...]:
        """The texts that are read."""
        return (self.pieces,) if self.translation is None else (self.translation.source, self.pieces)

    @property
    def columns(self) -> dict[Part, range]:
        """The columns of each attention that is read."""
        columns: dict[Part, range] = {}
        for part in self.parts:
            start = max((range_.stop for range_ in columns.values()), default=0)
            columns[part] = range(start, start + len(self._keys(part)))
        return columns

    def _keys(self, part: Part) -> tuple[Piece, ...]:
        translation = self.translation
        return self.pieces if translation is None or part == "decoder" else translation.source

    @cached_property
    def axes(self) -> MapAxes:
        """The rows and columns, in tokens."""
        columns = tuple(piece for part in self.parts for piece in self._keys(part))
        if self.translation is None:
            reach = self.reach(range(len(columns)))
            return MapAxes(columns, columns, reach)
        part = self.parts[0] if len(self.parts) == 1 else "both"
        rows = self.translation.source if self.of_encoder else self.translation.outputs
        sources = len(self.translation.source) if part == "both" else 0
        return MapAxes(rows, columns, self.reach(range(len(rows))), part, int(not self.of_encoder), sources)

    def reach(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Returns the number of columns that each row can attend to, without regard to windows."""
        columns = sum(map(len, self.columns.values()))
        if "decoder" not in self.parts or not self.causal:
            return (columns,) * len(rows)
        before = columns - len(self.pieces)
        return tuple(before + row + 1 for row in rows)

    def rows_to_watch(self, needed: range) -> range:
        """Returns the rows to observe: all rows of a short text or of an encoder, otherwise only the needed rows."""
        rows = len(self.axes.rows)
        return needed if rows > WHOLE and self.causal else range(rows)

    def allowed(self, part: Part, rows: range, window: int | None) -> Tensor:
        """Returns the mask (R, S) of one attention, True at the keys to which the observed rows may attend."""
        device = self.model.device
        if part == "decoder" and self.causal:
            return causal_mask(len(rows), rows.stop, window, device)
        return torch.ones(len(rows), len(self._keys(part)), dtype=torch.bool, device=device)

    def bias(self, rows: range, row: int) -> Tensor | None:
        """Returns the bias (H, S) of relative positions in one of the observed rows; None if there is no such bias."""
        if self.model.config.positions != "relative" or self.parts == ("cross",):
            return None
        keys = rows.stop if self.causal else len(self.axes.columns)
        return self.stack.distances(slice(row, row + 1), keys)[0, :, 0]

    def attention(self, layer: int, part: Part) -> Attention:
        """Returns the module of one attention."""
        block = cast(Block, self.stack.blocks[layer])
        return cast(Attention, block.cross_attention if part == "cross" else block.attention)

    @cached_property
    def source(self) -> Source | None:
        """The encoded source text; None for a model that does not translate."""
        if self.translation is None:
            return None
        with torch.inference_mode():
            return self.model.read_source(ids_of(self.model, self.translation.source))

    @property
    def ids(self) -> Tensor:
        """The ids (1, T) that the stack reads."""
        source = self.translation is not None and self.of_encoder
        return ids_of(self.model, self.texts[0] if source else self.pieces)

    @property
    def segments(self) -> Tensor | None:
        """The segments (1, T) of the tokens; None for a model without segments."""
        if not self.model.config.segments:
            return None
        return torch.tensor([[piece.segment for piece in self.pieces]], device=self.model.device)

    @torch.inference_mode()
    def run(self, rows: range, observe: Observer | None = None) -> Tensor:
        """Runs a forward pass, and returns the normalized residual stream (1, R, C) at `rows`.

        The observer gets the attentions that are read: the R rows of queries and all keys and values. Tokens after the
        rows of a causal decoder are not read.
        """
        watch = None if observe is None else _Parts(observe, self.parts)
        if self.of_encoder:
            return self.model.encode(self.ids, observe=watch)[:, rows.start : rows.stop]
        if not self.causal:
            return self.model.hidden(self.ids, observe=watch, segments=self.segments)[:, rows.start : rows.stop]
        ids, cache = self.ids, KVCache(self.layers, rows.stop) if rows.start else None
        for start in range(0, rows.start, _STRETCH):
            self.model.hidden(ids[:, start : min(start + _STRETCH, rows.start)], cache, source=self.source)
        return self.model.hidden(ids[:, rows.start : rows.stop], cache, watch, self.source)


class _Parts(Observer):
    """Forwards a forward pass to an observer, with the attention of the given parts only."""

    def __init__(self, observe: Observer, parts: Collection[Part]) -> None:
        self.observe, self.parts = observe, parts

    def watches(self, part: Part) -> bool:
        return part in self.parts

    def residual(self, layer: int, stream: Tensor) -> None:
        self.observe.residual(layer, stream)

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        return self.observe.scores(layer, scores, module)

    def mixed(self, layer: int, mixed: Tensor, module: Attention) -> Tensor:
        return self.observe.mixed(layer, mixed, module)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        self.observe.attention(layer, steps, module)

    def feed_forward(self, layer: int, output: Tensor) -> None:
        self.observe.feed_forward(layer, output)


class Observers(Observer):
    """Forwards a forward pass to several observers, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._each = observers

    def watches(self, part: Part) -> bool:
        """Whether one of the observers receives the attention of a part."""
        return any(observe.watches(part) for observe in self._each)

    def residual(self, layer: int, stream: Tensor) -> None:
        """Forwards the residual stream."""
        for observe in self._each:
            observe.residual(layer, stream)

    def scores(self, layer: int, scores: Tensor, module: Attention) -> Tensor:
        """Returns the scores as changed by each observer in turn."""
        for observe in self._each:
            scores = observe.scores(layer, scores, module)
        return scores

    def mixed(self, layer: int, mixed: Tensor, module: Attention) -> Tensor:
        """Returns the outputs of the heads as changed by each observer in turn."""
        for observe in self._each:
            mixed = observe.mixed(layer, mixed, module)
        return mixed

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Forwards the steps of a layer's attention."""
        for observe in self._each:
            observe.attention(layer, steps, module)

    def feed_forward(self, layer: int, output: Tensor) -> None:
        """Forwards the output of a layer's feed-forward part."""
        for observe in self._each:
            observe.feed_forward(layer, output)


def text_stack(model: Transformer) -> Stack:
    """Returns the stack that reads a text by itself: the encoder of an encoder-decoder, otherwise the only stack."""
    return model if model.encoder is None else model.encoder


def read_text(model: Transformer, pieces: Sequence[Piece], observe: Observer) -> None:
    """Runs the stack that reads a text by itself over a text."""
    ids = ids_of(model, pieces)
    with torch.inference_mode():
        if model.encoder is not None:
            model.encode(ids, observe=observe)
        else:
            model.hidden(ids, observe=observe)


def ids_of(model: Transformer, pieces: Sequence[Piece]) -> Tensor:
    """Returns the ids of a text (1, T), on the model's device."""
    return torch.tensor([[piece.id for piece in pieces]], device=model.embedding.weight.device)
