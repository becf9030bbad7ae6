"""Scores the heads of an encoder, and of a decoder with an encoder, for known attention patterns.

As in `heads`, the text is random tokens that are repeated once. An encoder reads it between the special tokens that its
tokenizer adds. The decoder of an encoder-decoder reads the same tokens as their translation, so that each token
of the target has the same index as its token of the source.

    encoder       previous, next, itself, duplicate, sink, end    without a mask
    decoder       the kinds of `heads`
    cross         output, input, end

Random tokens are no translation of one another. So these scores show which positions a head attends to, not
whether it aligns words; `evaluation.head_choice` finds aligning heads from pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attncli.errors import BadInput, UsageProblem
from attncli.explain.defaults import HEAD_TEXTS, HEAD_TOKENS, SOURCE_HEAD_TOKENS, AttentionPart
from attncli.explain.heads import HEAD_KINDS, HeadKind, HeadScores, averaged, mean_weight, patterns, refuse_no_sequences
from attncli.model.attention import Attention, AttentionSteps, Observer, Part
from attncli.model.mask import causal_mask
from attncli.model.transformer import Transformer

ENCODER_KINDS: tuple[HeadKind, ...] = ("previous", "next", "itself", "duplicate", "sink", "end")
CROSS_KINDS: tuple[HeadKind, ...] = ("output", "input", "end")
KINDS: dict[AttentionPart, tuple[HeadKind, ...]] = {
    "encoder": ENCODER_KINDS,
    "decoder": HEAD_KINDS,
    "cross": CROSS_KINDS,
}
_SHORTEST = 2


@dataclass(frozen=True)
class Frame:
    """The tokens around a text of random tokens, and the ids from which it is drawn."""

    opening: tuple[int, ...]  # the tokens before the encoder's text
    closing: tuple[int, ...]
    start: tuple[int, ...]  # the first tokens of the decoder; () for an encoder alone
    ordinary: Sequence[int]  # the ids that are no special tokens

    @property
    def around(self) -> int:
        """The number of tokens around the longest text that is read."""
        return max(len(self.opening) + len(self.closing), len(self.start))


def encoder_patterns(ids: Tensor) -> Tensor:
    """Returns the masks (kinds, S, S) of ENCODER_KINDS for ids (S,): the positions that a head of each kind attends to.

    They are the token before, the token after, the token itself, the other occurrences of the same token, the first
    token and the last token.
    """
    at = torch.arange(len(ids), device=ids.device)
    distance = at[None, :] - at[:, None]
    same = ids[:, None] == ids[None, :]
    first, last = (at[None, :] == end for end in (0, len(ids) - 1))
    ends = first & (at[:, None] > 0), last & (at[:, None] < len(ids) - 1)
    return torch.stack([distance == -1, distance == 1, distance == 0, same & (distance != 0), *ends])


def cross_patterns(frame: Frame, tokens: int, device: torch.device) -> Tensor:
    """Returns the masks (kinds, T, S) of CROSS_KINDS for a text of `tokens` random tokens, its own translation.

    They are the source token at the index of the predicted token, the source token at the index of the token that is
    read, and the last token of the source if it is a special token.
    """
    rows = torch.arange(len(frame.start) + tokens, device=device)[:, None] - len(frame.start)
    columns = torch.arange(len(frame.opening) + tokens + len(frame.closing), device=device)[None, :]
    read = (columns == rows + len(frame.opening)) & (rows >= 0)
    predicted = (columns == rows + 1 + len(frame.opening)) & (rows >= -1) & (rows < tokens - 1)
    end = (columns == columns.shape[1] - 1).expand(len(rows), -1)
    return torch.stack([predicted, read, end if frame.closing else torch.zeros_like(end)])


def heads_by_part(
    model: Transformer, frame: Frame, *, length: int | None = None, sequences: int = HEAD_TEXTS, seed: int = 0
) -> dict[AttentionPart, HeadScores]:
    """Scores every head of a model with an encoder in evaluation mode, averaged over sequences drawn from the seed.

    A sequence is `length` random tokens, then these tokens repeated. If `length` is None, it is the largest that fits,
    at most HEAD_TOKENS for an encoder alone, and at most SOURCE_HEAD_TOKENS for an encoder-decoder. For an encoder
    alone, the only part is "encoder".

    Raises:
        UsageProblem: for a length that does not fit, or no sequences.
        BadInput: for a model whose context is too short.
    """
    length = _checked_length(model, frame, length)
    refuse_no_sequences(sequences)
    generator, device = torch.Generator().manual_seed(seed), model.embedding.weight.device
    known = torch.tensor(frame.ordinary)
    scored: dict[AttentionPart, list[Tensor]] = {}
    with torch.inference_mode():
        for _ in range(sequences):
            drawn = known[torch.randperm(len(known), generator=generator)[:length]]
            text = torch.cat([drawn, drawn]).to(device)
            for part, scores in _scored(model, frame, text).items():
                scored.setdefault(part, []).append(scores)
    chances = _chances(frame, text.cpu())
    return {
        part: averaged(
            torch.stack(each), chances[part][:, None].expand(-1, each[0].shape[1]), length, seed, KINDS[part]
        )
        for part, each in scored.items()
    }


def _checked_length(model: Transformer, frame: Frame, length: int | None) -> int:
    """Returns `length`, by default the largest that fits, up to a limit. Raises as `heads_by_part` does."""
    context = model.config.context
    most = min((context - frame.around) // 2, len(frame.ordinary))
    if most < _SHORTEST:
        raise BadInput(f"The model reads {context} tokens at once: too few to repeat anything.")
    length = min(most, SOURCE_HEAD_TOKENS if frame.start else HEAD_TOKENS) if length is None else length
    if not _SHORTEST <= length <= most:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('length')} {length:,} is not from {_SHORTEST} to {most:,}.",
                f"Twice this length and {frame.around} special tokens must fit {context:,} tokens.",
            )
        )
    return length


def _texts(frame: Frame, text: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the ids of the encoder (S,) and of the decoder (T,) for a text of random tokens."""
    sides = [(frame.opening, text, frame.closing), (frame.start, text, ())]
    source, target = (
        torch.cat([torch.as_tensor(one, dtype=text.dtype, device=text.device) for one in side]) for side in sides
    )
    return source, target


def _masks(frame: Frame, text: Tensor) -> dict[AttentionPart, Tensor]:
    """Returns the masks (kinds, T, S) of the patterns of each attention; for an encoder alone, of the encoder."""
    source, target = _texts(frame, text)
    masks: dict[AttentionPart, Tensor] = {"encoder": encoder_patterns(source)}
    if frame.start:
        masks |= {"decoder": patterns(target), "cross": cross_patterns(frame, len(text), text.device)}
    return masks


def _chances(frame: Frame, text: Tensor) -> dict[AttentionPart, Tensor]:
    """Returns the scores (kinds,) of uniform attention."""
    masks, chances = _masks(frame, text), {}
    for part, mask in masks.items():
        rows, columns = mask.shape[1:]
        allowed = causal_mask(rows, columns, None, text.device) if part == "decoder" else torch.ones(rows, columns)
        chances[part] = mean_weight(allowed.double() / allowed.double().sum(-1, keepdim=True), mask)
    return chances


def _scored(model: Transformer, frame: Frame, text: Tensor) -> dict[AttentionPart, Tensor]:
    """Returns the scores (kinds, L, H) of each attention for one text."""
    watch, (source, target) = _Scorer(_masks(frame, text)), _texts(frame, text)
    if frame.start:
        read = model.read_source(source[None], observe=watch)
        model.hidden(target[None], observe=watch, source=read)
    else:
        model.hidden(source[None], observe=watch)
    return {part: torch.stack(layers, 1) for part, layers in watch.layers.items()}


@dataclass
class _Scorer(Observer):
    """Scores the heads of each layer of every attention, one layer after another."""

    masks: Mapping[AttentionPart, Tensor]
    layers: dict[AttentionPart, list[Tensor]] = field(default_factory=dict)  # (kinds, H) for each layer

    def watches(self, part: Part) -> bool:
        """Whether the heads of an attention are scored: always."""
        return True

    def attention(self, layer: int, steps: AttentionSteps, module: Attention) -> None:
        """Scores the heads of a layer."""
        part = module.part if module.part in self.masks else "encoder"  # the stack of an encoder alone
        wide = torch.promote_types(steps.weights.dtype, torch.float32)
        self.layers.setdefault(part, []).append(mean_weight(steps.weights[0].to(wide), self.masks[part]))
