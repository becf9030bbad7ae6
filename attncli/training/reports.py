"""What training says about itself: the plan, and a report for everything that happens.

Frozen records of plain values; no torch, so that whoever draws them needs none.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from attncli.config import (
    TRAIN_DTYPES,
    ModelConfig,
    OptimizerKind,
    TrainConfig,
    require,
    shape_from_json,
    shape_to_json,
)
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.score import Score
from attncli.records import record_from_json
from attncli.training.schedule import Schedule, require_marks

_COUNTS = (
    *("parameters", "context", "batch_size", "grad_accum", "eval_every", "report_every", "threads", "closing_windows"),
    *("most_steps", "train_tokens", "train_bytes"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything decided before the first step. `reasons` says why, for what was chosen rather than given."""

    model: ModelConfig
    parameters: int
    context: int  # tokens of a window; the model itself may see more
    batch_size: int  # windows in a step
    grad_accum: int  # parts that a step is taken in
    checkpoint_activations: bool
    optimizer: OptimizerKind
    adam_lr: float  # the peak for what AdamW updates when the optimizer is Muon; that of the matrices is in `schedule`
    dropout: float
    weight_decay: float
    schedule: Schedule
    eval_every: int  # steps
    report_every: int  # steps
    seed: int
    device: str
    dtype: str
    compiled: bool
    threads: int  # of the CPU, for what it computes
    seconds: float | None  # the deadline, from the start of the program
    most_steps: int | None  # that a run with a deadline takes, however much time is left
    step_seconds: float  # measured before the first step
    closing_windows: int | None  # of the validation part that the last evaluation scores; None for all
    closing_seconds: float  # kept for the last evaluation, the last save and the closing figures
    memory_bytes: int  # an estimate of the peak
    train_tokens: int
    train_bytes: int
    reasons: dict[str, str]
    save_dtype: str = TrainConfig.save_dtype  # of the finished model's weights; runs of before do not say it
    busy: float = 1.0  # of a measured step the time over that of the CPU: 1 where no other program wants the cores

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.context <= self.model.context, "context", self.context, f"at most {self.model.context}")
        require(self.grad_accum <= self.batch_size, "grad_accum", self.grad_accum, f"at most {self.batch_size}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or above")
        require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        for name in ("dtype", "save_dtype"):
            require(getattr(self, name) in TRAIN_DTYPES, name, getattr(self, name), " or ".join(TRAIN_DTYPES))

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step trains on."""
        return self.batch_size * self.context

    def bits_per_byte(self, loss: float) -> float:
        """A loss on the training part, in nats per token, as bits per byte of its text."""
        return loss / math.log(2) * self.train_tokens / self.train_bytes

    @property
    def epochs(self) -> float:
        """Times that the whole training part is seen."""
        return self.schedule.steps * self.tokens_per_step / self.train_tokens


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as `run.json` and `--json` hold it."""
    return asdict(plan) | {"model": shape_to_json(plan.model)}


def plan_from_document(document: object, where: str = "plan") -> Plan:
    """The plan that `plan_document` and JSON made, now or in an earlier version.

    Raises BadCheckpoint, naming the field that does not fit.
    """
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document | {"model": shape_from_json(document["model"])}
    return record_from_json(Plan, document, where)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How far a run has come: what a saved state says beside its tensors."""

    step: int
    seconds: float  # spent on the run
    schedule: tuple[tuple[int, int], ...]  # the marks of the schedule
    best_step: int
    best: Score | None
    train_loss: float | None

    def __post_init__(self) -> None:
        require_marks(self.schedule)
        steps = self.schedule[-1][1]
        require(0 <= self.step <= steps, "step", self.step, f"from 0 to {steps}")
        require(0 <= self.best_step <= self.step, "best_step", self.best_step, f"from 0 to {self.step}")
        require(self.seconds >= 0, "seconds", self.seconds, "0 or above")
        if self.best is not None:
            counts = self.best.scored, self.best.characters, self.best.bytes
            require(min(counts) > 0, "best", counts, "of more than 0 tokens, characters and bytes")


@dataclass(frozen=True)
class StepReport:
    """Some steps were taken; `loss` is their mean, in nats per token."""

    step: int  # steps taken so far
    steps: int  # in all, as expected now
    loss: float
    lr: float
    tokens_per_second: float
    seconds: float  # spent on this run so far, resumed parts included


@dataclass(frozen=True)
class EvalReport:
    """The validation part, or an even sample of it, was scored."""

    step: int
    score: Score
    best: bool  # lower than every earlier one
    seconds: float


@dataclass(frozen=True)
class SampleReport:
    """What the model writes now after the run's one fixed prompt, which `text` begins with."""

    step: int
    text: str
    prompt_characters: int


@dataclass(frozen=True)
class BestHead:
    """The attention head that does most of one thing: the mean weight it puts where that kind of head looks."""

    kind: str
    layer: int
    head: int
    score: float
    chance: float  # the score of even attention


@dataclass(frozen=True)
class HeadsReport:
    """What the attention heads do now. `scores` by kind, then layer, then head; None where there is none."""

    step: int
    best: tuple[BestHead, ...]
    scores: dict[str, list[list[float | None]]]
    seconds: float


@dataclass(frozen=True)
class SaveReport:
    """Everything up to this step is safe on disk."""

    step: int


@dataclass(frozen=True)
class Result:
    """The end. `finished` is false when a signal stopped the run; then `best` is a sampled score."""

    finished: bool
    step: int
    steps: int  # in all, as expected at the end
    best_step: int
    best: Score | None  # when finished, over as much of the validation part as the time allowed
    train_loss: float | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """What came out of a finished run."""

    result: Result
    share: float  # of the validation part, that the score is of
    prompt: str  # words of the text to try the model with
    sample: str  # text that the finished model wrote without a prompt
    judgement: Judgement  # of a longer sample, which `sample` begins
    sample_tokens: int  # in `sample`, at most


Report = StepReport | EvalReport | SampleReport | HeadsReport | SaveReport | Result
