"""From logits to the next token.

Pure functions on logits (B, V). The order, the same as in transformers: repetition penalty, temperature, top-k, top-p,
min-p; then one draw. A filter turns the logits of what it removes into -inf, so that the rest can be renormalized.

Knows nothing of models or text. Randomness enters as numbers drawn beforehand, for each sample from a generator of its
own, so that a sample is the same alone and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attncli.config import SampleConfig
from attncli.model.distribution import scale_by_temperature

_STREAM = 1_000_003


def generators(seed: int, samples: int) -> list[torch.Generator]:
    """One for each sample, a function of the seed and the sample's number alone."""
    return [torch.Generator().manual_seed((seed + sample * _STREAM) % 2**63) for sample in range(samples)]


def uniforms(streams: Sequence[torch.Generator], count: int) -> Tensor:
    """The next numbers in [0, 1) of every generator, (samples, count)."""
    return torch.stack([torch.rand(count, generator=stream) for stream in streams])


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divides positive logits of seen tokens by the penalty, multiplies negative ones (Keskar et al., 2019).

    seen (B, V) is true for the tokens of the prompt and of the text so far.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps exactly the k largest (all, when there are no more); of equal ones at the border, any."""
    if k >= logits.shape[-1]:
        return logits
    values, at = logits.topk(k)
    return torch.full_like(logits, -math.inf).scatter(-1, at, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest most probable tokens that together have probability p (Holtzman et al., 2020), at least one."""
    ordered, at = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of the tokens more probable than this one
    unneeded = before >= p
    unneeded[..., 0] = False
    return logits.masked_fill(torch.zeros_like(unneeded).scatter(-1, at, unneeded), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens at least p times as probable as the most probable one (Nguyen et al., 2024)."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def filtered(logits: Tensor, config: SampleConfig, seen: Tensor | None = None) -> Tensor:
    """Logits after every filter of the config; their softmax is what is drawn from. Temperature 0 scales nothing."""
    if config.repetition_penalty != 1 and seen is not None:
        logits = penalize_repetition(logits, seen, config.repetition_penalty)
    if config.temperature > 0:
        logits = scale_by_temperature(logits, config.temperature)
    if config.top_k > 0:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = keep_top_p(logits, config.top_p)
    return keep_min_p(logits, config.min_p)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token per row from softmax(logits): the cumulative distribution inverted at uniform (B,), each in [0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    at = uniform[:, None] * cumulative[:, -1:]  # stays below the total, so the token found has some probability
    return torch.searchsorted(cumulative, at, right=True)[:, 0]


def next_token(logits: Tensor, config: SampleConfig, uniform: Tensor, seen: Tensor | None = None) -> Tensor:
    """logits (B, V), uniform (B,) -> ids (B,). Temperature 0 is the most probable token."""
    kept = filtered(logits.float(), config, seen)
    return kept.argmax(-1) if config.temperature == 0 else draw(kept, uniform)
