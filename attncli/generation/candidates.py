"""The most probable next tokens of a text, or tokens for its masks, with their probabilities at temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attncli.config.limits import FINITE_FROM_0, at_least
from attncli.errors import BadInput, UsageProblem
from attncli.generation.engine import refuse_unreadable
from attncli.generation.events import Candidate, Candidates
from attncli.model.distribution import distribution
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import MASK, Piece, Tokenizer


@torch.inference_mode()
def candidates(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    temperatures: Sequence[float],
    count: int,
    source: Sequence[int] | None = None,
) -> Candidates:
    """Returns the `count` most probable tokens after a prompt, with their probabilities at each temperature.

    The most probable token comes first. An encoder-decoder needs the ids of a `source`; the prompt is then the
    beginning of the target. Raises BadInput for a prompt or a source that is empty or longer than the context. Raises
    UsageProblem for a temperature below 0 or a count below 1.
    """
    _check(temperatures, count)
    if source is not None:
        refuse_unreadable(model.config, tokenizer, source)
    refuse_unreadable(model.config, tokenizer, prompt, target=source is not None)
    device = model.embedding.weight.device
    read = None if source is None else model.read_source(torch.tensor([source], device=device))
    hidden = model.hidden(torch.tensor([prompt], device=device), source=read)
    return _most_probable(model.unembed(hidden[0, -1]), tokenizer, temperatures, count)


@torch.inference_mode()
def candidates_for_masks(
    model: Transformer, tokenizer: Tokenizer, pieces: Sequence[Piece], temperatures: Sequence[float], count: int
) -> tuple[Candidates, ...]:
    """Returns the `count` most probable tokens for each mask of a text, from an encoder alone.

    Every mask is predicted from the whole text, in which the other masks remain. The first token is the most probable.
    Raises BadInput for a text that has no mask or is longer than the context. Raises UsageProblem for a temperature
    below 0, a count below 1, and a model whose head predicts no words.
    """
    _check(temperatures, count)
    if not model.config.head_transform:
        raise UsageProblem(
            "This model has no head that predicts words.", "Use the model with its head, for masked words."
        )
    ids = [piece.id for piece in pieces]
    refuse_unreadable(model.config, tokenizer, ids)
    masks = [at for at, id_ in enumerate(ids) if id_ == tokenizer.mask]
    if not masks:
        raise BadInput(
            f"The text has no {MASK}, which stands for the word to predict.",
            f'Put it in the place of a word: attncli next "The {MASK} barked."',
        )
    device = model.embedding.weight.device
    segments = torch.tensor([[piece.segment for piece in pieces]], device=device)
    hidden = model.hidden(torch.tensor([ids], device=device), segments=segments)[0, masks]
    return tuple(
        replace(_most_probable(logits, tokenizer, temperatures, count), mask=at)
        for at, logits in zip(masks, model.unembed(hidden), strict=True)
    )


def _check(temperatures: Sequence[float], count: int) -> None:
    """Raises UsageProblem for a temperature below 0, for no temperatures, and for a count below 1."""
    at_least(1).check("count", count)
    at_least(1).check("the number of temperatures", len(temperatures))
    for temperature in temperatures:
        FINITE_FROM_0.check("temperatures", temperature)


def _most_probable(logits: Tensor, tokenizer: Tokenizer, temperatures: Sequence[float], count: int) -> Candidates:
    """Returns the `count` most probable tokens, given logits (V,)."""
    logits = logits[: tokenizer.vocab_size].double().cpu()
    # for equal logits, the lowest id comes first, as in argmax
    top = logits.argsort(descending=True, stable=True)[:count]
    columns = torch.stack([distribution(logits, temperature)[top] for temperature in temperatures], 1)
    return Candidates(
        tuple(temperatures),
        tuple(
            Candidate(id_, tokenizer.name(id_), tuple(row))
            for id_, row in zip(top.tolist(), columns.tolist(), strict=True)
        ),
    )
