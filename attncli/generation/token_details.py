"""Details of drawn tokens: log-probabilities, the most probable alternatives, and a trace of the sampling steps.

The functions are pure functions of the logits that a token was drawn from. They are called after the draw, so details
do not change a text. A trace applies the sampling steps of `sampling` again. The parameter `text_of` is a function from
a token id to its text, so no tokenizer is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attncli.config import SampleConfig
from attncli.generation.events import Token, TokenLogprob, Trace, TraceStep
from attncli.generation.sampling import Seen, best, steps

_TRACED_BEST = 5  # most probable tokens in each step of a trace


@dataclass(frozen=True)
class TokenDetails:
    """The details to report for each token besides its log-probability."""

    top: int = 0  # how many of the most probable tokens to report
    trace: bool = False  # whether to report the effect of each sampling step


def describe_tokens(
    logits: Tensor,
    ids: Tensor,
    config: SampleConfig,
    details: TokenDetails,
    text_of: Callable[[int], str],
    seen: Seen | None,
) -> list[Token]:
    """Returns the Token events of ids (B,) that were drawn from logits (B, V). Row r is sample r.

    `seen` are the masks at the time of the draw.
    """
    drawn, top, top_logprobs = (values.tolist() for values in logprobs(logits, ids, details.top))
    traces = trace(logits, ids, config, text_of, seen) if details.trace else [None] * len(ids)
    return [
        Token(row, id_, text_of(id_), drawn[row], _with_logprobs(top[row], top_logprobs[row], text_of), traces[row])
        for row, id_ in enumerate(ids.tolist())
    ]


def logprobs(logits: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the log-probabilities (B,) of `ids`, the most probable ids (B, K), and their log-probabilities (B, K).

    K is min(count, V). Log-probabilities are in nats, under the model's own distribution: temperature 1, no token
    removed. They are float64, and all results are on the CPU. Among equally probable tokens, the lowest id comes first.
    """
    exact = logits.cpu().double().log_softmax(-1)
    top = best(logits.cpu(), count)
    return exact.gather(-1, ids.cpu()[:, None])[:, 0], top, exact.gather(-1, top)


def trace(
    logits: Tensor, ids: Tensor, config: SampleConfig, text_of: Callable[[int], str], seen: Seen | None = None
) -> list[Trace]:
    """Returns a Trace for each row of logits (B, V).

    A Trace contains the effect of every active step, and the final probability of the drawn id.
    """
    logits = logits.float()
    stages = [("model", logits), *steps(logits, config, seen)]
    on_cpu = [(name, stage.cpu()) for name, stage in stages]
    return [
        _trace([(name, stage[row]) for name, stage in on_cpu], id_, config, text_of)
        for row, id_ in enumerate(ids.tolist())
    ]


def _trace(stages: list[tuple[str, Tensor]], id_: int, config: SampleConfig, text_of: Callable[[int], str]) -> Trace:
    traced, before = [], stages[0][1]
    for name, after in stages:
        gone = (after == -math.inf) & (before > -math.inf)
        traced.append(
            TraceStep(
                name,
                _setting(config, name),
                int(gone.sum()),
                float(before.double().softmax(-1)[gone].sum()),
                int((after > -math.inf).sum()),
                _best_left(after, text_of),
            )
        )
        before = after
    probability = float(before.double().softmax(-1)[id_]) if traced[-1].left else 0.0
    return Trace(tuple(traced), probability)


def _setting(config: SampleConfig, name: str) -> float | None:
    """Returns the value of a step's option; None for `model`, which has no option, and for options without a number."""
    value = getattr(config, name.replace("-", "_"), None)
    return float(value) if isinstance(value, int | float) else None


def _best_left(logits: Tensor, text_of: Callable[[int], str]) -> tuple[TokenLogprob, ...]:
    """Returns the most probable tokens of logits (V,), without removed tokens."""
    ids = best(logits[None], _TRACED_BEST)[0]
    ids = ids[logits[ids] > -math.inf]
    return _with_logprobs(ids.tolist(), logits.double().log_softmax(-1)[ids].tolist(), text_of)


def _with_logprobs(ids: list[int], values: list[float], text_of: Callable[[int], str]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(id_, text_of(id_), value) for id_, value in zip(ids, values, strict=True))
