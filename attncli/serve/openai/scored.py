"""The log-probabilities of the tokens of a prompt, as `attncli eval` computes them.

The hidden states and the logits are those of `evaluation`. Each token is predicted from all tokens before it, so the
first one has no log-probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attncli.checkpoint.load import LoadedModel
from attncli.evaluation.loss import logits_of
from attncli.generation.events import Token
from attncli.generation.sampling import best


@dataclass(frozen=True)
class ScoredToken:
    """A token of a prompt or of a generated text, and the most probable tokens in its place."""

    id: int
    logprob: float | None  # in nats; None for the first token of a prompt
    top: tuple[tuple[int, float], ...]  # ids and log-probabilities, most probable first
    start: int  # the index of its first character in the text

    @classmethod
    def of(cls, token: Token, start: int) -> ScoredToken:
        """Returns a generated token."""
        return cls(token.id, token.logprob, tuple((one.id, one.logprob) for one in token.top), start)


@torch.inference_mode()
def score_prompt(loaded: LoadedModel, ids: Sequence[int], starts: Sequence[int], top: int) -> list[ScoredToken]:
    """Returns the tokens of a prompt that fits in the context, each with the `top` most probable ones in its place.

    `starts` has the index of the first character of each token.
    """
    scored = [ScoredToken(ids[0], None, (), starts[0])]
    if len(ids) == 1:
        return scored
    model, known = loaded.model, loaded.tokenizer.vocab_size  # the model may have more logits, as padding
    device = model.embedding.weight.device
    hidden = model.hidden(torch.tensor([ids[:-1]], device=device))[0]
    for logits, right in logits_of(model, hidden, torch.tensor(ids[1:], device=device)):
        exact = logits.cpu().double().log_softmax(-1)
        ranked = best(logits[:, :known].cpu(), top) if top else torch.empty(len(right), 0, dtype=torch.long)
        columns = (right.tolist(), exact.gather(-1, right.cpu()[:, None])[:, 0].tolist())
        pairs = zip(ranked.tolist(), exact.gather(-1, ranked).tolist(), strict=True)
        for id_, logprob, (tops, logprobs) in zip(*columns, pairs, strict=True):
            start = starts[len(scored)]
            scored.append(ScoredToken(id_, logprob, tuple(zip(tops, logprobs, strict=True)), start))
    return scored
