"""Scores each head for known attention patterns, on random tokens that are repeated once (Elhage et al., 2021).

Random tokens carry no meaning, so a head with a high score follows the pattern itself, not the content of a text. This
module defines the patterns. It scores one matrix of weights, or all heads of a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attncli.config import ModelConfig
from attncli.errors import BadInput, UsageProblem
from attncli.explain.defaults import HEAD_TEXTS, HEAD_TOKENS
from attncli.explain.question import Floats
from attncli.explain.ranking import ranked
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer

HeadKind = Literal["previous", "duplicate", "induction", "sink", "next", "itself", "end", "output", "input"]
HEAD_KINDS: tuple[HeadKind, ...] = ("previous", "duplicate", "induction", "sink")  # of causal self-attention
_IDLE: tuple[HeadKind, ...] = ("sink", "end", "itself")  # kinds of heads that move no information between words
_SHORTEST = 2
_STANDS_OUT = 0.05  # the least (score - chance) / (1 - chance) of a head worth a look


@dataclass(frozen=True)
class HeadScores:
    """The share of attention that every head puts on each pattern, on random tokens that are repeated once.

    Scores have the shape (kinds, layers, heads), with the kinds in the order of `kinds`. A score is the mean weight
    over the rows in which the pattern is possible. If there is no such row, as in a layer whose window is too short,
    the score is NaN.
    """

    scores: Floats
    chances: Floats  # (kinds, layers): the scores of uniform attention under the mask and the window
    length: int  # random tokens, without the start token and the repetition
    sequences: int  # number of sequences that the scores are averaged over
    seed: int
    errors: Floats | None = None  # standard errors of the scores, over the sequences; None for one sequence
    kinds: tuple[HeadKind, ...] = HEAD_KINDS

    @property
    def layers(self) -> int:
        """The number of layers of the model."""
        return int(self.scores.shape[1])

    @property
    def heads(self) -> int:
        """The number of heads of a layer."""
        return int(self.scores.shape[2])

    def score(self, kind: HeadKind, layer: int, head: int) -> float:
        """Returns one head's score; NaN for a head without a score."""
        return float(self.scores[self.kinds.index(kind), layer, head])

    def error(self, kind: HeadKind, layer: int, head: int) -> float | None:
        """Returns the standard error of one head's score; None if it is not known."""
        error = math.nan if self.errors is None else float(self.errors[self.kinds.index(kind), layer, head])
        return error if math.isfinite(error) else None

    def chance(self, kind: HeadKind, layer: int) -> float:
        """Returns the score of uniform attention in a layer; NaN if the pattern is not possible in that layer."""
        return float(self.chances[self.kinds.index(kind), layer])

    def table(self, kind: HeadKind) -> list[list[float | None]]:
        """Returns every head's score, by layer and head; None for a head without a score."""
        rows = self.scores[self.kinds.index(kind)].tolist()
        return [[value if math.isfinite(value) else None for value in row] for row in rows]

    def ranked(self, kind: HeadKind) -> list[tuple[int, int]]:
        """Returns the (layer, head) of all heads that have a score, the highest first."""
        scores = self.scores[self.kinds.index(kind)]
        scored = np.flatnonzero(np.isfinite(scores)).tolist()
        return [divmod(at, self.heads) for at in ranked(scores.ravel(), scored)]

    def best(self, kind: HeadKind) -> tuple[int, int] | None:
        """Returns the (layer, head) with the highest score; None if no head has a score."""
        return next(iter(self.ranked(kind)), None)

    def worth_a_look(self) -> tuple[HeadKind, int, int] | None:
        """Returns the kind, layer and head with the greatest (score - chance) / (1 - chance).

        Returns None if no head stands out. Heads that attend mostly to an end of the text or to the token itself are
        left out, because such a head is usually idle.
        """
        candidates = [(self.margin(kind, *best), (kind, *best)) for kind in self.kinds if (best := self.best(kind))]
        above, head = max((one for one in candidates if one[1][0] not in _IDLE), default=(0.0, None))
        return head if above > _STANDS_OUT else None

    def margin(self, kind: HeadKind, layer: int, head: int) -> float:
        """Returns (score - chance) / (1 - chance) of one head."""
        score, chance = self.score(kind, layer, head), self.chance(kind, layer)
        return (score - chance) / max(1 - chance, 1e-9)


def patterns(ids: Tensor, window: int | None = None) -> Tensor:
    """Returns the masks (kinds, T, T) of the patterns for ids (T,): the positions that a head of each kind attends to.

    The masks are in the order of HEAD_KINDS: the previous token; the earlier occurrences of the same token; the tokens
    after these occurrences; the first token. They exclude positions outside the causal mask and the window.
    """
    at = torch.arange(len(ids), device=ids.device)
    earlier = (ids[:, None] == ids[None, :]).tril(-1)
    before = at[None, :] == at[:, None] - 1
    after_earlier = F.pad(earlier, (1, 0))[:, :-1]
    first = (at[None, :] == 0) & (at[:, None] > 0)
    return torch.stack([before, earlier, after_earlier, first]) & causal_mask(len(ids), len(ids), window, ids.device)


def score(weights: Tensor, ids: Tensor, window: int | None = None) -> Tensor:
    """Returns the mean weight on each pattern of HEAD_KINDS: weights (..., T, T), ids (T,) -> scores (kinds, ...)."""
    return mean_weight(weights, patterns(ids, window))


def mean_weight(weights: Tensor, masks: Tensor) -> Tensor:
    """Returns the mean weight on each pattern: weights (..., T, S), masks (kinds, T, S) -> scores (kinds, ...).

    The mean is over the rows in which the pattern is possible. If there is no such row, the score is NaN.
    """
    on_pattern = torch.stack([(weights * mask).sum(-1) for mask in masks], -2)  # (..., kinds, T)
    eligible = masks.any(-1)
    return ((on_pattern * eligible).sum(-1) / eligible.sum(-1)).movedim(-1, 0)


def chance(ids: Tensor, window: int | None = None) -> Tensor:
    """Returns the scores of uniform attention under the mask and the window: ids (T,) -> (kinds,)."""
    allowed = causal_mask(len(ids), len(ids), window, ids.device).double()
    return score(allowed / allowed.sum(-1, keepdim=True), ids, window)


def repeats(start: int, length: int, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Returns the start token, then `length` distinct random tokens, then these tokens repeated: (2 x length + 1,)."""
    drawn = torch.randperm(vocabulary - 1, generator=generator)[:length]
    drawn += drawn >= start  # skips the id of the start token
    return torch.cat([torch.tensor([start]), drawn, drawn])


def fitted(config: ModelConfig, vocabulary: int) -> int:
    """Returns how many random tokens, repeated once, fit the context and every window: at most HEAD_TOKENS.

    Raises BadInput for a model whose context is too short.
    """
    most = min(HEAD_TOKENS, (config.context - 1) // 2, vocabulary - 1)
    if most < _SHORTEST:
        raise BadInput(f"The model reads {config.context} tokens at once: too few to repeat anything.")
    windows = [window for layer in range(config.layers) if (window := config.window_of(layer)) is not None]
    return max(min([most, *(window - 1 for window in windows)]), _SHORTEST)


def head_scores(
    model: Transformer,
    start: int,
    vocabulary: int,
    *,
    length: int | None = None,
    sequences: int = HEAD_TEXTS,
    seed: int = 0,
) -> HeadScores:
    """Scores every head of a decoder alone in evaluation mode, averaged over sequences drawn from the seed.

    A sequence is the token `start`, then `length` random tokens with ids below `vocabulary`, then these tokens
    repeated. If `length` is None, the largest length that fits is used.

    Raises:
        UsageProblem: for a length that does not fit, or no sequences.
        BadInput: for a model whose context is too short.
    """
    length = _checked_length(model.config, vocabulary, length)
    refuse_no_sequences(sequences)
    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.weight.device
    rows = [repeats(start, length, vocabulary, generator).to(device) for _ in range(sequences)]
    with torch.inference_mode():
        scored = torch.stack([_scored(model, ids) for ids in rows])  # (sequences, kinds, L, H)
    layers = range(model.config.layers)
    config = model.config
    chances = torch.stack([chance(rows[0].cpu(), config.window_of(layer)) for layer in layers], 1)
    return averaged(scored, chances, length, seed, HEAD_KINDS)


def averaged(scored: Tensor, chances: Tensor, length: int, seed: int, kinds: tuple[HeadKind, ...]) -> HeadScores:
    """Returns the mean of the scores (sequences, kinds, L, H), with their standard errors."""
    sequences = len(scored)
    errors = None if sequences == 1 else (scored.double().std(0) / sequences**0.5).cpu().numpy()
    return HeadScores(scored.mean(0).cpu().double().numpy(), chances.numpy(), length, sequences, seed, errors, kinds)


def refuse_no_sequences(sequences: int) -> None:
    """Raises UsageProblem for fewer than one sequence."""
    if sequences < 1:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('repeats')} {sequences} is not at least 1.",
                f"{HEAD_TEXTS} are enough for most purposes.",
            )
        )


def _checked_length(config: ModelConfig, vocabulary: int, length: int | None) -> int:
    """Returns `length`, by default the largest that fits. Raises UsageProblem for a length that does not fit."""
    most = min((config.context - 1) // 2, vocabulary - 1)
    length = fitted(config, vocabulary) if length is None else length
    if not _SHORTEST <= length <= most:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('length')} {length:,} is not from {_SHORTEST} to {most:,}.",
                f"A start token and twice this length must fit {config.context:,} tokens.",
            )
        )
    return length


def _scored(model: Transformer, ids: Tensor) -> Tensor:
    """Returns the scores (kinds, L, H) of one sequence."""
    watch = _HeadScorer(ids)
    model.hidden(ids[None], observe=watch)
    return torch.stack(watch.layers, 1)


@dataclass
class _HeadScorer(Observer):
    """Scores the heads of each layer, one layer after another."""

    ids: Tensor
    layers: list[Tensor] = field(default_factory=list)  # (kinds, H)

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Scores the heads of a layer."""
        wide = torch.promote_types(steps.weights.dtype, torch.float32)
        self.layers.append(score(steps.weights[0].to(wide), self.ids, module.window))
