"""What a drawn token was chosen from: its log-probability and its rivals', and what every step on the way removed.

Pure functions on the logits that were drawn from, asked after the draw, so that looking changes no text. The steps are
those of sampling.py, not a second account of them. Knows tokens by their ids and a function that gives their text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attncli.config import SampleConfig
from attncli.generation.events import Choice, Token, Trace, TraceStep
from attncli.generation.sampling import Seen, best, steps

_BEST = 5  # most probable tokens that a step of a trace shows


@dataclass(frozen=True)
class Watch:
    """What to tell of every token."""

    top: int = 0  # how many of the most probable tokens, with their log-probabilities
    trace: bool = False


def tokens(
    logits: Tensor, ids: Tensor, config: SampleConfig, watch: Watch, text_of: Callable[[int], str], seen: Seen | None
) -> list[Token]:
    """What to tell of the token ids (B,) drawn from logits (B, V), with `seen` as it was then; row r is sample r."""
    drawn, top, top_logprobs = (values.tolist() for values in logprobs(logits, ids, watch.top))
    traces = trace(logits, ids, config, text_of, seen) if watch.trace else [None] * len(ids)
    return [
        Token(row, id_, text_of(id_), drawn[row], _choices(top[row], top_logprobs[row], text_of), traces[row])
        for row, id_ in enumerate(ids.tolist())
    ]


def logprobs(logits: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under the model's own distribution: temperature 1, nothing removed.

    Returns those of the ids (B,), the ids (B, K) of the K = `count` most probable tokens (of equal ones the first; all,
    when there are no more), and theirs (B, K), in nats, float64 on the CPU.
    """
    exact = logits.cpu().double().log_softmax(-1)
    top = best(logits.cpu(), count)
    return exact.gather(-1, ids.cpu()[:, None])[:, 0], top, exact.gather(-1, top)


def trace(
    logits: Tensor, ids: Tensor, config: SampleConfig, text_of: Callable[[int], str], seen: Seen | None = None
) -> list[Trace]:
    """What every step that is on did to each row of logits (B, V), and how probable its drawn id (B,) was then."""
    logits = logits.float()
    stages = [("model", logits), *steps(logits, config, seen)]
    on_cpu = [(name, stage.cpu()) for name, stage in stages]
    return [
        _trace([(name, stage[row]) for name, stage in on_cpu], id_, config, text_of)
        for row, id_ in enumerate(ids.tolist())
    ]


def _trace(stages: list[tuple[str, Tensor]], id_: int, config: SampleConfig, text_of: Callable[[int], str]) -> Trace:
    found, before = [], stages[0][1]
    for name, after in stages:
        gone = (after == -math.inf) & (before > -math.inf)
        found.append(
            TraceStep(
                name,
                None if name in ("model", "logit-bias") else float(getattr(config, name.replace("-", "_"))),
                int(gone.sum()),
                float(before.double().softmax(-1)[gone].sum()),
                int((after > -math.inf).sum()),
                _best_left(after, text_of),
            )
        )
        before = after
    probability = float(before.double().softmax(-1)[id_]) if found[-1].left else 0.0
    return Trace(tuple(found), probability)


def _best_left(logits: Tensor, text_of: Callable[[int], str]) -> tuple[Choice, ...]:
    """The most probable tokens of logits (V,) that are not removed."""
    ids = best(logits[None], _BEST)[0]
    ids = ids[logits[ids] > -math.inf]
    return _choices(ids.tolist(), logits.double().log_softmax(-1)[ids].tolist(), text_of)


def _choices(ids: list[int], values: list[float], text_of: Callable[[int], str]) -> tuple[Choice, ...]:
    return tuple(Choice(id_, text_of(id_), value) for id_, value in zip(ids, values, strict=True))
