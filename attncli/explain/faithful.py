"""Tests how faithful each ranking of sources is: whether cutting its first sources changes the prediction.

The sources are the tokens before the last token of a text. They are ranked by raw weight, by the norm of their
contribution, by rollout, by their direct effect on the logit, and at random. If a ranking is faithful, the
log-probability of the prediction drops much when the first k sources are cut (comprehensiveness), and little when all
other sources are cut (sufficiency; DeYoung et al., 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attncli.errors import BadInput
from attncli.explain.contributions import contribution_norms, direct_effects, normalized, output_rows, through_norm
from attncli.explain.defaults import LEAST_TEXTS
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.next_token import log_probabilities
from attncli.explain.question import Floats
from attncli.explain.reading import TOKENS_AT_ONCE
from attncli.explain.rollout import rolled
from attncli.explain.verdict import RANKINGS, Ranking, Verdict
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer

SIZES = (1, 2, 4, 8)  # k, in tokens
LEAST_TOKENS = SIZES[-1] + 2  # the largest k, the token itself, and at least one more source
_DRAWS = 5  # random rankings per text, averaged


@dataclass(frozen=True)
class Faithfulness:
    """The drops of a prediction when the first k sources of a ranking are cut, and when all other sources are cut.

    Both arrays have the shape (texts, rankings, sizes). They contain drops of the predicted token's log-probability, in
    nats. The rankings are in the order of RANKINGS; the drops of 'random' are means over several random rankings.
    """

    sizes: tuple[int, ...]  # k, in tokens
    comprehensiveness: Floats  # the first k sources cut: a larger drop is better
    sufficiency: Floats  # all other sources cut: a smaller drop is better
    mean_tokens: float  # tokens per text
    seed: int

    @property
    def texts(self) -> int:
        """The number of texts that were measured."""
        return len(self.comprehensiveness)

    @property
    def verdict(self) -> Verdict:
        """The significance tests: which rankings are better than random, and which are better than other rankings."""
        return Verdict(self.comprehensiveness, self.sufficiency)


def faithfulness(
    model: Transformer,
    texts: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Faithfulness:
    """Returns the drops of every ranking on texts, given as token ids, with a model in evaluation mode.

    Raises BadInput for fewer than LEAST_TEXTS texts, and for a text that has fewer than LEAST_TOKENS tokens or more
    tokens than the context.
    """
    for text in texts:
        if not LEAST_TOKENS <= len(text) <= model.config.context:
            limit = f"from {LEAST_TOKENS} to {model.config.context}"
            raise BadInput(f"A text has {len(text)} tokens, and must have {limit}.", "Give texts of that length.")
    if len(texts) < LEAST_TEXTS:
        message = f"{LEAST_TEXTS} texts of at least {LEAST_TOKENS} tokens are needed; the number given is {len(texts)}."
        raise BadInput.naming(
            lambda name: (
                message,
                f"Give more or longer texts, or a file and {name('limit')} of at least {LEAST_TEXTS}.",
            )
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for done, text in enumerate(texts, 1):
        ids = torch.tensor(text, device=model.embedding.weight.device)
        with torch.inference_mode():
            rows.append(_scored(model, ids, generator))
        progress(done)
    drops = np.stack(rows)  # (texts, rankings, 2, sizes)
    return Faithfulness(SIZES, drops[:, :, 0], drops[:, :, 1], sum(map(len, texts)) / len(texts), seed)


def _scored(model: Transformer, ids: Tensor, generator: torch.Generator) -> Floats:
    """Returns the drops (rankings, 2, sizes) of one text.

    On the second axis, index 0 is the drop with the first k sources cut, index 1 the drop with all other sources cut.
    """
    sources = len(ids) - 1
    scores = source_scores(model, ids)
    orders = [scores[ranking][:sources].argsort(descending=True, stable=True).tolist() for ranking in RANKINGS[:-1]]
    orders += [torch.randperm(sources, generator=generator).tolist() for _ in range(_DRAWS)]
    kept = [order[size:] for order in orders for size in SIZES]
    cuts = [order[:size] for order in orders for size in SIZES]
    drops = drops_without(model, ids, [*cuts, *kept]).reshape(2, len(orders), len(SIZES))
    views, draws = drops[:, : len(RANKINGS) - 1], drops[:, len(RANKINGS) - 1 :].mean(1, keepdims=True)
    return np.concatenate([views, draws], 1).transpose(1, 0, 2)


def drops_without(model: Transformer, ids: Tensor, cuts: Sequence[Sequence[int]]) -> Floats:
    """Returns the drop of the predicted token's log-probability for each cut, in nats.

    A cut lists the positions that the last token of `ids` (T,) can no longer attend to. A cut does not contain the last
    position, because a token always attends to itself.
    """
    last = len(ids) - 1
    before = log_probabilities(model, model.hidden(ids[None], observe=Observer())[:, last])[0]
    target = int(before.argmax())
    at_once = max(TOKENS_AT_ONCE // len(ids), 1)
    drops: list[float] = []
    for start in range(0, len(cuts), at_once):
        batch = [Cut(frozenset((last, source) for source in cut)) for cut in cuts[start : start + at_once]]
        hidden = model.hidden(ids.expand(len(batch), -1), observe=Knockout(batch))
        logs = log_probabilities(model, hidden[:, last])
        drops += (before[target] - logs[:, target]).tolist()
    return np.array(drops, np.float64)


def source_scores(model: Transformer, ids: Tensor) -> dict[Ranking, Tensor]:
    """Returns, for each ranking, the scores (T,) of the tokens of `ids` (T,) as sources of the last token."""
    logits = model(ids[None])[0, -1]
    watch = _SourceScorer(logit_direction(model, int(logits.argmax())))
    model.hidden(ids[None], observe=watch)
    assert watch.rolled is not None
    return {
        "raw": torch.stack(watch.raw).mean(0),
        "norm": torch.stack(watch.norm).mean(0),
        "rollout": watch.rolled[-1],
        "logit": torch.stack(watch.logit).sum(0),
    }


def logit_direction(model: Transformer, target: int) -> Tensor:
    """Returns the direction (C,) in the residual stream that raises the target's logit above the vocabulary's mean.

    The direction is the target's row of the output head minus the mean row, mapped to the input of the final norm
    (Elhage et al., 2021).
    """
    matrix = output_rows(model)
    return through_norm(model.norm, matrix[target] - matrix.mean(0))


@dataclass
class _SourceScorer(Observer):
    """Scores the sources of the last token for each ranking, layer by layer."""

    direction: Tensor  # (C,)
    raw: list[Tensor] = field(default_factory=list)  # (T,) of each layer
    norm: list[Tensor] = field(default_factory=list)
    logit: list[Tensor] = field(default_factory=list)
    rolled: Tensor | None = None  # (T, T), the rollout of the layers observed so far

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Scores the sources in one layer."""
        weights = steps.weights[0]  # (H, T, T)
        self.raw.append(weights[:, -1].mean(0))
        _, together = contribution_norms(steps, module, weights.shape[1] - 1)
        self.norm.append(normalized(together))
        self.logit.append(direct_effects(steps, module, self.direction))
        self.rolled = rolled(self.rolled, weights.mean(0))
