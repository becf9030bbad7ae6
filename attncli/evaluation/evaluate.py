"""Scores a model on a text.

The text is split into windows that do not overlap and are as long as the model's context. Each token is predicted from
the earlier tokens of its window. The first token of the text is not scored, nor are tokens that the tokenizer adds
before a text. Another program that uses this method computes the same score from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from attncli.checkpoint.load import LoadedModel
from attncli.errors import BadInput
from attncli.evaluation.loss import UNSCORED, losses, refuse_not_finite
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokens import Tokens

_TOKENS_AT_ONCE = {"cuda": 1 << 14}
_TOKENS_AT_ONCE_ELSEWHERE = 2048


def windows_at_once(device: torch.device, context: int) -> int:
    """Returns how many windows of `context` tokens one batch contains on a device."""
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
    """Returns the score of a model on a text.

    Windows have `context` tokens, by default the model's context. If `windows` is given, only this many windows are
    scored, spread evenly over the text. After each batch, `progress` is called with the number of tokens scored so far.
    An exception in `progress` ends the scoring. In every case, the model's training mode is restored.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    context = min(context or model.config.context, len(tokens) - 1)
    starts = np.arange(0, len(tokens) - context, context)
    rest = (len(tokens) - 1) % context  # tokens in the last, shorter window
    if windows is not None and windows < len(starts):
        starts, rest = starts[np.linspace(0, len(starts) - 1, windows).round().astype(int)], 0
    unscored = min(tokens.lead.tokens - 1, context)  # targets that the tokenizer added before the text
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


def opened_to_score(tokens: Tokens, tokenizer: Tokenizer) -> Tokens:
    """Returns the tokens of a text with the tokens before them that the tokenizer adds before a text.

    Raises BadInput for a text with no token to score.
    """
    tokens = tokens.opened(tokenizer.opening)
    if tokens.to_score < 1:
        raise BadInput("The text has no token to score: its first token is not scored.", "Give a longer text.")
    return tokens


def score_text(loaded: LoadedModel, tokens: Tokens, progress: Callable[[int], None] = lambda scored: None) -> Score:
    """Scores a model on a whole text, given as the tokens that `opened_to_score` returns.

    Raises BadCheckpoint for a model whose probabilities are not finite.
    """
    score = evaluate(loaded.model, tokens, progress=progress)
    refuse_not_finite(loaded, score)
    return score


def _nats(
    model: Transformer,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]],
    device: torch.device,
    skipped: int = 0,
) -> float:
    """Returns the summed negative log-likelihood of ids (B, T + 1), in nats.

    Column 0 is not scored, and the first `skipped` targets of row 0 are not scored either.
    """
    ids = torch.from_numpy(rows.astype(np.int64)).to(device)
    hidden, targets = model.hidden(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    targets[:skipped] = UNSCORED
    return sum(map(float, losses(model, hidden, targets)))
