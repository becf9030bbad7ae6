"""Runs forward passes in which heads or edges of attention are ablated. Each row of a batch has its own ablation.

A head is ablated by replacing its output before the output matrix. An edge is cut by setting its score to -inf before
the softmax. The weights of the model are not changed. The encoder of an encoder-decoder is recomputed only for
ablations in the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from attncli.explain.defaults import PARTS
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.next_token import log_probabilities
from attncli.explain.reading import TOKENS_AT_ONCE, Reading
from attncli.model.attention import Attention, Observer, Part
from attncli.model.stack import Source
from attncli.model.transformer import Transformer

Head = tuple[int, int]  # layer, head
Edge = tuple[int, int]  # query, source: a row and a column of an attention
Means = dict[tuple[Part, int], Tensor]  # attention and layer -> the mean outputs of its heads (H, D)


@dataclass(frozen=True)
class Without:
    """The heads and edges that are ablated in one row of a batch.

    A head is given as (layer, head), and an edge as (query, source). An edge is cut in all heads of the attention
    `part`. A model with one stack has no other attention than "decoder", even if the stack is an encoder.
    """

    heads: tuple[Head, ...] = ()
    edges: tuple[Edge, ...] = ()
    part: Part = "decoder"


@dataclass(frozen=True)
class AblatedPass:
    """Predicts the tokens after some positions of a reading, under ablations."""

    reading: Reading
    positions: Sequence[int]  # of the decoder, or of an encoder alone
    known: int  # ids of the tokenizer; larger ids only pad a matrix

    def unablated(self) -> tuple[list[Tensor], Means]:
        """Returns the log-probabilities (known,) at each position in the unablated model, and the heads' mean outputs.

        The means of the encoder are over the whole source. The means of a causal decoder are over the positions up to
        the last measured position, because later positions do not affect it.
        """
        means: Means = {}
        tokens = self.positions[-1] + 1 if self.reading.causal else len(self.reading.pieces)
        with _hooked(self.reading.model, _keeping_means(means, self.reading.heads, tokens)):
            source = self._source(1, None, encodes=True)
            return [logs[0] for logs in self._predict(1, source, None)], means

    def batches(self, removed: Sequence[Without]) -> Iterator[Sequence[Without]]:
        """Yields the ablations in batches of at most TOKENS_AT_ONCE tokens of the longest text."""
        at_once = max(TOKENS_AT_ONCE // max(map(len, self.reading.texts)), 1)
        for start in range(0, len(removed), at_once):
            yield removed[start : start + at_once]

    def log_probabilities(self, removed: Sequence[Without], means: Means | None) -> Iterator[Tensor]:
        """Yields the log-probabilities (B, known) at each position. Row i is computed under the i-th ablation.

        The outputs of ablated heads are replaced by `means`; None means zeros.
        """
        heads: dict[tuple[Part, int], list[tuple[int, int]]] = {}  # attention and layer -> (row, head)
        for row, without in enumerate(removed):
            for layer, head in without.heads:
                heads.setdefault((without.part, layer), []).append((row, head))
        observe, encodes = self._knockout(removed), any(without.part == "encoder" for without in removed)
        with _hooked(self.reading.model, _replacing(heads, means, self.reading.heads)):
            yield from self._predict(len(removed), self._source(len(removed), observe, encodes=encodes), observe)

    def _knockout(self, removed: Sequence[Without]) -> Knockout | None:
        """Returns the observer that cuts the edges of every row; None if no edge is cut."""
        parts = {without.part for without in removed if without.edges}
        if not parts:
            return None
        if self.reading.translation is None:
            return Knockout([Cut(frozenset(without.edges)) for without in removed])
        columns = replace(self.reading, parts=tuple(part for part in PARTS if part in parts)).columns
        starts = [columns[without.part].start if without.edges else 0 for without in removed]
        cuts = [
            Cut(frozenset((query, start + source) for query, source in without.edges))
            for start, without in zip(starts, removed, strict=True)
        ]
        return Knockout(cuts, columns)

    def _source(self, rows: int, observe: Observer | None, *, encodes: bool) -> Source | None:
        """Returns the encoded source of every row: recomputed if `encodes`, otherwise the source of the reading."""
        translation = self.reading.translation
        if translation is None:
            return None
        if not encodes:
            assert self.reading.source is not None
            return self.reading.source.expanded(rows)
        ids = replace(self.reading, parts=("encoder",)).ids
        return self.reading.model.read_source(ids.expand(rows, -1), observe=observe)

    def _predict(self, rows: int, source: Source | None, observe: Observer | None) -> Iterator[Tensor]:
        """Yields the log-probabilities (rows, known) at each position, in a batch of `rows` equal texts."""
        model, segments = self.reading.model, self.reading.segments
        ids = replace(self.reading, parts=("decoder",)).ids.expand(rows, -1)
        segments = None if segments is None else segments.expand(rows, -1)
        hidden = model.hidden(ids, observe=observe, source=source, segments=segments)
        for at in self.positions:
            yield log_probabilities(model, hidden[:, at], self.known)


Hook = Callable[[Part, int, Tensor], Tensor]  # attention, layer, outputs of its heads (B, T, H x D) -> outputs to use


@contextmanager
def _hooked(model: Transformer, hook: Hook) -> Iterator[None]:
    """Applies a hook in every attention to the outputs of all heads, before the output matrix."""
    with ExitStack() as hooks:
        for attention in model.modules():
            if isinstance(attention, Attention):

                def before(
                    module: nn.Module, inputs: tuple[Tensor], part: Part = attention.part, layer: int = attention.layer
                ) -> tuple[Tensor]:
                    return (hook(part, layer, inputs[0]),)

                hooks.enter_context(attention.output.register_forward_pre_hook(before))
        yield


def _keeping_means(means: Means, heads: int, tokens: int) -> Hook:
    """Returns a hook that stores the mean outputs of the heads in `means`.

    The mean is over the first `tokens` positions, or in the encoder of an encoder-decoder over all positions.
    """

    def keep(part: Part, layer: int, mixed: Tensor) -> Tensor:
        count = mixed.shape[1] if part == "encoder" else tokens
        means[part, layer] = mixed[0, :count].view(count, heads, -1).mean(0)
        return mixed

    return keep


def _replacing(removed: Mapping[tuple[Part, int], list[tuple[int, int]]], means: Means | None, heads: int) -> Hook:
    """Returns a hook that replaces the outputs of heads with zeros or, if `means` is given, with means.

    `removed` maps an attention and a layer to the outputs that are replaced there, as (row, head) pairs.
    """

    def substitute(part: Part, layer: int, mixed: Tensor) -> Tensor:
        if (part, layer) not in removed:
            return mixed
        outputs = mixed.view(*mixed.shape[:2], heads, -1).clone()  # (B, T, H, D)
        rows, which = (list(column) for column in zip(*removed[part, layer], strict=True))
        outputs[rows, :, which] = 0 if means is None else means[part, layer][which][:, None].to(outputs.dtype)
        return outputs.flatten(2)

    return substitute
