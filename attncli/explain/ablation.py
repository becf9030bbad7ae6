"""Ablates heads or edges of attention, and measures how the prediction of the next token changes.

A head is ablated by replacing its output before the output matrix. An edge is cut by setting its score to -inf before
the softmax. Each row of a batch has its own ablation, so all heads take only a few forward passes. The weights of the
model are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from attncli.errors import UsageProblem
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.locate import find_span
from attncli.explain.next_token import NextToken, highest, log_probabilities
from attncli.explain.question import refuse_length, refuse_missing
from attncli.explain.reading import TOKENS_AT_ONCE
from attncli.model.stack import Block
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

_NEXT = 5

Head = tuple[int, int]  # layer, head
Edge = tuple[int, int]  # query, source
Replacement = Literal["zero", "mean"]


@dataclass(frozen=True)
class Effect:
    """The prediction of the next token, with some heads or edges ablated."""

    heads: tuple[Head, ...]
    edges: tuple[Edge, ...]
    log_probability: float  # in nats, of the token that the unablated model predicts
    next_tokens: tuple[NextToken, ...]  # the most probable tokens under the ablation

    @property
    def probability(self) -> float:
        """The probability of the token that the unablated model predicts."""
        return math.exp(self.log_probability)


@dataclass(frozen=True)
class Ablation:
    """The effects of ablating heads or edges on one prediction."""

    pieces: tuple[Piece, ...]
    layers: int
    heads: int
    token: int  # the position whose next token is predicted
    replacement: Replacement  # of a head's output: zeros, or its mean over the positions up to `token`
    before: Effect  # with nothing ablated
    effects: tuple[Effect, ...]

    @property
    def predicted(self) -> NextToken:
        """The most probable token of the unablated model. Drops are measured for this token."""
        return self.before.next_tokens[0]

    def drop(self, effect: Effect) -> float:
        """Returns the drop of the predicted token's log-probability under an ablation, in nats. A rise is negative."""
        return self.before.log_probability - effect.log_probability


@dataclass(frozen=True)
class Without:
    """The heads and edges that are ablated in one row of a batch.

    A head is given as (layer, head), and an edge as (query, source). An edge is cut in all heads.
    """

    heads: tuple[Head, ...] = ()
    edges: tuple[Edge, ...] = ()


def ablate(
    model: Transformer,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    removed: Sequence[Without] | None = None,
    *,
    token: int | None = None,
    replacement: Replacement = "zero",
) -> Ablation:
    """Measures how much each ablation in `removed` lowers the log-probability of the most probable next token.

    `token` is the position whose next token is predicted, by default the last. If `removed` is None, every head is
    ablated in turn. `replacement` is what replaces a head's output: zeros, or its mean over the positions up to
    `token`. The model must be in evaluation mode.

    Raises:
        BadInput: for a text with no tokens, or with more tokens than the context.
        UsageProblem: for a token, a head or an edge that does not exist.
    """
    config = model.config
    at = _checked_token(pieces, config.context, token)
    if removed is None:
        removed = [Without(heads=((layer, head),)) for layer in range(config.layers) for head in range(config.heads)]
    for without in removed:
        _refuse_missing(without, config.layers, config.heads, len(pieces), at)
    text = _Text(
        model, tokenizer, torch.tensor([piece.id for piece in pieces], device=model.embedding.weight.device), at
    )
    with torch.inference_mode():
        before, means = text.whole()
        kept = means if replacement == "mean" else None
        effects = tuple(text.effects(removed, int(before.argmax()), kept))
    whole = Effect((), (), float(before.max()), highest(before, tokenizer, _NEXT))
    return Ablation(tuple(pieces), config.layers, config.heads, at, replacement, whole, effects)


@dataclass(frozen=True)
class _Text:
    """The ids (T,) of a text, and the position whose prediction is measured."""

    model: Transformer
    tokenizer: Tokenizer
    ids: Tensor
    at: int

    def whole(self) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the log-probabilities (known,) of the next token in the unablated model, and the heads' mean outputs.

        The mean outputs, layer -> (H, D), are means over the positions up to `at`.
        """
        means: dict[int, Tensor] = {}
        with _hooked(self.model, _keeping_means(means, self.model.config.heads, self.at)):
            return log_probabilities(self.model, self.ids[None], self.at, self.tokenizer.vocab_size)[0], means

    def effects(self, removed: Sequence[Without], target: int, means: dict[int, Tensor] | None) -> Iterator[Effect]:
        """Yields the effect of each ablation on the target's log-probability. Ablations are computed in batches."""
        at_once = max(TOKENS_AT_ONCE // len(self.ids), 1)
        for start in range(0, len(removed), at_once):
            batch = removed[start : start + at_once]
            for without, logs in zip(batch, self._log_probabilities(batch, means), strict=True):
                yield Effect(without.heads, without.edges, float(logs[target]), highest(logs, self.tokenizer, _NEXT))

    def _log_probabilities(self, removed: Sequence[Without], means: dict[int, Tensor] | None) -> Tensor:
        """Returns the log-probabilities (rows, known) of the next token. Row i is computed under the i-th ablation."""
        heads: dict[int, list[tuple[int, int]]] = {}  # layer -> (row, head)
        for row, without in enumerate(removed):
            for layer, head in without.heads:
                heads.setdefault(layer, []).append((row, head))
        cuts = [Cut(frozenset(without.edges)) for without in removed]
        observe = Knockout(cuts) if any(without.edges for without in removed) else None
        rows = self.ids.expand(len(removed), -1)
        with _hooked(self.model, _replacing(heads, means, self.model.config.heads)):
            return log_probabilities(self.model, rows, self.at, self.tokenizer.vocab_size, observe)


def _checked_token(pieces: Sequence[Piece], context: int, token: int | None) -> int:
    """Returns the position whose prediction is measured, by default the last. Raises errors as `ablate` does."""
    refuse_length(pieces, context)
    at = len(pieces) - 1 if token is None else token
    refuse_missing("token", at, len(pieces))
    return at


def edges_between(pieces: Sequence[Piece], query: str, source: str) -> tuple[Edge, ...]:
    """Returns the edges from each token of the query word to each token of the source word, without masked edges.

    A word is named by its text or its index. Raises UsageProblem for a word that does not occur in the text, or occurs
    more than once.
    """
    looking, seen = (range(first, last + 1) for first, last in (find_span(pieces, query), find_span(pieces, source)))
    pairs = [(at, to) for at in looking for to in seen]
    # If the mask forbids all edges, all are returned, and `ablate` raises an error.
    return tuple((at, to) for at, to in pairs if to <= at and at > 0) or tuple(pairs)


Hook = Callable[[int, Tensor], Tensor]  # layer, outputs of all heads (B, T, H x D) -> the outputs to use


@contextmanager
def _hooked(model: Transformer, hook: Hook) -> Iterator[None]:
    """Applies a hook in every layer to the outputs of all heads, before the output matrix."""
    with ExitStack() as hooks:
        for layer, block in enumerate(model.blocks):

            def before(module: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
                return (hook(layer, inputs[0]),)

            output = cast(Block, block).attention.output
            hooks.enter_context(output.register_forward_pre_hook(before))
        yield


def _keeping_means(means: dict[int, Tensor], heads: int, last: int) -> Hook:
    """Returns a hook that stores the mean outputs of the heads in `means`: layer -> (H, D).

    The mean is over the positions up to `last`.
    """

    def keep(layer: int, mixed: Tensor) -> Tensor:
        means[layer] = mixed[0, : last + 1].view(last + 1, heads, -1).mean(0)
        return mixed

    return keep


def _replacing(removed: dict[int, list[tuple[int, int]]], means: dict[int, Tensor] | None, heads: int) -> Hook:
    """Returns a hook that replaces the outputs of heads with zeros or, if `means` is given, with means.

    `removed` maps a layer to the outputs that are replaced in this layer, as (row, head) pairs.
    """

    def replace(layer: int, mixed: Tensor) -> Tensor:
        if layer not in removed:
            return mixed
        parts = mixed.view(*mixed.shape[:2], heads, -1).clone()  # (B, T, H, D)
        rows, which = (list(column) for column in zip(*removed[layer], strict=True))
        parts[rows, :, which] = 0 if means is None else means[layer][which][:, None].to(parts.dtype)
        return parts.flatten(2)

    return replace


def _refuse_missing(without: Without, layers: int, heads: int, tokens: int, at: int) -> None:
    """Raises UsageProblem for a head or an edge that does not exist, or that cannot affect the prediction at `at`."""
    for layer, head in without.heads:
        refuse_missing("layer", layer, layers)
        refuse_missing("head", head, heads)
    for query, source in without.edges:
        _refuse_edge(query, source, tokens, at)


def _refuse_edge(query: int, source: int, tokens: int, at: int) -> None:
    """Raises UsageProblem for an edge that does not exist, or that cannot affect the prediction at `at`."""
    refuse_missing("token", query, tokens)
    refuse_missing("token", source, tokens)
    if source > query:
        raise UsageProblem(
            f"Token {query} cannot look at {source}, which comes later.", f"The opposite edge is {source}:{query}."
        )
    if query > at:
        message = f"Token {query} comes after token {at}, whose prediction is measured."
        raise UsageProblem.naming(lambda name: (message, f"Leave {name('token')} out."))
    if query == 0:
        raise UsageProblem("Token 0 can look at nothing but itself.", "Cut an edge of a later token, such as 2:0.")
