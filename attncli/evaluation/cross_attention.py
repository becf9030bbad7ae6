"""The cross-attention of an encoder-decoder, from the words of a translation to the words of its source.

The decoder reads the given translation (teacher forcing), so each target token is at two positions: the model predicts
the token as the output of one position, and reads it as the input of the next position. A shift chooses the position at
which attention is read (Chen et al., 2020, arXiv 2004.14837). Weights are summed over the tokens of a source word, and
averaged over the tokens of a target word. Pairs of similar length are computed in one batch, and one layer at a time,
so memory does not grow with the number of pairs.

Letters: B batch, T decoder positions, S source tokens, H heads, I source words, J target words, C model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.errors import UsageProblem
from attncli.evaluation.loss import losses
from attncli.evaluation.pair_words import Sentence, WordsOfPair
from attncli.model.attention import Attention, AttentionSteps, Observer, Part
from attncli.model.transformer import Transformer

Receive = Callable[[int, Tensor], None]  # gets a layer and its word weights (2, B, H, J, I), one for each shift

_TOKENS_AT_ONCE = 4096  # the most tokens of a batch, with padding
_ELEMENTS_AT_ONCE = 1 << 24  # the most attention weights of a layer at a time


@dataclass(frozen=True)
class PairBatch:
    """Pairs of similar length as tensors, padded at the end."""

    numbers: tuple[int, ...]  # the index of each pair
    pairs: tuple[WordsOfPair, ...]
    ids: Tensor  # (B, S), the sources
    mask: Tensor  # (B, S), True at tokens, False at padding
    inputs: Tensor  # (B, T), what the decoder reads: the tokens that begin every target, then the target
    of_source: Tensor  # (B, S, I), 1 where a token belongs to a word
    of_target: Tensor  # (2, B, J, T), for each shift: 1 / tokens of the word, where a position belongs to a word


def require_encoder_decoder(model: Transformer, name: str) -> None:
    """Raises UsageProblem for a model without cross-attention."""
    if not model.config.encoder_layers:
        kind = "a decoder" if model.config.causal else "an encoder"
        raise UsageProblem(
            f"{name} is {kind} alone, and cross-attention needs an encoder-decoder.",
            "Train one on pairs of sentences: attncli train pairs.tsv",
        )


def batches_of(pairs: Sequence[WordsOfPair], model: Transformer, rows: bool = False) -> Iterator[PairBatch]:
    """Yields the pairs in batches of similar length.

    With `rows`, the batches are smaller, because each pair is computed once more for each of its source words.
    """
    order = sorted(range(len(pairs)), key=lambda at: (len(pairs[at].target.ids), len(pairs[at].source.ids), at))
    heads, some, sizes = model.config.heads, list[int](), (0, 0, 0)
    for at in order:
        pair = pairs[at]
        own = len(pair.source.ids), len(pair.target.ids), len(pair.source.words)
        sources, targets, words = (max(both) for both in zip(sizes, own, strict=True))
        copies = (len(some) + 1) * (1 + words if rows else 1)
        tokens = copies * max(sources, targets)
        if some and (tokens > _TOKENS_AT_ONCE or copies * heads * sources * targets > _ELEMENTS_AT_ONCE):
            yield _batch(some, pairs, model.device)
            some, sizes = [], own
        else:
            sizes = sources, targets, words
        some.append(at)
    if some:
        yield _batch(some, pairs, model.device)


def _batch(numbers: Sequence[int], pairs: Sequence[WordsOfPair], device: torch.device) -> PairBatch:
    chosen = tuple(pairs[at] for at in numbers)
    sources, targets = [pair.source for pair in chosen], [pair.target for pair in chosen]
    ids, mask = _padded([side.ids for side in sources])
    inputs, _ = _padded([side.ids for side in targets])
    of_source = _membership(sources, ids.shape[1], 0).transpose(1, 2)
    members = torch.stack([_membership(targets, inputs.shape[1], moved) for moved in (-1, 0)])
    of_target = members / members.sum(-1, keepdim=True).clamp(min=1)
    tensors = (ids, mask, inputs, of_source, of_target)
    return PairBatch(tuple(numbers), chosen, *(tensor.to(device) for tensor in tensors))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns ids padded by 0 (B, T), and a mask (B, T) that is True at the given ids."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(longest) < lengths[:, None]


def _membership(sides: Sequence[Sentence], positions: int, moved: int) -> Tensor:
    """Returns (B, words, positions): 1 where a token, moved by `moved` positions, belongs to a word."""
    members = torch.zeros(len(sides), max(len(side.words) for side in sides), positions)
    for row, side in enumerate(sides):
        for word, span in enumerate(side.spans):
            members[row, word, span.start + moved : span.stop + moved] = 1
    return members


@torch.inference_mode()
def read_weights(model: Transformer, batch: PairBatch, receive: Receive) -> None:
    """Runs a batch of pairs through the model, and passes the word weights of every layer to `receive`.

    A row sums to less than 1 if tokens outside of words, such as the end token of the source, have weight.
    """
    source = model.read_source(batch.ids, batch.mask)
    model.hidden(batch.inputs, observe=_WordWeights(batch, receive), source=source)


class _WordWeights(Observer):
    """Sums the cross-attention weights of each layer over words."""

    def __init__(self, batch: PairBatch, receive: Receive) -> None:
        self._batch, self._receive = batch, receive

    def watches(self, part: Part) -> bool:
        return part == "cross"

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        weights = steps.weights.float() @ self._batch.of_source[:, None]  # (B, H, T, I)
        self._receive(layer, self._batch.of_target[:, :, None] @ weights)


@torch.inference_mode()
def prediction_drops(model: Transformer, batch: PairBatch) -> Tensor:
    """Returns how much the prediction of each target word loses without each source word: (B, J, I), in nats.

    A loss is the difference between two log-probabilities of the target word, given the target tokens before it: with
    the whole source, and without the source word, whose tokens are masked in the encoder and in cross-attention.
    """
    count, words = len(batch.ids), batch.of_source.shape[2]
    kept = batch.mask[:, None] & (batch.of_source.transpose(1, 2) == 0)  # (B, I, S)
    kept = torch.where(kept.any(-1, keepdim=True), kept, batch.mask[:, None])  # one key must remain
    mask = torch.cat([batch.mask[:, None], kept], 1).flatten(0, 1)  # (B x (I + 1), S)
    copies = words + 1
    source = model.read_source(batch.ids.repeat_interleave(copies, 0), mask)
    hidden = model.hidden(batch.inputs.repeat_interleave(copies, 0), source=source)[:, :-1]
    labels = batch.inputs[:, 1:].repeat_interleave(copies, 0)
    nats = torch.cat([*losses(model, hidden.flatten(0, 1), labels.flatten(), "none")]).view(count, copies, -1)
    members = (batch.of_target[0, :, :, :-1] > 0).float()  # (B, J, T)
    by_word = members @ nats.transpose(1, 2)  # (B, J, I + 1)
    return by_word[..., 1:] - by_word[..., :1]
