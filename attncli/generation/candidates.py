"""The most probable next tokens of a text, with their probabilities at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attncli.config.limits import FINITE_FROM_0, at_least
from attncli.generation.engine import refuse_unreadable
from attncli.generation.events import Candidate, Candidates
from attncli.model.distribution import distribution
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer


@torch.inference_mode()
def candidates(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], temperatures: Sequence[float], count: int
) -> Candidates:
    """Returns the `count` most probable tokens after a prompt, with their probabilities at each temperature.

    The most probable token comes first. Raises BadInput for a prompt that is empty or longer than the context. Raises
    UsageProblem for a temperature below 0 or a count below 1.
    """
    at_least(1).check("count", count)
    at_least(1).check("the number of temperatures", len(temperatures))
    for temperature in temperatures:
        FINITE_FROM_0.check("temperatures", temperature)
    refuse_unreadable(model.config, tokenizer, prompt)
    ids = torch.tensor([prompt], device=model.embedding.weight.device)
    logits = model.unembed(model.hidden(ids)[0, -1])[: tokenizer.vocab_size].double().cpu()
    top = logits.argsort(descending=True, stable=True)[
        :count
    ]  # for equal logits, the lowest id comes first, as in argmax
    columns = torch.stack([distribution(logits, temperature)[top] for temperature in temperatures], 1)
    return Candidates(
        tuple(temperatures),
        tuple(
            Candidate(id_, tokenizer.name(id_), tuple(row))
            for id_, row in zip(top.tolist(), columns.tolist(), strict=True)
        ),
    )
