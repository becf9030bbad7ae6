"""Where does this token get its information? One forward pass, watched.

For the token in focus: the share of every source, over all layers and heads or the ones asked for; the weights of one
head as a map; what may come next; and what that loses when a source is cut off. Holds one layer's arrays at a time, of
the maps only the best so far, and the keys and values that the cuts need. Of a long text only the rows around the focus
are watched, so nothing here grows with the square of its length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attncli.errors import BadInput, UsageProblem
from attncli.explain.checks import Prediction, check_edges
from attncli.explain.findings import (
    NAMED,
    Explanation,
    Floats,
    HeadMap,
    NextToken,
    Question,
    Sources,
    Weights,
    Words,
    rows_around,
)
from attncli.explain.reading import read, rows_to_watch
from attncli.explain.words import joined
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.cache import SharedPast
from attncli.model.distribution import distribution
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer


@dataclass(frozen=True)
class Focus:
    """What is asked: a token (None is the last), a layer and a head (None is all), and how weights are measured."""

    token: int | None = None
    layer: int | None = None
    head: int | None = None
    weights: Weights = "norm"


def explain(
    model: Transformer,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    focus: Focus,
    *,
    words: Sequence[range] | None = None,
    next_tokens: int = 10,
    named: int = NAMED,
    check: bool = True,
    temperature: float = 1.0,
) -> Explanation:
    """Explains one text, given as its tokens. `check` cuts the sources off that a screen shows by name.

    Probabilities are those at the temperature; at 0 the most probable token has it all. With `words`, the tokens of
    each in order, the focus and the findings are of words.

    Raises:
        BadInput: for no tokens, or more than the context.
        UsageProblem: for a token, layer or head that is not there, naming those that are.
    """
    units = words or [range(at, at + 1) for at in range(len(pieces))]
    token = focused(model, pieces, focus, len(units))
    map_rows = rows_around(token, len(units))
    rows = rows_to_watch(range(units[map_rows[0]].start, units[map_rows[-1]].stop), len(pieces))
    watch = _Watch(focus, units, token, rows)
    ids = ids_of(model, pieces)
    queries = units[token]
    with torch.inference_mode():
        hidden = read(model, ids, rows, watch)[0, queries[-1] - rows.start]
        logits = model.unembed(hidden).float()[: tokenizer.vocab_size]
        following = most_probable(logits, tokenizer, next_tokens, temperature)
        sources, checks = watch.sources(), None
        if check and token > 0:  # a query never loses its last key
            past = SharedPast(watch.keys, watch.values, model.config.context)
            seen = ids[0, queries.start : queries.stop]
            asked = Prediction(past, seen, following[0].id, temperature, tokenizer.vocab_size)
            known, cut_in = units[: token + 1], _cut_in(model, focus)
            checks = check_edges(model, asked, known, sources.named(named), following[0], cut_in)
    return Explanation(
        pieces=tuple(pieces if words is None else joined(pieces, units)),
        layers=model.config.layers,
        heads=model.config.heads,
        sources=sources,
        map=watch.head_map(),
        next_tokens=following,
        checks=checks,
        words=None if words is None else Words(tuple(pieces), tuple(units)),
        temperature=temperature,
    )


def _cut_in(model: Transformer, focus: Focus) -> dict[int, Sequence[int]] | None:
    """The heads by layer that a focus is on; None for all."""
    if focus.layer is None and focus.head is None:
        return None
    layers = range(model.config.layers) if focus.layer is None else [focus.layer]
    return {layer: range(model.config.heads) if focus.head is None else [focus.head] for layer in layers}


def focused(model: Transformer, pieces: Sequence[Piece], focus: Focus, count: int | None = None) -> int:
    """The index of the token in focus, or the word of so many. Raises BadInput and UsageProblem as `explain` does."""
    config = model.config
    refuse_length(pieces, config.context)
    count = len(pieces) if count is None else count
    token = count - 1 if focus.token is None else focus.token
    _check("token", token, count)
    _check("layer", focus.layer, config.layers)
    _check("head", focus.head, config.heads)
    return token


def question(model: Transformer, pieces: Sequence[Piece], focus: Focus) -> Question:
    """What a view is asked for. Raises BadInput and UsageProblem as `explain` does."""
    config = model.config
    return Question(tuple(pieces), config.layers, config.heads, focused(model, pieces, focus))


def ids_of(model: Transformer, pieces: Sequence[Piece]) -> Tensor:
    """The tokens as the model takes them (1, T)."""
    return torch.tensor([[piece.id for piece in pieces]], device=model.embedding.weight.device)


def refuse_length(pieces: Sequence[Piece], context: int) -> None:
    """Raises BadInput for no tokens, or more than the context."""
    if not pieces:
        raise BadInput(
            "The text has no tokens.",
            'Give a sentence: attncli explain "The little cat sat on the old mat. The little"',
        )
    if len(pieces) > context:
        fitting = sum(len(piece.completed) for piece in pieces[:context])
        raise BadInput(
            f"The text has {len(pieces)} tokens, and the model reads at most {context}.",
            f"Give less of it: the first {fitting} characters fit.",
        )


def contribution_norms(steps: AttentionSteps, module: Attention, query: int) -> tuple[Tensor, Tensor]:
    """Lengths of what every source adds to one query's attention output, batch of one.

    f_h(x_j) is the value of source j in head h through that head's columns of the output matrix, and a_hj the weight.

    Returns:
        per head (H, S): |a_hj f_h(x_j)|, and together (S,): |sum over h of a_hj f_h(x_j)|, the vectors summed first.
    """
    weights = steps.weights[0, :, query].float()  # (H, S)
    value = steps.value[0].repeat_interleave(module.heads // module.kv_heads, 0).float()  # (H, S, D)
    matrix = module.output.weight.float()  # (C, H x D)
    scaled = weights[..., None] * value  # (H, S, D)
    together = (scaled.transpose(0, 1).flatten(1) @ matrix.T).norm(dim=-1)
    by_head = matrix.view(len(matrix), module.heads, -1).permute(1, 0, 2)  # (H, C, D)
    # |W v| without the vectors themselves: sqrt(v' W'W v), where W'W is only (D, D).
    squared = ((scaled @ (by_head.transpose(1, 2) @ by_head)) * scaled).sum(-1)
    return squared.clamp_min(0).sqrt(), together


@dataclass
class _Watch(Observer):
    """Gathers the findings of one pass, layer by layer.

    Units are what is counted as one, as ranges of positions: the sources, and the rows and columns of the map. A unit
    is the sum of its positions as sources, and the mean of them as queries.
    """

    focus: Focus
    units: Sequence[range]
    unit: int  # the one in focus
    rows: range  # of queries that are watched
    keys: list[Tensor] = field(default_factory=list)  # (1, K, S, D) per layer: before the focus
    values: list[Tensor] = field(default_factory=list)
    _shares: list[Tensor] = field(default_factory=list)  # (S,) per layer asked for
    _raw: list[Tensor] = field(default_factory=list)
    _outputs: dict[int, Tensor] = field(default_factory=dict)  # (queries,) lengths, by layer asked for
    _beside: list[Tensor] = field(
        default_factory=list
    )  # () per layer asked for: the mean of `_outputs` over the stream
    _layers: list[int] = field(default_factory=list)
    _busiest: float = -1.0
    _map: tuple[int, int, Tensor] | None = None
    _window: int | None = None  # of the map's layer

    def residual(self, layer: int, stream: Tensor) -> None:
        """Compares what attention added in the layer before with the stream that leaves that layer."""
        if (output := self._outputs.get(layer - 1)) is not None:
            self._beside.append((output / self._lengths(stream).clamp_min(1e-30)).mean())

    def _lengths(self, vectors: Tensor) -> Tensor:
        """(B, R, C) -> (queries,), those in focus."""
        own = self.units[self.unit]
        rows = vectors[0, own.start - self.rows.start : own.stop - self.rows.start].float()
        lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1)
        return lengths

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Takes what is asked for from one layer."""
        own = self.units[self.unit]
        self.keys.append(steps.key[:, :, : own.start])
        self.values.append(steps.value[:, :, : own.start])
        if self.focus.layer is not None and layer != self.focus.layer:
            return
        self._outputs[layer] = self._lengths(steps.output)
        shares, weights, moved = zip(*(self._row(steps, module, at - self.rows.start) for at in own), strict=True)
        self._layers.append(layer)
        self._shares.append(torch.stack(shares).mean(0))
        self._raw.append(torch.stack(weights).mean(0))
        if self._consider(layer, steps.weights[0], torch.stack(moved).mean(0)):
            self._window = module.window

    def _row(self, steps: AttentionSteps, module: Attention, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of one query: the shares and the weights (S,) asked for, and what every head contributes (H, S)."""
        head = self.focus.head
        per_head, together = contribution_norms(steps, module, row)
        raw = steps.weights[0, :, row].float()  # (H, S)
        raw = raw.mean(0) if head is None else raw[head]
        norms = together if head is None else per_head[head]
        # Where nothing is contributed at all there are no shares: zeros, not a division by zero.
        shares = norms / norms.sum().clamp_min(1e-30) if self.focus.weights == "norm" else raw
        return shares, raw, per_head

    def _consider(self, layer: int, weights: Tensor, moved: Tensor) -> bool:
        """Keeps the map of the head that brings most to the focus from units other than itself and the first."""
        own, first = self.units[self.unit], self.units[0]
        moved[:, own.start : own.stop] = 0
        if self.unit > 1:
            moved[:, : first.stop] = 0  # a head that has nothing to say often parks its attention there
        busy = moved.sum(-1)
        head = int(busy.argmax()) if self.focus.head is None else self.focus.head
        busier = float(busy[head]) > self._busiest
        if busier:
            self._busiest = float(busy[head])
            self._map = (layer, head, weights[head].float().clone())  # a view would keep the whole layer
        return busier

    def sources(self) -> Sources:
        """The shares, averaged over the layers."""
        by_layer = self._by_source(torch.stack(self._shares))
        raw = self._by_source(torch.stack(self._raw)).mean(0)
        return Sources(
            focus=self.unit,
            weights=self.focus.weights,
            layers=tuple(self._layers),
            head=self.focus.head,
            shares=by_layer.mean(0),
            by_layer=by_layer,
            raw=raw,
            beside_stream=float(torch.stack(self._beside).mean()) if self.focus.head is None else None,
        )

    def head_map(self) -> HeadMap:
        """The map, with how much of a previous-token head it is on this text."""
        assert self._map is not None
        layer, head, weights = self._map
        allowed = causal_mask(len(self.rows), self.rows.stop, self._window, weights.device).double()
        table, even = (self._by_unit(found) for found in (weights, allowed / allowed.sum(-1, keepdim=True)))
        asked_for = self.focus.head is not None and self.focus.layer is not None
        first = next(at for at, unit in enumerate(self.units) if unit.start == self.rows.start)
        scores = previous_token_score(table, first), previous_token_score(even, first)
        return HeadMap(layer, head, table, asked_for, *scores, first)

    def _by_unit(self, weights: Tensor) -> Floats:
        """(R, S) -> (units among the rows, all units)."""
        starts = [unit.start - self.rows.start for unit in self.units if unit.start in self.rows]
        sizes = np.diff([*starts, len(self.rows)])
        found: Floats = np.add.reduceat(self._by_source(weights), starts) / sizes[:, None]
        return found

    def _by_source(self, found: Tensor) -> Floats:
        """(..., S) -> (..., units); what comes after the rows is no source."""
        whole = np.zeros((*found.shape[:-1], self.units[-1].stop))
        whole[..., : found.shape[-1]] = found.cpu().double().numpy()
        return np.add.reduceat(whole, [unit.start for unit in self.units], axis=-1)


def previous_token_score(weights: Floats, first: int = 0) -> float | None:
    """Mean weight on the token before, over rows (R, T) of which the first is of token `first`; token 0 has none."""
    found = [float(row[at - 1]) for at, row in enumerate(weights, first) if at]
    return sum(found) / len(found) if found else None


def most_probable(logits: Tensor, tokenizer: Tokenizer, count: int, temperature: float = 1.0) -> tuple[NextToken, ...]:
    """What the logits (V,) predict, most probable first."""
    ids = logits.argsort(descending=True, stable=True)[:count]
    probabilities = distribution(logits, temperature)[ids]
    described = [i if i < tokenizer.vocab_size else None for i in ids.tolist()]
    texts = [tokenizer.name(i) if i is not None else "" for i in described]
    return tuple(NextToken(i, text, p) for i, text, p in zip(ids.tolist(), texts, probabilities.tolist(), strict=True))


def _check(what: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise UsageProblem(f"There is no {what} {value}.", f"There are {count}: 0 to {count - 1}.")


def find_token(pieces: Sequence[Piece], wanted: str) -> int:
    """The index meant by `--token`: a number, or a word of the text (of a word in several tokens, the last).

    Raises UsageProblem when no token is meant, or several are.
    """
    return find_run(pieces, wanted)[1]


def find_run(pieces: Sequence[Piece], wanted: str) -> tuple[int, int]:
    """The same as the indices of the first and the last token of a word, one index twice for a number.

    Raises UsageProblem when no token is meant, or several are.
    """
    if re.fullmatch(r"-?[0-9]{1,9}", wanted):
        index = int(wanted)
        _check("token", index, len(pieces))
        return index, index
    runs = _runs(pieces, wanted.strip())
    matches = [run for run in runs if _is_word(pieces, *run)] or runs  # else a part of a word, as the tokenizer cut it
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = " or ".join(f"--token {end}" for _, end in matches)
        raise UsageProblem(f"{wanted!r} comes {len(matches)} times.", f"Say which: {listed}.")
    listed = " ".join(f"{at}:{piece.text.strip() or '␣'}" for at, piece in enumerate(pieces[:24]))
    raise UsageProblem(
        f"There is no token {wanted!r} in the text.", f"There is {listed}{' …' if len(pieces) > 24 else ''}."
    )


def _runs(pieces: Sequence[Piece], wanted: str) -> list[tuple[int, int]]:
    """First and last index of every run of whole tokens that spells the text, white space around it aside."""
    found = []
    for start in range(len(pieces)):
        spelled = ""
        for end in range(start, len(pieces)):
            spelled += pieces[end].completed
            if wanted and spelled.strip() == wanted:
                found.append((start, end))
            if len(spelled.strip()) >= len(wanted):
                break
    return [(start, end) for start, end in found if pieces[start].completed.strip() or start == end]


def _is_word(pieces: Sequence[Piece], start: int, end: int) -> bool:
    """Whether no letter or digit adjoins the run, so that 'at' is not found in 'sat'."""
    before = "" if start == 0 or pieces[start].text[:1].isspace() else pieces[start - 1].text[-1:]
    after = "" if end + 1 == len(pieces) else pieces[end + 1].text[:1]
    return not (before.isalnum() or after.isalnum())
