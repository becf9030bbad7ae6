"""Scores a model that translates: its loss on each target token, given the source and the earlier target tokens.

The end of the target is a token too. There is no label smoothing and no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attncli.checkpoint.load import LoadedModel
from attncli.evaluation.loss import losses, refuse_not_finite
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.pair_batch import PairBatch, PairBatches
from attncli.text.pair_tokens import PairTokens

_TOKENS_AT_ONCE = {"cuda": 1 << 15}  # padded tokens of both sides
_TOKENS_AT_ONCE_ELSEWHERE = 4096


def pair_tensors(batch: PairBatch, device: torch.device | str) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Returns the arguments of `Transformer.translation_loss`: source ids, source mask, inputs and labels."""

    def moved(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    mask = None if batch.source_mask is None else moved(batch.source_mask)
    return moved(batch.source), mask, moved(batch.inputs), moved(batch.labels)


def spread_pairs(tokens: PairTokens, most: int | None) -> PairTokens:
    """Returns `most` pairs, spread evenly over the given pairs. Returns all pairs if `most` is None or too large."""
    if most is None or most >= len(tokens):
        return tokens
    chosen = np.linspace(0, len(tokens) - 1, most).round().astype(np.int64)
    source, target = tokens.source.take(chosen), tokens.target.take(chosen)
    return replace(tokens, pairs=tokens.pairs.take(chosen), source=source, target=target)


def pairs_at_once(device: torch.device, pair_tokens: float) -> int:
    """Returns how many pairs one batch contains on a device, if a pair has `pair_tokens` tokens on both sides."""
    return max(1, int(_tokens_at_once(device) / pair_tokens))


@torch.inference_mode()
def evaluate_pairs(
    model: Transformer,
    tokens: PairTokens,
    *,
    start: int,
    pad: int,
    pairs: int | None = None,
    progress: Callable[[int], None] = lambda scored: None,
) -> Score:
    """Returns the score of a model on the targets of pairs.

    Args:
        model: an encoder-decoder.
        tokens: the pairs.
        start: the id that the decoder reads first.
        pad: the id that pads.
        pairs: how many pairs to score, spread evenly; None for all.
        progress: is called after each batch with the number of tokens scored so far. An exception in it ends the
            scoring. In every case, the model's training mode is restored.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    tokens = spread_pairs(tokens, pairs)
    most = max(_tokens_at_once(device), 2 * tokens.longest)
    nats, scored = 0.0, 0
    try:
        for batch in PairBatches(tokens, batch_tokens=most, seed=0, start=start, pad=pad).in_order():
            nats, scored = nats + _nats(model, *pair_tensors(batch, device)), scored + batch.tokens
            progress(scored)
    finally:
        model.train(was_training)
    return Score(nats, scored, max(tokens.characters, 1), max(tokens.bytes, 1))


def score_pairs(
    loaded: LoadedModel, tokens: PairTokens, progress: Callable[[int], None] = lambda scored: None
) -> Score:
    """Scores a model on the targets of pairs. Raises BadCheckpoint for probabilities that are not finite."""
    start, pad = loaded.start_of_text, loaded.tokenizer.pad or 0
    score = evaluate_pairs(loaded.model, tokens, start=start, pad=pad, progress=progress)
    refuse_not_finite(loaded, score)
    return score


def _tokens_at_once(device: torch.device) -> int:
    return _TOKENS_AT_ONCE.get(device.type, _TOKENS_AT_ONCE_ELSEWHERE)


def _nats(model: Transformer, ids: Tensor, mask: Tensor | None, inputs: Tensor, labels: Tensor) -> float:
    """Returns the summed negative log-likelihood of labels (B, T), in nats. Negative labels are not scored."""
    predicted = labels >= 0
    hidden, targets = model.hidden(inputs, source=model.read_source(ids, mask))[predicted], labels[predicted]
    return sum(map(float, losses(model, hidden, targets)))
