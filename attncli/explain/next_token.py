"""The most probable next tokens, and their log-probabilities, from a model's logits.

A weight matrix may be padded with rows for ids that the tokenizer does not have. `known` is the number of ids of the
tokenizer. The logits of larger ids are dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.model.distribution import distribution
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class NextToken:
    """A candidate for the next token, and its probability."""

    id: int
    text: str
    probability: float


def most_probable(logits: Tensor, tokenizer: Tokenizer, count: int, temperature: float = 1.0) -> tuple[NextToken, ...]:
    """Returns the `count` most probable tokens of logits (V,), the most probable first."""
    ids = logits.argsort(descending=True, stable=True)[:count]
    probabilities = distribution(logits, temperature)[ids].tolist()
    return tuple(NextToken(i, name_of(tokenizer, i), p) for i, p in zip(ids.tolist(), probabilities, strict=True))


def highest(logs: Tensor, tokenizer: Tokenizer, count: int) -> tuple[NextToken, ...]:
    """Returns the `count` most probable tokens of log-probabilities (V,), the most probable first."""
    values, ids = logs.topk(min(count, len(logs)))
    return tuple(
        NextToken(i, name_of(tokenizer, i), math.exp(value))
        for i, value in zip(ids.tolist(), values.tolist(), strict=True)
    )


def name_of(tokenizer: Tokenizer, token: int) -> str:
    """Returns the text of a token; empty for an id that the tokenizer does not have."""
    return tokenizer.name(token) if token < tokenizer.vocab_size else ""


def log_probabilities(model: Transformer, hidden: Tensor, known: int | None = None) -> Tensor:
    """Returns the log-probabilities (B, known) of the next token, in float32 or wider.

    `hidden` (B, C) is the residual stream of one position after the final norm.
    """
    logits = model.unembed(hidden)[:, :known]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
