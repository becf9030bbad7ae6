"""Defines the records of training: the plan, the reports of a run, and its summary. Plain values, no torch."""

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
from attncli.config.lora import LoraConfig
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.score import Score
from attncli.evaluation.translation_judgement import TranslationJudgement
from attncli.records import record_from_json
from attncli.training.schedule import Schedule, require_marks

_COUNTS = (
    *("parameters", "context", "batch_size", "grad_accum", "eval_every", "report_every", "threads", "closing_windows"),
    *("most_steps", "train_tokens", "train_bytes", "step_tokens", "trained_parameters"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every setting of a run, decided before the first step. `reasons` explains settings that the user did not give."""

    model: ModelConfig
    parameters: int
    context: int  # tokens in a window or in a side of a pair; the model's context may be longer
    batch_size: int  # windows in a step; for pairs, the most tokens of both sides in a step, padding included
    grad_accum: int  # micro-batches in a step
    checkpoint_activations: bool
    optimizer: OptimizerKind
    adam_lr: float  # the peak rate of the parameters that AdamW updates; `schedule` has the peak rate of Muon
    dropout: float
    weight_decay: float
    schedule: Schedule
    eval_every: int  # steps
    report_every: int  # steps
    seed: int
    device: str
    dtype: str
    compiled: bool
    threads: int  # CPU threads
    seconds: float | None  # the deadline, counted from the start of the program; None for an untimed run
    most_steps: int | None  # the number of steps after which a timed run ends, even if time is left
    step_seconds: float  # the time of a step, measured before the first step
    closing_windows: int | None  # windows or pairs of the validation part that the final evaluation scores; None: all
    closing_seconds: float  # the time reserved for the final evaluation, the last save and the judgment
    memory_bytes: int  # the estimated peak memory
    train_tokens: int  # tokens that an epoch predicts; for pairs, target tokens
    train_bytes: int
    reasons: dict[str, str]
    save_dtype: str = TrainConfig.save_dtype  # the type of the saved weights; not recorded by earlier versions
    busy: float = 1.0  # the time of the measured step divided by its CPU time: about 1 on an idle machine
    label_smoothing: float = 0.0
    lora: LoraConfig | None = None  # the adapters that are trained alone; None: every weight is trained
    trained_parameters: int | None = None  # of the adapters; None: all parameters
    step_tokens: int | None = None  # for pairs, the mean number of target tokens in a step

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.context <= self.model.context, "context", self.context, f"at most {self.model.context}")
        require(self.grad_accum <= self.batch_size, "grad_accum", self.grad_accum, f"at most {self.batch_size}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or above")
        require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        for name in ("dtype", "save_dtype"):
            require(getattr(self, name) in TRAIN_DTYPES, name, getattr(self, name), " or ".join(TRAIN_DTYPES))

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens that one step predicts; for pairs, the mean number of target tokens."""
        return self.batch_size * self.context if self.step_tokens is None else self.step_tokens

    @property
    def translates(self) -> bool:
        """Whether the run learns to translate pairs."""
        return self.model.encoder_layers > 0

    def bits_per_byte(self, loss: float) -> float:
        """Converts a loss on the training part from nats per token to bits per byte."""
        return loss / math.log(2) * self.train_tokens / self.train_bytes

    @property
    def epochs(self) -> float:
        """How many times the run sees the training part."""
        return self.schedule.steps * self.tokens_per_step / self.train_tokens


def plan_document(plan: Plan) -> dict[str, Any]:
    """Returns the plan as JSON values, for run.json and `--json`."""
    return asdict(plan) | {"model": shape_to_json(plan.model)}


def plan_from_document(document: object, where: str = "plan") -> Plan:
    """Returns the plan from the JSON values that `plan_document` returned, in this version or in an earlier version.

    Raises BadCheckpoint, which names the field, if a field is invalid.
    """
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document | {"model": shape_from_json(document["model"])}
    return record_from_json(Plan, document, where)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The progress of a run, which is saved with the tensors of its state."""

    step: int
    seconds: float  # spent on the run
    schedule: tuple[tuple[int, int], ...]  # the schedule's marks
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
    """A report on the steps since the last report. `loss` is their mean loss in nats per token."""

    step: int  # the steps taken so far
    steps: int  # the total number of steps, as planned now
    loss: float
    lr: float
    tokens_per_second: float
    seconds: float  # the time of the run so far, including its parts before it was resumed


@dataclass(frozen=True)
class EvalReport:
    """The score on the validation part or on an evenly spread sample of it."""

    step: int
    score: Score
    best: bool  # whether the loss is lower than at every earlier evaluation
    seconds: float


@dataclass(frozen=True)
class SampleReport:
    """A sample of the model's text. `text` begins with the prompt, which is fixed for the run."""

    step: int
    text: str
    prompt_characters: int


@dataclass(frozen=True)
class Translation:
    """The source of a pair, the model's translation, and the target of the pair as the reference."""

    source: str
    output: str
    reference: str


@dataclass(frozen=True)
class TranslationsReport:
    """Translations of a few validation sources, which are fixed for the run."""

    step: int
    examples: tuple[Translation, ...]


@dataclass(frozen=True)
class BestHead:
    """The best head of a kind. `score` is its mean attention weight on the tokens that heads of this kind attend to."""

    kind: str
    layer: int
    head: int
    score: float
    chance: float  # the score of uniform attention


@dataclass(frozen=True)
class HeadsReport:
    """The scores of all attention heads, and the best head of each kind."""

    step: int
    best: tuple[BestHead, ...]
    scores: dict[str, list[list[float | None]]]  # by kind, then layer, then head; None for a head without a score
    seconds: float


@dataclass(frozen=True)
class SaveReport:
    """Reports that the run up to this step is saved on the disk."""

    step: int


@dataclass(frozen=True)
class Result:
    """The result of a run. `finished` is false if the run was stopped."""

    finished: bool
    step: int
    steps: int  # the total number of steps, as planned at the end
    best_step: int
    best: Score | None  # on as much of the validation part as there was time for; of a stopped run, on a sample
    train_loss: float | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """The score of a finished run, its judgment and a sample; for pairs, examples of translations."""

    result: Result
    share: float  # the share of the validation part that was scored
    prompt: str  # the first words of the training text, or a validation source, as a prompt to try the model with
    sample: str  # text that the finished model generated without a prompt; empty for pairs
    judgement: Judgement  # its memorization is measured on a longer sample, which begins with `sample`
    sample_tokens: int  # the largest number of tokens in `sample`
    examples: tuple[Translation, ...] = ()  # translations by the finished model
    translation: TranslationJudgement | None = None  # for pairs


Report = StepReport | EvalReport | SampleReport | TranslationsReport | HeadsReport | SaveReport | Result
