"""From logits to the next token: the sampling steps in their order, and the draw.

Pure functions on logits (B, V). Each row is computed for itself, so it is the same alone and in a batch, bit for bit.
The order is the order of transformers (which has no presence penalty) and of vLLM's penalties:

    LOGIT_STEPS    logit bias, repetition penalty, presence penalty: change single logits
    temperature    scales all logits; 0 keeps the most probable token
    FILTERS        top-k, top-p, min-p, typical: remove tokens
    draw           one token from what is left

A filter sets the logits of the tokens it removes to -inf, so that a softmax renormalizes the rest; it never removes all
tokens. A row that is -inf throughout stays so.

Knows nothing of models or text. Randomness enters as uniform numbers, which each sample draws from a generator of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, Self

import torch
from torch import Tensor

from attncli.config import SampleConfig
from attncli.config.option import options_of
from attncli.model.distribution import scale_by_temperature

_Function = Callable[[Tensor], Tensor]

_SEED_STRIDE = 1_000_003  # between the seeds of two samples
_PARTIAL_SORTS = (128, 1024, 8192)  # how many tokens are sorted before the whole vocabulary is


def sample_seed(seed: int, sample: int) -> int:
    """The seed with which the sample of this number would be generated as the only one."""
    return (seed + sample * _SEED_STRIDE) % 2**63


def generators(seed: int, samples: int) -> list[torch.Generator]:
    """A generator for each sample; it depends on the seed and the sample's number alone."""
    return [torch.Generator().manual_seed(sample_seed(seed, sample)) for sample in range(samples)]


def uniforms(streams: Sequence[torch.Generator], count: int) -> Tensor:
    """The next numbers in [0, 1) of every generator, (samples, count)."""
    return torch.stack([torch.rand(count, generator=stream) for stream in streams])


@dataclass(frozen=True)
class Seen:
    """Which tokens occur in the text of each row, as masks (B, V)."""

    text: Tensor  # in its prompt or its generated text
    generated: Tensor  # in its generated text

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device | str = "cpu") -> Self:
        """The masks before anything is generated: one prompt of any length for each row."""
        text = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
        seen = cls(text, torch.zeros_like(text))
        for row, prompt in enumerate(prompts):
            seen.begin(row, prompt)
        return seen

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Resets a row to a new prompt, in place."""
        self.text[row] = self.generated[row] = False
        self.text[row, list(prompt)] = True

    def add(self, ids: Tensor, rows: Sequence[int] | None = None) -> None:
        """Adds the next token of every row, or of the given rows: ids (B,), in place."""
        at = torch.arange(len(ids)) if rows is None else torch.tensor(rows)
        self.text[at, ids] = True
        self.generated[at, ids] = True

    def of_rows(self, rows: Sequence[int]) -> Self:
        """The masks of the given rows, in their order."""
        return type(self)(self.text[rows], self.generated[rows])


# Steps that change single logits


def add_bias(logits: Tensor, biases: tuple[tuple[int | str, float], ...]) -> Tensor:
    """Adds a number to the logits of some tokens; -inf bans a token. Raises IndexError for an id of V or above."""
    return logits + _dense(biases, logits.shape[-1], logits.device)


@lru_cache(maxsize=4)  # the same for every token of a generation
def _dense(biases: tuple[tuple[int | str, float], ...], size: int, device: torch.device) -> Tensor:
    row = torch.zeros(size)
    for id_, bias in biases:
        assert isinstance(id_, int), "generation.bias.with_token_ids looks up a token named by its text"
        row[id_] += bias
    return row.to(device)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divides positive logits of seen tokens by the penalty, multiplies negative ones (Keskar et al., 2019).

    seen (B, V) is true for tokens of the prompt and of the generated text.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_presence(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Subtracts the penalty once from the logits of generated tokens, as OpenAI and vLLM define it.

    generated (B, V) is true for tokens of the generated text, without the prompt.
    """
    return torch.where(generated, logits - penalty, logits)


# Filters: steps that remove tokens


def keep_best(logits: Tensor) -> Tensor:
    """Keeps only the most probable token; of equal ones, the lowest id."""
    at = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter(-1, at, logits.gather(-1, at))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps exactly the k largest logits, or all if V <= k; of equal ones at the border, any."""
    if k >= logits.shape[-1]:
        return logits
    values, at = logits.topk(k)
    return torch.full_like(logits, -math.inf).scatter(-1, at, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the most probable tokens, as few as together reach probability p, at least one (Holtzman et al., 2020)."""
    return logits if p >= 1 else _keep_fewest(logits, logits, logits.softmax(-1), p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens with at least p times the probability of the most probable token (Nguyen et al., 2024)."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keeps the tokens whose surprise is nearest to the entropy, as few as together reach probability p.

    Locally typical sampling (Meister et al., 2023). It may remove the most probable token if its surprise is too low.
    """
    if p >= 1:
        return logits
    probabilities, surprise = logits.softmax(-1), logits.log_softmax(-1).neg_()
    # cumsum adds up each row in one order; the order of sum() would depend on the shape of the batch.
    entropy = (probabilities * surprise).nan_to_num_(0).cumsum(-1)[..., -1:]
    return _keep_fewest(logits, -(surprise - entropy).abs(), probabilities, p)


def _keep_fewest(logits: Tensor, rank: Tensor, probabilities: Tensor, p: float) -> Tensor:
    """Keeps the tokens of the highest rank, as few as together reach probability p; of equal rank, the lowest ids."""
    for order in _in_order(rank):
        reached = probabilities.gather(-1, order).cumsum(-1) >= p
        unneeded = reached.roll(1, -1)
        unneeded[..., 0] = False
        ranks = rank.gather(-1, order)
        end, lowest = ranks[..., -1], ranks.masked_fill(unneeded, math.inf).amin(-1)
        # A partial sort is enough if all kept tokens rank above its last one, since others may equal that one.
        # -inf is the rank of removed tokens.
        if order.shape == rank.shape or bool(((lowest > end) | (end == -math.inf)).all()):
            break
    kept = logits.gather(-1, order).masked_fill_(unneeded, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, order, kept)


def best(logits: Tensor, count: int) -> Tensor:
    """Ids (B, min(count, V)) of the most probable tokens; of equal ones, the lowest ids first."""
    for order in _in_order(logits):
        if order.shape == logits.shape:
            break
        ranks = logits.gather(-1, order)
        if count < order.shape[-1] and bool((ranks[..., max(count, 1) - 1] > ranks[..., -1]).all()):
            break
    return order[..., :count]


def _in_order(rank: Tensor) -> Iterator[Tensor]:
    """Ids sorted by rank (B, V), the highest first, of equal ones the lowest id: (B, n) for growing n, at last n = V.

    Sorting a vocabulary takes a CPU longer than a small model's forward pass, and few tokens are usually enough. A GPU
    sorts fast, and the check whether a part is enough would be a synchronization.
    """
    if rank.device.type == "cpu":
        for count in _PARTIAL_SORTS:
            if 2 * count <= rank.shape[-1]:
                at = rank.topk(count, sorted=False).indices.sort(-1).values
                yield at.gather(-1, rank.gather(-1, at).sort(dim=-1, descending=True, stable=True).indices)
    yield rank.sort(dim=-1, descending=True, stable=True).indices


# The order of the steps


@dataclass(frozen=True)
class SamplingStep:
    """One step: a function of the logits, and the field of SampleConfig that it takes as its setting."""

    field: str
    function: Callable[..., Tensor]  # (logits, setting) -> logits; with a mask (logits, mask, setting) -> logits
    mask: Literal["", "text", "generated"] = ""  # the mask of `Seen` that it needs

    @property
    def name(self) -> str:
        """The option's name without dashes in front: 'top-p'."""
        return self.field.replace("_", "-")

    def is_active(self, config: SampleConfig) -> bool:
        """Whether the setting differs from the value that its option calls off."""
        return bool(getattr(config, self.field) != options_of(SampleConfig)[self.field].off)

    def apply(self, logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Tensor:
        """The logits after this step; `seen` is needed where the step has a mask."""
        masks = (getattr(seen, self.mask),) if self.mask else ()
        return self.function(logits, *masks, getattr(config, self.field))


# A new step: a function above, a line here, a field of the same name in config/sampling.py at the same place. The
# option, its help, the setting of `generate -i`, the trace and the library follow from the field.
LOGIT_STEPS = (  # also at temperature 0
    SamplingStep("logit_bias", add_bias),
    SamplingStep("repetition_penalty", penalize_repetition, mask="text"),
    SamplingStep("presence_penalty", penalize_presence, mask="generated"),
)
TEMPERATURE = "temperature"  # scales the logits; 0 keeps the most probable token, and ends the steps
FILTERS = (
    SamplingStep("top_k", keep_top_k),
    SamplingStep("top_p", keep_top_p),
    SamplingStep("min_p", keep_min_p),
    SamplingStep("typical", keep_typical),
)


def needs_seen(config: SampleConfig) -> bool:
    """Whether an active step needs the tokens of the text so far."""
    return any(step.mask and step.is_active(config) for step in LOGIT_STEPS)


def steps(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Iterator[tuple[str, Tensor]]:
    """Logits (B, V) after every active step, in order, each with the name of its option."""
    for name, step in (*_logit_steps(config, seen), *_filters(config)):
        logits = step(logits)
        yield name, logits


def filtered(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Tensor:
    """Logits (B, V) after the last step; their softmax is the distribution that a token is drawn from."""
    for _, step in (*_logit_steps(config, seen), *_filters(config)):
        logits = step(logits)
    return logits


def _logit_steps(config: SampleConfig, seen: Seen | None) -> Iterator[tuple[str, _Function]]:
    """The active steps before the temperature. Without `seen`, steps that need a mask are left out."""
    for step in LOGIT_STEPS:
        if step.is_active(config) and not (step.mask and seen is None):
            yield step.name, partial(step.apply, config=config, seen=seen)


def _filters(config: SampleConfig) -> Iterator[tuple[str, _Function]]:
    """The temperature and the active steps after it."""
    if config.temperature == 0:
        yield TEMPERATURE, keep_best
        return
    if config.temperature != 1:
        yield TEMPERATURE, partial(scale_by_temperature, temperature=config.temperature)
    for step in FILTERS:
        if step.is_active(config):
            yield step.name, partial(step.apply, config=config)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draws a token of each row from softmax(logits): inverts the cumulative distribution at uniform (B,) in [0, 1).

    A row that is -inf throughout gives token 0, as argmax does.
    """
    cumulative = logits.softmax(-1).cumsum_(-1)
    at = uniform[:, None] * cumulative[:, -1:]  # below the total, so the token has a probability above 0
    return torch.searchsorted(cumulative, at, right=True)[:, 0].remainder_(logits.shape[-1])


def next_token(logits: Tensor, config: SampleConfig, uniform: Tensor, seen: Seen | None = None) -> Tensor:
    """Draws one token per row: logits (B, V), uniform (B,) -> ids (B,).

    Temperature 0 takes the most probable token after bias and penalties, and needs no `uniform`.
    """
    logits = logits.float()
    if config.temperature > 0:
        return draw(filtered(logits, config, seen), uniform)
    for _, step in _logit_steps(config, seen):
        logits = step(logits)
    return logits.argmax(-1)
