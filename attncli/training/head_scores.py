"""Scores the attention heads of a run at each evaluation, always on the same few texts of random tokens."""

from __future__ import annotations

from collections.abc import Callable

from attncli.explain.heads import HEAD_KINDS, fitted, head_scores
from attncli.model.transformer import Transformer
from attncli.training import recipe
from attncli.training.reports import BestHead, Plan

Scores = dict[str, list[list[float | None]]]  # by kind of head, then layer, then head
HeadScorer = Callable[[Transformer], tuple[tuple[BestHead, ...], Scores]]


def head_scorer(plan: Plan, vocab_size: int, start_of_text: int) -> HeadScorer:
    """Returns a function that scores the heads of a model, and returns the best head of each kind and all scores."""
    length = min(fitted(plan.model, vocab_size), recipe.HEAD_SCORE_TOKENS)

    def score(model: Transformer) -> tuple[tuple[BestHead, ...], Scores]:
        found = head_scores(
            model, start_of_text, vocab_size, length=length, sequences=recipe.HEAD_SCORE_TEXTS, seed=plan.seed
        )
        best = [(kind, at) for kind in HEAD_KINDS if (at := found.best(kind)) is not None]
        scores: Scores = {kind: found.table(kind) for kind in HEAD_KINDS}
        return tuple(BestHead(k, *at, found.score(k, *at), found.chance(k, at[0])) for k, at in best), scores

    return score
