"""Scoring a model on tokens it was not trained on.

Non-overlapping windows of the context's length; every token is scored but the first of the text, or what its tokenizer
puts before one. So the figure is the one any other program gets from the same weights. Characters and bytes are those
of the tokens that are scored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.corpus import Tokens

_TOKENS_AT_ONCE = {"cuda": 1 << 14}
_TOKENS_AT_ONCE_ELSEWHERE = 2048
_LOGITS_AT_ONCE = 1 << 24
_UNSCORED = -100  # no token


def windows_at_once(device: torch.device, context: int) -> int:
    """How many windows of so many tokens are scored together on a device."""
    return max(1, _TOKENS_AT_ONCE.get(device.type, _TOKENS_AT_ONCE_ELSEWHERE) // context)


@torch.inference_mode()
def evaluate(
    model: Transformer,
    tokens: Tokens,
    *,
    windows: int | None = None,
    context: int | None = None,
    progress: Callable[[int], None] = lambda scored: None,
) -> Score:
    """Scores a text, or `windows` of its windows spread evenly over it. The model's training mode is put back.

    Windows have `context` tokens, the model's when not given.
    `progress` is told, now and then, how many tokens have been scored; what it raises ends the scoring.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    context = min(context or model.config.context, len(tokens) - 1)
    starts = np.arange(0, len(tokens) - context, context)
    rest = (len(tokens) - 1) % context  # the last window, shorter than the others
    if windows is not None and windows < len(starts):
        starts, rest = starts[np.linspace(0, len(starts) - 1, windows).round().astype(int)], 0
    unscored = min(tokens.lead.tokens - 1, context)  # of several tokens before a text all but the first are predicted
    nats, scored = 0.0, -unscored
    per_batch = windows_at_once(device, context)
    batches = [starts[i : i + per_batch] for i in range(0, len(starts), per_batch)]
    try:
        for batch in batches:
            rows = np.stack([tokens.ids[start : start + context + 1] for start in batch.tolist()])
            skipped = unscored if batch[0] == 0 else 0
            nats, scored = nats + _nats(model, rows, device, skipped), scored + rows[:, 1:].size
            progress(scored)
        if rest:
            rows = tokens.ids[len(tokens) - 1 - rest :][None]
            nats, scored = nats + _nats(model, rows, device), scored + rest
    finally:
        model.train(was_training)
    share, lead = scored / tokens.to_score, tokens.lead
    characters, size = tokens.characters - lead.characters, tokens.bytes - lead.bytes
    return Score(nats, scored, max(characters, 1) * share, max(size, 1) * share)


def _nats(
    model: Transformer,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]],
    device: torch.device,
    skipped: int = 0,
) -> float:
    """Minus the summed log-probability of columns 1 on, each given those before it; the first row without `skipped`."""
    ids = torch.from_numpy(rows.astype(np.int64)).to(device)
    hidden, targets = model.hidden(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    targets[:skipped] = _UNSCORED
    at_once = max(_LOGITS_AT_ONCE // model.config.vocab_size, 1)
    pairs = zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True)
    return sum(
        float(F.cross_entropy(model.unembed(some).float(), right, ignore_index=_UNSCORED, reduction="sum"))
        for some, right in pairs
    )
