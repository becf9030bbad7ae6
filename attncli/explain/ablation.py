"""What is a head, or an edge of attention, worth to a prediction? The model without it, beside the model as it is.

A head is taken out by replacing what it hands to the output matrix; an edge by a score of -inf before the softmax. The
rows of a batch each do without something else, so that all heads take a few forward passes. The network is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncli.errors import BadInput, UsageProblem
from attncli.explain.findings import Ablation, Edge, Effect, Head, NextToken, Replacement
from attncli.explain.first_screen import find_run
from attncli.explain.knockout import Cut, Knockout
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

_TOKENS_AT_ONCE = 4096  # of all rows of a forward pass
_NEXT = 5


@dataclass(frozen=True)
class Without:
    """What one row does without: heads as (layer, head), and edges as (query, source) in all heads."""

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
    """What the most probable next token after `token` (None: the last) loses without each of `removed`.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        pieces: the text, as its tokens.
        removed: what to do without, each by itself; every head, where not given.
        token: whose prediction it is.
        replacement: what stands for a head: zeros, or the mean of what it gives over the positions of the text.

    Raises:
        BadInput: for no tokens, or more than the context.
        UsageProblem: for a token, a head or an edge that is not there.
    """
    config = model.config
    if not pieces or len(pieces) > config.context:
        many = "no tokens" if not pieces else f"{len(pieces)} tokens, and the model reads at most {config.context}"
        raise BadInput(f"The text has {many}.", "Give a sentence.")
    at = len(pieces) - 1 if token is None else token
    _check("token", at, len(pieces))
    if removed is None:
        removed = [Without(heads=((layer, head),)) for layer in range(config.layers) for head in range(config.heads)]
    for one in removed:
        _check_removed(one, config.layers, config.heads, len(pieces), at)
    ids = torch.tensor([piece.id for piece in pieces], device=model.embedding.weight.device)
    with torch.inference_mode():
        means: dict[int, Tensor] = {}
        with _hooked(model, _keeping_means(means, config.heads, at)):
            before = _log_probabilities(model, ids[None], at, tokenizer.vocab_size)[0]
        target = int(before.argmax())
        effects: list[Effect] = []
        at_once = max(_TOKENS_AT_ONCE // len(pieces), 1)
        for start in range(0, len(removed), at_once):
            some = removed[start : start + at_once]
            logs = _without(model, ids, at, tokenizer.vocab_size, some, means if replacement == "mean" else None)
            effects += [
                Effect(one.heads, one.edges, float(row[target]), _most_probable(row, tokenizer))
                for one, row in zip(some, logs, strict=True)
            ]
    return Ablation(
        pieces=tuple(pieces),
        layers=config.layers,
        heads=config.heads,
        token=at,
        replacement=replacement,
        before=Effect((), (), float(before[target]), _most_probable(before, tokenizer)),
        effects=tuple(effects),
    )


def edges_between(pieces: Sequence[Piece], query: str, source: str) -> tuple[Edge, ...]:
    """The edges from every token of one word to every token of another that it may see, each by index or word.

    Raises UsageProblem for a word that is not there, or comes several times.
    """
    looking, seen = (range(first, last + 1) for first, last in (find_run(pieces, query), find_run(pieces, source)))
    pairs = [(at, to) for at in looking for to in seen]
    # Within a word some pairs point ahead; where all do, `ablate` says what is wrong.
    return tuple((at, to) for at, to in pairs if to <= at and at > 0) or tuple(pairs)


def _without(
    model: Transformer, ids: Tensor, at: int, known: int, removed: Sequence[Without], means: dict[int, Tensor] | None
) -> Tensor:
    """Log-probabilities (rows, known) after the token, each row without something else."""
    rows = ids.expand(len(removed), -1)
    heads: dict[int, list[tuple[int, int]]] = {}  # layer -> (row, head)
    for row, one in enumerate(removed):
        for layer, head in one.heads:
            heads.setdefault(layer, []).append((row, head))
    cuts = [Cut(frozenset(one.edges)) for one in removed]
    observe = Knockout(cuts) if any(one.edges for one in removed) else None
    with _hooked(model, _replacing(heads, means, model.config.heads)):
        return _log_probabilities(model, rows, at, known, observe)


def _log_probabilities(model: Transformer, ids: Tensor, at: int, known: int, observe: Knockout | None = None) -> Tensor:
    """ids (B, T) -> log-probabilities of the known ids after one position (B, known), in float32 or wider.

    Ids that the tokenizer does not know only fill a matrix, and are never drawn.
    """
    logits = model.unembed(model.hidden(ids, observe=observe)[:, at])[:, :known]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


Hook = Callable[[int, Tensor], Tensor]  # layer, what all heads hand to the output matrix (B, T, H x D) -> the same


@contextmanager
def _hooked(model: Transformer, hook: Hook) -> Iterator[None]:
    """Lets a function see and change what goes into every layer's output matrix."""
    with ExitStack() as removed:
        for layer, block in enumerate(model.blocks):

            def before(module: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
                return (hook(layer, inputs[0]),)

            removed.enter_context(block.attention.output.register_forward_pre_hook(before))  # type: ignore[union-attr]
        yield


def _keeping_means(means: dict[int, Tensor], heads: int, last: int) -> Hook:
    """Keeps what every head gives on average over the positions up to the last that counts: (H, D) by layer."""

    def keep(layer: int, mixed: Tensor) -> Tensor:
        means[layer] = mixed[0, : last + 1].view(last + 1, heads, -1).mean(0)
        return mixed

    return keep


def _replacing(removed: dict[int, list[tuple[int, int]]], means: dict[int, Tensor] | None, heads: int) -> Hook:
    """Puts zeros, or the means, in the place of some rows' heads."""

    def replace(layer: int, mixed: Tensor) -> Tensor:
        if layer not in removed:
            return mixed
        parts = mixed.view(*mixed.shape[:2], heads, -1).clone()  # (B, T, H, D)
        rows, which = (list(column) for column in zip(*removed[layer], strict=True))
        parts[rows, :, which] = 0 if means is None else means[layer][which][:, None].to(parts.dtype)
        return parts.flatten(2)

    return replace


def _check_removed(one: Without, layers: int, heads: int, tokens: int, at: int) -> None:
    for layer, head in one.heads:
        _check("layer", layer, layers)
        _check("head", head, heads)
    for query, source in one.edges:
        _check("token", query, tokens)
        _check("token", source, tokens)
        if source > query:
            raise UsageProblem(
                f"Token {query} cannot look at {source}, which comes later.",
                f"The edge the other way is {source}:{query}.",
            )
        if query > at:
            raise UsageProblem(f"Token {query} comes after {at}, whose prediction it is.", "Leave --token out.")
        if query == 0:
            raise UsageProblem("Token 0 can look at nothing but itself.", "Cut an edge of a later token, such as 2:0.")


def _check(what: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise UsageProblem(f"There is no {what} {value}.", f"There are {count}: 0 to {count - 1}.")


def _most_probable(logs: Tensor, tokenizer: Tokenizer) -> tuple[NextToken, ...]:
    values, ids = logs.topk(min(_NEXT, len(logs)))
    named = [tokenizer.name(i) if i < tokenizer.vocab_size else "" for i in ids.tolist()]
    return tuple(
        NextToken(i, text, math.exp(value)) for i, text, value in zip(ids.tolist(), named, values.tolist(), strict=True)
    )
