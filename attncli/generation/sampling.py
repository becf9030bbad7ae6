"""From logits to the next token.

Pure functions on logits (B, V), each row for itself: a row gives the same alone and in a batch, bit for bit. Their
order, that of transformers (which has no presence penalty) and of vLLM's penalties:

    logit bias, repetition penalty, presence penalty,    what moves single logits
    temperature,                                         what scales all of them; 0 leaves the most probable alone
    top-k, top-p, min-p, typical,                        what removes tokens
    one draw.

A filter turns the logits of what it removes into -inf, so that the rest can be renormalized; it never removes all. A
row that is -inf throughout stays so.

Knows nothing of models or text. Randomness enters as numbers drawn beforehand, for each sample from a generator of its
own, so that a sample is the same alone and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from attncli.config import SampleConfig
from attncli.model.distribution import scale_by_temperature

_Step = Callable[[Tensor], Tensor]

_STREAM = 1_000_003
_PARTS = (128, 1024, 8192)  # tokens that are put in order before all are


def sample_seed(seed: int, sample: int) -> int:
    """The seed with which a sample, by its number, is the first and only one."""
    return (seed + sample * _STREAM) % 2**63


def generators(seed: int, samples: int) -> list[torch.Generator]:
    """One for each sample, a function of the seed and the sample's number alone."""
    return [torch.Generator().manual_seed(sample_seed(seed, sample)) for sample in range(samples)]


def uniforms(streams: Sequence[torch.Generator], count: int) -> Tensor:
    """The next numbers in [0, 1) of every generator, (samples, count)."""
    return torch.stack([torch.rand(count, generator=stream) for stream in streams])


@dataclass(frozen=True)
class Seen:
    """Which tokens every row has, as masks (B, V)."""

    text: Tensor  # in its prompt and in what was generated
    generated: Tensor  # in what was generated

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device | str = "cpu") -> Self:
        """What is seen before anything is generated: prompts of any length, one for each row."""
        text = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
        seen = cls(text, torch.zeros_like(text))
        for row, prompt in enumerate(prompts):
            seen.begin(row, prompt)
        return seen

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Makes a row that of another text, in place."""
        self.text[row] = self.generated[row] = False
        self.text[row, list(prompt)] = True

    def add(self, ids: Tensor, rows: Sequence[int] | None = None) -> None:
        """Takes the next token of every row, or of some, ids (B,), in place."""
        at = torch.arange(len(ids)) if rows is None else torch.tensor(rows)
        self.text[at, ids] = True
        self.generated[at, ids] = True

    def of_rows(self, rows: Sequence[int]) -> Self:
        """The same for these rows alone, in their order."""
        return type(self)(self.text[rows], self.generated[rows])


def needs_seen(config: SampleConfig) -> bool:
    """Whether these settings look at the tokens seen before."""
    return config.repetition_penalty != 1 or config.presence_penalty != 0


# What moves single logits


def add_bias(logits: Tensor, biases: tuple[tuple[int | str, float], ...]) -> Tensor:
    """Adds to the logits of some tokens; -inf bans one. Raises IndexError for an id that is not below V."""
    return logits + _dense(biases, logits.shape[-1], logits.device)


@lru_cache(maxsize=4)  # asked for again at every token
def _dense(biases: tuple[tuple[int | str, float], ...], size: int, device: torch.device) -> Tensor:
    row = torch.zeros(size)
    for id_, bias in biases:
        assert isinstance(id_, int), "generation.bias.with_token_ids looks up a token named by its text"
        row[id_] += bias
    return row.to(device)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divides positive logits of seen tokens by the penalty, multiplies negative ones (Keskar et al., 2019).

    seen (B, V) is true for the tokens of the prompt and of the text so far.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_presence(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Subtracts the penalty once from the logits of tokens generated before, as OpenAI and vLLM define it.

    generated (B, V) is true for the tokens of the text so far, without the prompt.
    """
    return torch.where(generated, logits - penalty, logits)


# What removes tokens


def keep_best(logits: Tensor) -> Tensor:
    """Keeps the most probable token alone, of equal ones the first."""
    at = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter(-1, at, logits.gather(-1, at))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps exactly the k largest (all, when there are no more); of equal ones at the border, any."""
    if k >= logits.shape[-1]:
        return logits
    values, at = logits.topk(k)
    return torch.full_like(logits, -math.inf).scatter(-1, at, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest most probable tokens that together have probability p (Holtzman et al., 2020), at least one."""
    return logits if p >= 1 else _keep_fewest(logits, logits, logits.softmax(-1), p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens at least p times as probable as the most probable one (Nguyen et al., 2024)."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest tokens of probability p together whose surprise is nearest to the one expected, the entropy.

    Locally typical sampling (Meister et al., 2023). It may remove the most probable token, where that says too little.
    """
    if p >= 1:
        return logits
    probabilities, surprise = logits.softmax(-1), logits.log_softmax(-1).neg_()
    # A running sum goes through every row alone in one order, where sum() goes by the shape of the batch.
    entropy = (probabilities * surprise).nan_to_num_(0).cumsum(-1)[..., -1:]
    return _keep_fewest(logits, -(surprise - entropy).abs(), probabilities, p)


def _keep_fewest(logits: Tensor, rank: Tensor, probabilities: Tensor, p: float) -> Tensor:
    """Keeps the tokens of the highest rank, of equal ones the first, until their probabilities reach p."""
    for order in _in_order(rank):
        reached = probabilities.gather(-1, order).cumsum(-1) >= p
        unneeded = reached.roll(1, -1)
        unneeded[..., 0] = False
        ranks = rank.gather(-1, order)
        end, lowest = ranks[..., -1], ranks.masked_fill(unneeded, math.inf).amin(-1)
        # Of those that rank as the end of a part does, some may be missing; -inf is the rank of what cannot come.
        if order.shape == rank.shape or bool(((lowest > end) | (end == -math.inf)).all()):
            break
    kept = logits.gather(-1, order).masked_fill_(unneeded, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, order, kept)


def best(logits: Tensor, count: int) -> Tensor:
    """Ids (B, count) of the most probable tokens, of equal ones the first; all of them, when there are no more."""
    for order in _in_order(logits):
        if order.shape == logits.shape:
            break
        ranks = logits.gather(-1, order)
        if count < order.shape[-1] and bool((ranks[..., max(count, 1) - 1] > ranks[..., -1]).all()):
            break
    return order[..., :count]


def _in_order(rank: Tensor) -> Iterator[Tensor]:
    """Ids by rank (B, V), the highest first, of equal ones the first: (B, n) for growing n, in the end all V.

    To sort a vocabulary takes a CPU longer than a small model takes for a token, and mostly few of it are asked for.
    On a GPU sorting is fast, and looking whether a part was enough is what waits.
    """
    if rank.device.type == "cpu":
        for count in _PARTS:
            if 2 * count <= rank.shape[-1]:
                at = rank.topk(count, sorted=False).indices.sort(-1).values
                yield at.gather(-1, rank.gather(-1, at).sort(dim=-1, descending=True, stable=True).indices)
    yield rank.sort(dim=-1, descending=True, stable=True).indices


# All of it


def steps(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Iterator[tuple[str, Tensor]]:
    """Logits (B, V) after every step that is on, in order, each with the name of its option."""
    for name, step in (*_moves(config, seen), *_filters(config)):
        logits = step(logits)
        yield name, logits


def filtered(logits: Tensor, config: SampleConfig, seen: Seen | None = None) -> Tensor:
    """Logits (B, V) after every step of the config; their softmax is what is drawn from."""
    for _, step in (*_moves(config, seen), *_filters(config)):
        logits = step(logits)
    return logits


def _moves(config: SampleConfig, seen: Seen | None) -> Iterator[tuple[str, _Step]]:
    """The steps that count at temperature 0 too."""
    if config.logit_bias:
        yield "logit-bias", lambda logits: add_bias(logits, config.logit_bias)
    if config.repetition_penalty != 1 and seen is not None:
        yield "repetition-penalty", lambda logits: penalize_repetition(logits, seen.text, config.repetition_penalty)
    if config.presence_penalty != 0 and seen is not None:
        yield "presence-penalty", lambda logits: penalize_presence(logits, seen.generated, config.presence_penalty)


def _filters(config: SampleConfig) -> Iterator[tuple[str, _Step]]:
    """The temperature and what comes after it."""
    if config.temperature == 0:
        yield "temperature", keep_best
        return
    if config.temperature != 1:
        yield "temperature", lambda logits: scale_by_temperature(logits, config.temperature)
    if config.top_k > 0:
        yield "top-k", lambda logits: keep_top_k(logits, config.top_k)
    if config.top_p < 1:
        yield "top-p", lambda logits: keep_top_p(logits, config.top_p)
    if config.min_p > 0:
        yield "min-p", lambda logits: keep_min_p(logits, config.min_p)
    if config.typical < 1:
        yield "typical", lambda logits: keep_typical(logits, config.typical)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token per row from softmax(logits): the cumulative distribution inverted at uniform (B,), each in [0, 1).

    A row that is -inf throughout gives token 0, as argmax does.
    """
    cumulative = logits.softmax(-1).cumsum_(-1)
    at = uniform[:, None] * cumulative[:, -1:]  # stays below the total, so the token found has some probability
    return torch.searchsorted(cumulative, at, right=True)[:, 0].remainder_(logits.shape[-1])


def next_token(logits: Tensor, config: SampleConfig, uniform: Tensor, seen: Seen | None = None) -> Tensor:
    """logits (B, V), uniform (B,) -> ids (B,). Temperature 0 is the most probable token after bias and penalties."""
    logits = logits.float()
    if config.temperature > 0:
        return draw(filtered(logits, config, seen), uniform)
    for _, step in _moves(config, seen):
        logits = step(logits)
    return logits.argmax(-1)
