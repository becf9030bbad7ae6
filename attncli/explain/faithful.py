"""Which view of attention can be believed? Rankings of the sources of a prediction, held to what cutting them does.

The sources of a text's last token, the token itself aside, are ranked by raw weight, by the length of what they
contribute, by rollout, by their direct effect on the logit, and at random. A ranking that knows what matters loses much
when its first k are cut (comprehensiveness) and little when only they are left (sufficiency): DeYoung et al., 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from attncli.errors import BadInput
from attncli.explain.findings import RANKINGS, Faithfulness, Floats, Ranking
from attncli.explain.first_screen import contribution_norms
from attncli.explain.knockout import Cut, Knockout
from attncli.model.attention import Attention, AttentionSteps, Observer
from attncli.model.transformer import Transformer

SIZES = (1, 2, 4, 8)  # k, in tokens
LEAST_TOKENS = SIZES[-1] + 2  # so that something is left beside the first k and the token itself
_DRAWS = 5  # random rankings of a text
_TOKENS_AT_ONCE = 4096  # of all rows of a forward pass


def faithfulness(
    model: Transformer,
    texts: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Faithfulness:
    """Scores every ranking on texts, given as token ids, the model in evaluation mode.

    Raises BadInput for no text, and for one with fewer than LEAST_TOKENS tokens or more than the context.
    """
    if not texts:
        raise BadInput(f"There is no text of at least {LEAST_TOKENS} tokens.", "Give longer ones.")
    for text in texts:
        if not LEAST_TOKENS <= len(text) <= model.config.context:
            limit = f"from {LEAST_TOKENS} to {model.config.context}"
            raise BadInput(f"A text has {len(text)} tokens, and must have {limit}.", "Give texts of that length.")
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
    """Of one text, by ranking: the drops of the log-probability with the first k cut, and with all others cut."""
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
    """Drops of log p, in nats, of the token predicted after ids (T,), each without edges from its last token to some.

    The sources of each cut are positions before the last: a token keeps sight of itself.
    """
    last = len(ids) - 1
    before = _log_probabilities(model, ids[None], Observer())[0]
    target = int(before.argmax())
    at_once = max(_TOKENS_AT_ONCE // len(ids), 1)
    drops: list[float] = []
    for start in range(0, len(cuts), at_once):
        some = [Cut(frozenset((last, source) for source in cut)) for cut in cuts[start : start + at_once]]
        logs = _log_probabilities(model, ids.expand(len(some), -1), Knockout(some))
        drops += (before[target] - logs[:, target]).tolist()
    return np.array(drops, np.float64)


def _log_probabilities(model: Transformer, ids: Tensor, observe: Observer) -> Tensor:
    logits = model.unembed(model.hidden(ids, observe=observe)[:, -1])
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def source_scores(model: Transformer, ids: Tensor) -> dict[Ranking, Tensor]:
    """Every source of the last token of ids (T,), the token itself included, as each view scores it: (T,)."""
    logits = model(ids[None])[0, -1]
    watch = _Watch(logit_direction(model, int(logits.argmax())))
    model.hidden(ids[None], observe=watch)
    return {
        "raw": torch.stack(watch.raw).mean(0),
        "norm": torch.stack(watch.norm).mean(0),
        "rollout": watch.rolled[-1],
        "logit": torch.stack(watch.logit).sum(0),
    }


def logit_direction(model: Transformer, target: int) -> Tensor:
    """What of the residual stream, divided by its scale, makes a token's logit larger than the vocabulary's mean (C,).

    Elhage et al., 2021: the head's row for the token, less the mean row, through the gain of the final norm.
    """
    matrix = model.embedding.weight if model.head is None else model.head.weight
    gain = model.norm.weight
    assert isinstance(gain, Tensor)
    direction = (matrix[target] - matrix.mean(0)) * gain
    return direction - direction.mean() if isinstance(model.norm, nn.LayerNorm) else direction


@dataclass
class _Watch(Observer):
    """Gathers what every view needs, layer by layer, of the last token."""

    direction: Tensor  # (C,)
    raw: list[Tensor] = field(default_factory=list)  # (T,) of each layer
    norm: list[Tensor] = field(default_factory=list)
    logit: list[Tensor] = field(default_factory=list)
    rolled: Tensor = field(default_factory=lambda: torch.empty(0))  # (T, T), of the layers so far

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Takes in one layer."""
        weights = steps.weights[0]  # (H, T, T)
        self.raw.append(weights[:, -1].mean(0))
        _, together = contribution_norms(steps, module, weights.shape[1] - 1)
        self.norm.append(together / together.sum().clamp_min(1e-30))
        self.logit.append(direct_effects(steps, module, self.direction))
        mixed = 0.5 * weights.mean(0) + 0.5 * torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
        self.rolled = mixed @ self.rolled if layer else mixed  # Abnar and Zuidema, 2020


def direct_effects(steps: AttentionSteps, module: Attention, direction: Tensor) -> Tensor:
    """What each source of the last token adds to the stream in a direction (C,), over all heads: (S,)."""
    heads, width = module.heads, module.head_width
    value = steps.value[0].repeat_interleave(heads // module.kv_heads, 0)  # (H, S, D)
    reads = (direction @ module.output.weight).view(heads, width)  # (H, D)
    return (steps.weights[0, :, -1] * (value * reads[:, None]).sum(-1)).sum(0)
