"""The records of training: the plan, a report for everything that happens, the summary. Plain values, no torch."""

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
    """Every setting of a run, decided before the first step; `reasons` explains those that the user left open."""

    model: ModelConfig
    parameters: int
    context: int  # tokens of a window of training text; the context of the model may be longer
    batch_size: int  # windows in a step
    grad_accum: int  # micro-batches in a step
    checkpoint_activations: bool
    optimizer: OptimizerKind
    adam_lr: float  # peak, of the parameters that AdamW updates; `schedule` has the peak of Muon's
    dropout: float
    weight_decay: float
    schedule: Schedule
    eval_every: int  # steps
    report_every: int  # steps
    seed: int
    device: str
    dtype: str
    compiled: bool
    threads: int  # of the CPU
    seconds: float | None  # the deadline, from the start of the program
    most_steps: int | None  # of a run with a deadline, however much time is left
    step_seconds: float  # measured before the first step
    closing_windows: int | None  # of the validation part that the final evaluation scores; None for all
    closing_seconds: float  # kept for the final evaluation, the last save and the judgement
    memory_bytes: int  # the peak, estimated
    train_tokens: int
    train_bytes: int
    reasons: dict[str, str]
    save_dtype: str = TrainConfig.save_dtype  # of the finished model's weights; records of earlier versions lack it
    busy: float = 1.0  # seconds of a measured step per second of its CPU time: 1 on an idle machine

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
        """How often the training part is seen."""
        return self.schedule.steps * self.tokens_per_step / self.train_tokens


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values, for run.json and for programs."""
    return asdict(plan) | {"model": shape_to_json(plan.model)}


def plan_from_document(document: object, where: str = "plan") -> Plan:
    """The plan of a document that `plan_document` made, in this version or an earlier one.

    Raises BadCheckpoint, naming the field that does not fit.
    """
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document | {"model": shape_from_json(document["model"])}
    return record_from_json(Plan, document, where)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The progress of a run, which a saved state holds beside its tensors."""

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
    """Steps were taken since the last report; `loss` is their mean in nats per token."""

    step: int  # steps taken so far
    steps: int  # in all, as planned now
    loss: float
    lr: float
    tokens_per_second: float
    seconds: float  # spent on this run so far, resumed parts included


@dataclass(frozen=True)
class EvalReport:
    """The validation part, or an even sample of it, was scored."""

    step: int
    score: Score
    best: bool  # the loss is lower than at every earlier evaluation
    seconds: float


@dataclass(frozen=True)
class SampleReport:
    """A sample of the model's text after the fixed prompt of the run, which `text` begins with."""

    step: int
    text: str
    prompt_characters: int


@dataclass(frozen=True)
class BestHead:
    """The best head of a kind. `score` is the mean attention weight on the tokens that this kind of head attends to."""

    kind: str
    layer: int
    head: int
    score: float
    chance: float  # the score of uniform attention


@dataclass(frozen=True)
class HeadsReport:
    """The attention heads were scored. `scores` by kind, then layer, then head; None for a head without a score."""

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
    """The run has ended. `finished` is false when it was stopped; then `best` is the score of a sample."""

    finished: bool
    step: int
    steps: int  # in all, as planned at the end
    best_step: int
    best: Score | None  # of a finished run, on as much of the validation part as there was time for
    train_loss: float | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """The score of a finished run with its judgement and a sample."""

    result: Result
    share: float  # of the validation part that was scored
    prompt: str  # the first words of the text, to try the model with
    sample: str  # text that the finished model generated without a prompt
    judgement: Judgement  # its memorization is that of a longer sample, which begins with `sample`
    sample_tokens: int  # the most tokens of `sample`


Report = StepReport | EvalReport | SampleReport | HeadsReport | SaveReport | Result
