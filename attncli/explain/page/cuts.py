"""Cuts edges and heads of attention for the page, and measures what is left of each prediction.

For a file, `cuts` measures every edge, row, column and head of an attention, as far as a budget allows. For the live
page, `cut_effect` measures one cut of any shape. `recomputed` makes the forward passes.

An effect is always measured on the prediction of a row. In a causal decoder, the cut of an edge to a row changes no
earlier row, so measuring it recomputes one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from attncli.errors import UsageProblem
from attncli.explain.ablated_pass import Edge, Head
from attncli.explain.defaults import AttentionPart
from attncli.explain.page.predictions import Floats32, Ints32
from attncli.explain.page.recomputed import CutBatch, Predicted, UncutPass
from attncli.explain.question import refuse_missing
from attncli.explain.reading import TOKENS_AT_ONCE, Reading
from attncli.model.attention import Part
from attncli.model.stack import Stack
from attncli.text.tokenizer import Tokenizer

CANDIDATES = 6  # tokens of a row whose probabilities are compared before and after a cut
AFTER = 2  # the most probable tokens after a cut that are stored
BUDGET = 1e11  # multiply-adds: several seconds on two cores
_MOST_SCORES = 1 << 24  # the most attention scores of one layer, over all rows of a batch
_LEAST_TOKENS = 16  # a smaller batch takes as long, because it reads all weights
_EVERY = -1  # in a table of cuts: all layers, all heads, or all sources but the row's own

CutKind = Literal["edges", "head_edges", "rows", "head_rows", "columns", "heads"]
CUT_KINDS: tuple[CutKind, ...] = ("edges", "head_edges", "rows", "head_rows", "columns", "heads")
_IN_ONE_HEAD: tuple[CutKind, ...] = ("head_edges", "head_rows", "heads")
_OF_A_SOURCE: tuple[CutKind, ...] = ("edges", "head_edges", "columns")
_OF_ALL_ROWS: tuple[CutKind, ...] = ("columns", "heads")  # one pass measures all rows
# The order in which kinds are measured, and the share of the remaining budget that a kind may take: first the row in
# focus, then all rows. A kind that leaves room for others comes first.
_OF_THE_FOCUS: tuple[tuple[CutKind, float], ...] = (("edges", 1), ("rows", 1), ("head_rows", 0.5), ("head_edges", 0.5))
_OF_THE_REST: tuple[tuple[CutKind, float], ...] = (
    ("heads", 0.5), ("rows", 0.25), ("edges", 1), ("columns", 0.5), ("head_rows", 1), ("head_edges", 1)
)  # fmt: skip


@dataclass(frozen=True)
class CutEffect:
    """The predictions of r rows after one kind of cut.

    The leading dimensions (...) are (r, S) for edges and columns, (r,) for rows, (L, H, r) for heads and for rows in
    one head, (L, H, r, S) for edges in one head. A cut that is impossible, as of a masked edge, has the uncut values.
    """

    rows: tuple[int, ...]  # whose predictions are measured, ascending
    kept: Floats32  # (..., K): the probabilities of the row's candidates
    ids: Ints32  # (..., 2): the most probable tokens
    probabilities: Floats32  # (..., 2): their probabilities


@dataclass(frozen=True)
class Cuts:
    """The effects of the cuts in one attention of a text; None for a kind that is not measured."""

    measured: range  # the R rows with candidates
    candidates: Ints32  # (R, K): the most probable tokens of each row, with nothing cut
    before: Floats32  # (R, K): their probabilities
    edges: CutEffect | None  # an edge of the measured row is cut in all heads of all layers
    head_edges: CutEffect | None  # an edge of the measured row is cut in one head
    rows: CutEffect | None  # the measured row sees only itself; in cross-attention, only the last source
    head_rows: CutEffect | None  # the same in one head
    columns: CutEffect | None  # a source is cut from all rows up to the measured one, in all heads of all layers
    heads: CutEffect | None  # the output of one head is replaced by zeros in all rows


@dataclass(frozen=True)
class LiveCut:
    """Edges, rows and columns that are cut together in some heads. Without any of them, the heads are ablated.

    A row that is cut sees only itself, or in cross-attention only the last source. A column is cut from all rows.
    """

    edges: tuple[Edge, ...] = ()  # (row, source)
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    heads: tuple[Head, ...] | None = None  # (layer, head); None: all heads of all layers


@dataclass(frozen=True)
class LiveEffect:
    """The prediction of one row before and after a cut."""

    candidates: Ints32  # (K,): the most probable tokens with nothing cut
    before: Floats32  # (K,): their probabilities
    kept: Floats32  # (K,): their probabilities after the cut
    ids: Ints32  # (K,): the most probable tokens after the cut
    probabilities: Floats32  # (K,): their probabilities


def cuts(
    reading: Reading,
    tokenizer: Tokenizer,
    part: AttentionPart,
    *,
    focus: int,
    budget: float = BUDGET,
    measured: range | None = None,
) -> Cuts | None:
    """Measures the cuts in one attention of a text, as many as a budget of multiply-adds allows.

    The row `focus` comes first, then the rows next to it. `measured` are the rows that may be measured; None means all.
    In the encoder of an encoder-decoder, only heads are cut, and the rows are those of the decoder. Returns None if the
    rows predict nothing.
    """
    if reading.translation is None and not reading.predicts:
        return None
    cutter = _Cutter(UncutPass(reading, tokenizer), part)
    rows = range(cutter.uncut.length) if measured is None else measured
    return _Measurement(cutter, rows, focus, budget).cuts()


def cut_effect(
    uncut: UncutPass, part: AttentionPart, cut: LiveCut, measured: int, *, most: int = CANDIDATES
) -> LiveEffect:
    """Measures one cut on the prediction of the row `measured`: the `most` probable tokens before and after.

    In an encoder-decoder, `measured` is always a row of the decoder, also for a cut in the encoder. One uncut pass can
    be used for any number of cuts, in every attention.

    Raises UsageProblem for a row, source, layer or head that does not exist, and for an edge that the mask excludes in
    all layers of the cut.
    """
    cutter = _Cutter(uncut, part)
    cutter.refuse(cut, measured)
    before = uncut.uncut(range(measured, measured + 1), most)
    after, batch = before, cutter.batch_of(cut, measured)
    if batch is not None:
        after = uncut.predict(uncut.hidden(batch)[:, measured - batch.queries.start], before.ids, most)
    each = before.ids.int(), before.kept, after.kept, after.ids.int(), after.probabilities
    return LiveEffect(*(array[0].cpu().numpy() for array in each))


class _Cutter:
    """One attention of an uncut pass: its shape, its mask, and batches of cuts in it."""

    def __init__(self, uncut: UncutPass, part: AttentionPart) -> None:
        self.uncut, self.reading = uncut, uncut.reading
        self.part: Part = "decoder" if self.reading.translation is None else part
        self.of_encoder = self.part == "encoder"  # of an encoder-decoder
        self.layers, self.heads = self.reading.layers_of(self.part), self.reading.heads
        source = None if self.reading.translation is None else len(self.reading.translation.source)
        self.sources = uncut.length if source is None or self.part == "decoder" else source
        self.rows = self.sources if self.of_encoder else uncut.length
        self.masked = self.part == "decoder" and uncut.causal
        config = self.reading.model.config
        windows = [config.window_of(layer) if self.masked else None for layer in range(self.layers)]
        self._windows = [window or self.sources for window in windows]  # by layer

    def seen(self, row: int) -> range:
        """Returns the sources to which a row can attend in some layer."""
        return range(max(0, row - max(self._windows) + 1), row + 1) if self.masked else range(self.sources)

    def own(self, row: int) -> int:
        """Returns the source that remains if a row is cut: itself, or in cross-attention the last one."""
        return self.sources - 1 if self.part == "cross" else row

    def queries(self, last: int, first: int = 0) -> range:
        """Returns the rows to recompute for cuts that change the rows from `first` and are measured up to `last`."""
        return range(first, last + 1) if self.uncut.causal else range(self.uncut.length)

    def at_once(self, queries: range) -> int:
        """Returns the number of cuts of a batch that recomputes some rows."""
        keys = max(self.sources, self.uncut.length)
        rows = max(len(queries), self.rows) if self.of_encoder else len(queries)
        return max(1, min(TOKENS_AT_ONCE // rows, _MOST_SCORES // (self.heads * rows * keys)))

    def batch(self, table: Tensor, queries: range, row: int | None) -> CutBatch:
        """Returns the cuts of a table (B, 3) of layers, heads and sources, for the edges of one row or of all rows."""
        device = self.reading.model.device
        layer, head, source = table.to(device)[:, :, None].unbind(1)  # (B, 1) each
        layers, heads, sources = (torch.arange(n, device=device) for n in (self.layers, self.heads, self.sources))
        acts = ((layer == layers) | (layer == _EVERY))[:, :, None] & ((head == heads) | (head == _EVERY))[:, None]
        if row is None:
            edges = None if bool((source == _EVERY).all()) else (source == sources)[:, None]
            return CutBatch(self.part, queries, acts, edges)
        cut = torch.where(source == _EVERY, sources != self.own(row), source == sources)[:, None]  # (B, 1, S)
        if len(queries) > 1:
            cut = cut & (torch.tensor(queries, device=device) == row)[None, :, None]
        return CutBatch(self.part, queries, acts, cut)

    def batch_of(self, cut: LiveCut, measured: int) -> CutBatch | None:
        """Returns the batch of one cut; None if it changes no row up to the measured one."""
        device = self.reading.model.device
        ablates = not (cut.edges or cut.rows or cut.columns)
        acts = torch.full((1, self.layers, self.heads), cut.heads is None)
        for layer, head in cut.heads or ():
            acts[0, layer, head] = True
        edges = torch.zeros(self.rows, self.sources, dtype=torch.bool)
        for row in cut.rows:
            edges[row] = torch.arange(self.sources) != self.own(row)
        edges[:, list(cut.columns)] = True
        for row, source in cut.edges:
            edges[row, source] = True
        if self.masked:
            edges = edges.tril()
        changed = edges.any(-1).nonzero()
        first = 0 if ablates or self.of_encoder else int(changed[0]) if len(changed) else measured + 1
        if first > measured and self.uncut.causal:
            return None
        queries = self.queries(measured, first)
        if not self.of_encoder:
            edges = edges[queries.start : queries.stop]
        return CutBatch(self.part, queries, acts.to(device), None if ablates else edges[None].to(device))

    def refuse(self, cut: LiveCut, measured: int) -> None:
        """Raises UsageProblem for a row, source, layer or head that does not exist, and for a masked edge."""
        first = int(self.reading.translation is not None)  # rows of the decoder are counted from the start token
        refuse_missing("token", measured, self.uncut.length, first)
        for row in (*cut.rows, *(row for row, _ in cut.edges)):
            refuse_missing("token", row, self.rows, 0 if self.of_encoder else first)
        for source in (*cut.columns, *(source for _, source in cut.edges)):
            refuse_missing("token", source, self.sources)
        for layer, head in cut.heads or ():
            refuse_missing("layer", layer, self.layers)
            refuse_missing("head", head, self.heads)
        layers = range(self.layers) if cut.heads is None else [layer for layer, _ in cut.heads]
        for row, source in cut.edges if self.masked else ():
            if source > row:
                raise _masked(row, source, "which comes after it", "an earlier source")
            window = max((self._windows[layer] for layer in layers), default=self.sources)
            if source <= row - window:
                raise _masked(row, source, f"which is outside its window of {window} tokens", "a source in the window")


def _masked(row: int, source: int, why: str, instead: str) -> UsageProblem:
    """Returns the error for an edge that the mask excludes."""
    return UsageProblem.naming(
        lambda named: (
            f"{named('edges')} contains [{row}, {source}], and row {row} cannot attend to source {source}, {why}.",
            f"Cut an edge to {instead}.",
        )
    )


@dataclass(frozen=True)
class _Measurement:
    """Measures as many cuts as the budget allows, from the row in focus outwards."""

    cutter: _Cutter
    measured: range
    focus: int
    budget: float

    def cuts(self) -> Cuts:
        """Returns the effects of all cuts that the budget allows."""
        plan = self._plan()
        effects = {kind: self._uncut_effect(kind, rows) for kind, rows in plan.items()}
        of_rows = {kind: effect for kind, effect in effects.items() if kind not in _OF_ALL_ROWS}
        for row in self.measured:
            self._measure_row(row, {kind: effect for kind, effect in of_rows.items() if row in effect.rows})
        for kind in effects.keys() - of_rows.keys():
            self._measure_all_rows(kind, effects[kind])
        candidates, before = self._uncut.ids.int().cpu().numpy(), self._uncut.kept.cpu().numpy()
        return Cuts(self.measured, candidates, before, *(effects.get(kind) for kind in CUT_KINDS))

    @cached_property
    def _uncut(self) -> Predicted:
        """The candidates of the measured rows (R, K)."""
        return self.cutter.uncut.uncut(self.measured, CANDIDATES)

    def _plan(self) -> dict[CutKind, list[int]]:
        """Returns the rows that are measured for each kind of cut, ascending."""
        near = sorted(self.measured, key=lambda row: (abs(row - self.focus), row))
        steps = [(kind, share, near[:1]) for kind, share in _OF_THE_FOCUS]
        steps += [(kind, share, near if kind in _OF_ALL_ROWS else near[1:]) for kind, share in _OF_THE_REST]
        plan: dict[CutKind, list[int]] = {}
        left = self.budget
        for kind, share, rows in steps:
            if self.cutter.of_encoder and kind != "heads":
                continue
            fixed = self._cost_of_passes(kind, range(self.cutter.sources)) if kind in _OF_ALL_ROWS else 0.0
            costs = np.cumsum([fixed, *(self._cost_of_row(kind, row) for row in rows)])
            fitting = int((costs[1:] <= left * share).sum())
            if fitting:
                left -= float(costs[fitting])
                plan.setdefault(kind, []).extend(rows[:fitting])
        return {kind: sorted(rows) for kind, rows in plan.items()}

    def _cost_of_row(self, kind: CutKind, row: int) -> float:
        """Returns the multiply-adds that measuring a row adds: the output head, and passes unless they are shared."""
        head = self.cutter.reading.model.head_weight.numel()
        if kind in _OF_ALL_ROWS:
            return head * self._number(kind, range(self.cutter.sources))
        seen = self.cutter.seen(row)
        return head * self._number(kind, seen) + self._cost_of_passes(kind, seen)

    def _cost_of_passes(self, kind: CutKind, sources: range) -> float:
        """Returns the multiply-adds of the recomputed rows of all cuts of a kind, without the output head.

        A cut in one head is recomputed from its layer upwards: on average, in half of the layers.
        """
        cutter, model, number = self.cutter, self.cutter.reading.model, self._number(kind, sources)
        tokens = cutter.uncut.length
        if kind not in _OF_ALL_ROWS and cutter.uncut.causal:
            tokens, number = 1, max(number, _LEAST_TOKENS)
        one: float = tokens * _multiplications(model, cutter.uncut.length)
        if cutter.of_encoder and model.encoder is not None:
            one += cutter.sources * _multiplications(model.encoder, cutter.sources)
        elif kind in _IN_ONE_HEAD:
            one = one * (cutter.layers + 1) / (2 * cutter.layers)
        return one * number

    def _number(self, kind: CutKind, sources: range) -> int:
        """Returns the number of cuts of one kind."""
        heads = self.cutter.layers * self.cutter.heads if kind in _IN_ONE_HEAD else 1
        return heads * (len(sources) if kind in _OF_A_SOURCE else 1)

    def _table(self, kind: CutKind, sources: range) -> Tensor:
        """Returns the layers, heads and sources (n, 3) of all cuts of one kind, ordered as in its effect."""
        every = torch.tensor([_EVERY])
        layers, heads = every, every
        if kind in _IN_ONE_HEAD:
            layers, heads = torch.arange(self.cutter.layers), torch.arange(self.cutter.heads)
        return torch.cartesian_prod(layers, heads, torch.tensor(sources) if kind in _OF_A_SOURCE else every)

    def _uncut_effect(self, kind: CutKind, rows: Sequence[int]) -> CutEffect:
        """Returns the effect of a kind of cut, filled with the uncut values."""
        single = kind in _IN_ONE_HEAD
        before = (self.cutter.layers, self.cutter.heads) if single else ()
        after = (self.cutter.sources,) if kind in _OF_A_SOURCE else ()
        at = np.array(rows) - self.measured.start
        ids, kept = self._uncut.ids.int().cpu().numpy()[at], self._uncut.kept.cpu().numpy()[at]

        def spread(values: Any) -> Any:
            shaped = values.reshape(*[1] * len(before), len(rows), *[1] * len(after), -1)
            return np.broadcast_to(shaped, (*before, len(rows), *after, shaped.shape[-1])).copy()

        return CutEffect(tuple(rows), spread(kept), spread(ids[:, :AFTER]), spread(kept[:, :AFTER]))

    def _measure_row(self, row: int, effects: Mapping[CutKind, CutEffect]) -> None:
        """Measures the cuts of a row's edges, of all kinds of `effects` in one batch."""
        seen, cutter = self.cutter.seen(row), self.cutter
        if not effects or len(seen) < 2:  # the only edge of a row is not cut
            return
        tables = {kind: self._table(kind, seen) for kind in effects}
        found, start = self._after(torch.cat([*tables.values()]), cutter.queries(row, row), row, [row]), 0
        for kind, table in tables.items():
            effect = effects[kind]
            place: tuple[int | slice, ...] = (effect.rows.index(row),)
            if kind in _IN_ONE_HEAD:
                place = (slice(None), slice(None), *place)
            if kind in _OF_A_SOURCE:
                place = (*place, slice(seen.start, seen.stop))
            for array, values in zip((effect.kept, effect.ids, effect.probabilities), found, strict=True):
                target = array[place]
                target[...] = values[start : start + len(table)].reshape(target.shape)
            start += len(table)

    def _measure_all_rows(self, kind: CutKind, effect: CutEffect) -> None:
        """Measures the cuts of all columns or of all heads, on all rows of the effect in the same passes."""
        cutter = self.cutter
        table, queries = self._table(kind, range(cutter.sources)), cutter.queries(effect.rows[-1])
        found = self._after(table, queries, None, effect.rows)
        for array, values in zip((effect.kept, effect.ids, effect.probabilities), found, strict=True):
            if kind == "heads":
                array[...] = values.reshape(array.shape)
                continue
            for at, row in enumerate(effect.rows):
                if len(cutter.seen(row)) > 1:
                    visible = row + 1 if cutter.masked else cutter.sources
                    array[at, :visible] = values[:visible, at]

    def _after(self, table: Tensor, queries: range, row: int | None, rows: Sequence[int]) -> tuple[Any, Any, Any]:
        """Returns kept (n, r, K), ids (n, r, 2) and probabilities (n, r, 2) of some rows under the cuts of a table."""
        order = table[:, 0].clamp_min(0).argsort(stable=True)
        candidates = self._uncut.ids[[each - self.measured.start for each in rows]]
        at, parts = [each - queries.start for each in rows], []
        for chunk in torch.split(order, self.cutter.at_once(queries)):
            hidden = self.cutter.uncut.hidden(self.cutter.batch(table[chunk], queries, row))[:, at]
            parts.append(self.cutter.uncut.predict(hidden, candidates, AFTER))
        inverse = order.argsort()
        kept, ids, probabilities = (
            torch.cat([getattr(part, name) for part in parts])[inverse].cpu().numpy()
            for name in ("kept", "ids", "probabilities")
        )
        return kept, ids, probabilities


def _multiplications(stack: Stack, keys: int) -> int:
    """Returns the multiply-adds of one token in all layers of a stack: of its parameters, and of attention to keys."""
    parameters = sum(parameter.numel() for parameter in stack.blocks.parameters())
    return parameters + 2 * keys * len(stack.blocks) * stack.config.heads * stack.config.head_width
