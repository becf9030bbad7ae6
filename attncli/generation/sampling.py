"""Draws the next token from logits: the sampling steps in order, then the draw.

The functions are pure functions of logits (B, V). Rows are independent: a row's results are bit-identical alone and in
a batch. The steps have the order of transformers, which has no presence penalty; the penalties have vLLM's order:

    LOGIT_STEPS    logit bias, repetition penalty, presence penalty: change single logits
    temperature    scales all logits; 0 keeps the most probable token
    FILTERS        top-k, top-p, min-p, typical: remove tokens
    draw           draws one of the remaining tokens

A filter sets the logits of removed tokens to -inf, so that a softmax renormalizes the remaining tokens. A filter keeps
at least one token. A row in which all logits are -inf stays unchanged.

This module needs neither a model nor text. Each sample has its own generator of uniform random numbers.
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

_SEED_STRIDE = 1_000_003  # the difference between the seeds of consecutive samples
_PARTIAL_SORTS = (
    128,
    1024,
    8192,
)  # numbers of tokens to sort; the whole vocabulary is sorted only if these are too few


def sample_seed(seed: int, sample: int) -> int:
    """Returns the seed that generates the sample with this number alone."""
    return (seed + sample * _SEED_STRIDE) % 2**63


def generators(seed: int, samples: int) -> list[torch.Generator]:
    """Returns a random generator for each sample, which depends only on the seed and the sample's number."""
    return [torch.Generator().manual_seed(sample_seed(seed, sample)) for sample in range(samples)]


def uniforms(streams: Sequence[torch.Generator], count: int) -> Tensor:
    """Draws `count` uniform numbers in [0, 1) from each generator -> (samples, count)."""
    return torch.stack([torch.rand(count, generator=stream) for stream in streams])


@dataclass(frozen=True)
class Seen:
    """Masks (B, V) of the tokens that occur in the text of each row."""

    text: Tensor  # whether the token occurs in the prompt or the generated text
    generated: Tensor  # whether the token occurs in the generated text

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device | str = "cpu") -> Self:
        """Returns the masks before the first token is generated. Each row has its own prompt, of any length."""
        text = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
        seen = cls(text, torch.zeros_like(text))
        for row, prompt in enumerate(prompts):
            seen.begin(row, prompt)
        return seen

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Resets a row in place to a new prompt."""
        self.text[row] = self.generated[row] = False
        self.text[row, list(prompt)] = True

    def add(self, ids: Tensor, rows: Sequence[int] | None = None) -> None:
        """Adds in place the next token, ids (B,), of every row or of the given rows."""
        at = torch.arange(len(ids)) if rows is None else torch.tensor(rows)
        self.text[at, ids] = True
        self.generated[at, ids] = True

    def of_rows(self, rows: Sequence[int]) -> Self:
        """Returns the masks of the given rows, in the given order."""
        return type(self)(self.text[rows], self.generated[rows])


# Steps that change single logits


def add_bias(logits: Tensor, biases: tuple[tuple[int | str, float], ...]) -> Tensor:
    """Adds a bias to the logits of some tokens; -inf bans a token. Raises IndexError for an id >= V."""
    return logits + _dense(biases, logits.shape[-1], logits.device)


@lru_cache(maxsize=4)  # every step of a generation needs the same tensor
def _dense(biases: tuple[tuple[int | str, float], ...], size: int, device: torch.device) -> Tensor:
    row = torch.zeros(size)
    for id_, bias in biases:
        assert isinstance(id_, int), "generation.bias.with_token_ids looks up a token named by its text"
        row[id_] += bias
    return row.to(device)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Makes seen tokens less probable: divides positive logits by the penalty, multiplies negative logits by it.

    seen (B, V) is true for tokens of the prompt or of the generated text (Keskar et al., 2019).
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_presence(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Subtracts the penalty from the logit of each token that was generated, as OpenAI and vLLM define it.

    generated (B, V) is true for tokens of the generated text, which excludes the prompt. A token that was generated
    several times is penalized once.
    """
    return torch.where(generated, logits - penalty, logits)


# Filters: steps that remove tokens


def keep_best(logits: Tensor) -> Tensor:
    """Keeps only the most probable token; among equally probable tokens, the token with the lowest id."""
    at = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter(-1, at, logits.gather(-1, at))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps exactly the k largest logits, or all if V <= k.

    If several logits equal the k-th largest, the choice among them is arbitrary.
    """
    if k >= logits.shape[-1]:
        return logits
    values, at = logits.topk(k)
    return torch.full_like(logits, -math.inf).scatter(-1, at, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of most probable tokens whose total probability reaches p (Holtzman et al., 2020)."""
    return logits if p >= 1 else _keep_fewest(logits, logits, logits.softmax(-1), p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens with at least p times the probability of the most probable token (Nguyen et al., 2024)."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keeps the tokens whose surprise is nearest to the entropy, until their total probability reaches p.

    This is locally typical sampling (Meister et al., 2023). The most probable token is removed if its surprise is too
    far below the entropy.
    """
    if p >= 1:
        return logits
    probabilities, surprise = logits.softmax(-1), logits.log_softmax(-1).neg_()
    # cumsum has a fixed summation order; the order of sum() would depend on the batch size.
    entropy = (probabilities * surprise).nan_to_num_(0).cumsum(-1)[..., -1:]
    return _keep_fewest(logits, -(surprise - entropy).abs(), probabilities, p)


def _keep_fewest(logits: Tensor, rank: Tensor, probabilities: Tensor, p: float) -> Tensor:
    """Keeps the tokens of the highest rank until their total probability reaches p.

    Among tokens of equal rank, the lowest ids are kept first.
    """
    for order in _in_order(rank):
        reached = probabilities.gather(-1, order).cumsum(-1) >= p
        unneeded = reached.roll(1, -1)
        unneeded[..., 0] = False
        ranks = rank.gather(-1, order)
        end, lowest = ranks[..., -1], ranks.masked_fill(unneeded, math.inf).amin(-1)
        # A partial sort is enough if every kept token ranks above the last sorted token, with which an unsorted token
        # may tie. Removed tokens have rank -inf.
        if order.shape == rank.shape or bool(((lowest > end) | (end == -math.inf)).all()):
            break
    kept = logits.gather(-1, order).masked_fill_(unneeded, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, order, kept)


def best(logits: Tensor, count: int) -> Tensor:
    """Returns ids (B, min(count, V)) of the most probable tokens; among equally probable tokens, lowest id first."""
    for order in _in_order(logits):
        if order.shape == logits.shape:
            break
        ranks = logits.gather(-1, order)
        if count < order.shape[-1] and bool((ranks[..., max(count, 1) - 1] > ranks[..., -1]).all()):
            break
    return order[..., :count]


def _in_order(rank: Tensor) -> Iterator[Tensor]:
    """Yields the ids (B, n) of the n highest ranks, for increasing n up to V. Among equal ranks, lowest id first.

    The caller stops when n tokens are enough: on a CPU, sorting the vocabulary takes longer than a small model's
    forward pass, and few tokens are usually enough. A GPU sorts everything at once: sorting is fast, and checking
    whether n tokens are enough would synchronize with the CPU.
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
    """One sampling step: a function of the logits, and the field of SampleConfig with its setting."""

    field: str
    function: Callable[..., Tensor]  # (logits, setting) -> logits; with a mask (logits, mask, setting) -> logits
    mask: Literal["", "text", "generated"] = ""  # the mask of `Seen` that the function needs, if any

    @property
    def name(self) -> str:
        """The option's name without leading dashes: 'top-p'."""
        return self.field.replace("_", "-")

    def is_active(self, config: SampleConfig) -> bool:
        """Whether the step is enabled: its setting differs from the option's `off` value."""
        return bool(getattr(config, self.field) != options_of(SampleConfig)[self.field].off)

    def apply(self, logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Tensor:
        """Returns the logits after this step; a step with a mask needs `seen`."""
        masks = (getattr(seen, self.mask),) if self.mask else ()
        return self.function(logits, *masks, getattr(config, self.field))


# To add a step, write a function above, add a line here, and add a field with this name to config/sampling.py at the
# same place. The option, its help, the setting of `generate -i`, the trace and the library follow from the field.
LOGIT_STEPS = (  # applied at temperature 0 too
    SamplingStep("logit_bias", add_bias),
    SamplingStep("repetition_penalty", penalize_repetition, mask="text"),
    SamplingStep("presence_penalty", penalize_presence, mask="generated"),
)
TEMPERATURE = "temperature"  # scales the logits; at 0, keeps only the most probable token, and no filter follows
FILTERS = (
    SamplingStep("top_k", keep_top_k),
    SamplingStep("top_p", keep_top_p),
    SamplingStep("min_p", keep_min_p),
    SamplingStep("typical", keep_typical),
)


def needs_seen(config: SampleConfig) -> bool:
    """Whether an active step needs the masks of `Seen`."""
    return any(step.mask and step.is_active(config) for step in LOGIT_STEPS)


def steps(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Iterator[tuple[str, Tensor]]:
    """Applies the active steps in order; yields each step's name and the logits (B, V) after it."""
    for name, step in (*_logit_steps(config, seen), *_filters(config)):
        logits = step(logits)
        yield name, logits


def filtered(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Tensor:
    """Applies the active steps in order; returns the logits (B, V), whose softmax a token is drawn from."""
    for _, step in (*_logit_steps(config, seen), *_filters(config)):
        logits = step(logits)
    return logits


def _logit_steps(config: SampleConfig, seen: Seen | None) -> Iterator[tuple[str, _Function]]:
    """Yields the name and the function of each active bias or penalty. Without `seen`, skips the penalties."""
    for step in LOGIT_STEPS:
        if step.is_active(config) and not (step.mask and seen is None):
            yield step.name, partial(step.apply, config=config, seen=seen)


def _filters(config: SampleConfig) -> Iterator[tuple[str, _Function]]:
    """Yields the name and the function of the temperature and of each filter, if they are active.

    At temperature 0, the only function is `keep_best`.
    """
    if config.temperature == 0:
        yield TEMPERATURE, keep_best
        return
    if config.temperature != 1:
        yield TEMPERATURE, partial(scale_by_temperature, temperature=config.temperature)
    for step in FILTERS:
        if step.is_active(config):
            yield step.name, partial(step.apply, config=config)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draws one token per row from softmax(logits), given uniform random numbers (B,) in [0, 1).

    Inverts the cumulative distribution. If all logits of a row are -inf, returns token 0, as argmax does.
    """
    cumulative = logits.softmax(-1).cumsum_(-1)
    at = uniform[:, None] * cumulative[:, -1:]  # below the total, so the token has a probability above 0
    return torch.searchsorted(cumulative, at, right=True)[:, 0].remainder_(logits.shape[-1])


def next_token(logits: Tensor, config: SampleConfig, uniform: Tensor, seen: Seen | None = None) -> Tensor:
    """Draws one token per row: logits (B, V), uniform (B,) -> ids (B,).

    At temperature 0, returns the most probable token after biases and penalties, and ignores `uniform`.
    """
    logits = logits.float()
    if config.temperature > 0:
        return draw(filtered(logits, config, seen), uniform)
    for _, step in _logit_steps(config, seen):
        logits = step(logits)
    return _argmax(logits)


def _argmax(logits: Tensor) -> Tensor:
    """Returns the index (B,) of the largest logit of each row, the lowest index among equal ones.

    On a CPU, NumPy is many times faster than PyTorch, because it compares many numbers with one instruction.
    """
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)
