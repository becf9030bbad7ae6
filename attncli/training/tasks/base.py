"""Task: what a run learns. A task contains everything that differs between training on a text and training on pairs.

The plan, the loop, the evaluations, the saves and the summary use a task without knowing its kind. `text.TextTask`
learns to predict the next token of a text. `pairs.PairTask` learns to translate the sources of pairs to their targets.
`registry.task_of` returns the task of a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from attncli.checkpoint.load import LoadedModel
from attncli.checkpoint.save import Borders
from attncli.config import ModelConfig, TrainConfig
from attncli.errors import Naming
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Tokenizer
from attncli.training.decision import Decision
from attncli.training.recipe import Tuning
from attncli.training.reports import Plan, Result, RunSummary, SampleReport, TranslationsReport

Sampler = Callable[[Transformer, int], SampleReport | TranslationsReport]  # of a model and the number of its step


class MicroBatch(NamedTuple):
    """A part of a batch: the arguments of the loss, and the part's share of the predicted tokens."""

    tensors: tuple[Tensor | None, ...]
    share: float


class Batch(Protocol):
    """The tensors of a training step."""

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device."""

    def micro_batches(self, parts: int) -> Sequence[MicroBatch]:
        """Splits the batch into at most `parts` micro-batches, whose shares add up to 1."""


class Load(NamedTuple):
    """The largest batch of a run: its rows, the tokens of a row, and the keys of a query, padding included."""

    rows: int
    row_tokens: int
    keys: int  # the most tokens to which a token attends


class Task(Protocol):
    """The task of a run: the corpus, and everything that depends on its kind.

    A run counts the tokens that the model predicts: every token of a text, and the target tokens of pairs. The
    validation part is scored in units: windows of a text, or pairs.
    """

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the corpus."""

    @property
    def tuning(self) -> Tuning:
        """The numbers of the recipe for this task."""

    @property
    def train_tokens(self) -> int:
        """The tokens of an epoch."""

    @property
    def train_bytes(self) -> int:
        """The bytes of the text that the tokens of an epoch encode."""

    @property
    def amounts(self) -> str:
        """The sizes of both parts in words: '9,000 characters to train on, 1,000 to validate'."""

    @property
    def vocabulary_reason(self) -> str:
        """The amount of text that the size of the vocabulary was chosen for, as a reason of the plan."""

    def within(self, context: int) -> Task:
        """Returns the task for a run with this context. Raises BadInput if nothing fits the context."""

    # The plan

    def choose_context(
        self, config: TrainConfig, seconds: float, device: torch.device, start: ModelConfig | None
    ) -> Decision[int]:
        """Chooses the context of a run of `seconds`. `start` is the shape of the model to fine-tune.

        Raises UsageProblem for a context longer than the context of `start`, and BadInput for too little text.
        """

    def choose_batch_size(self, config: TrainConfig, seconds: float, device: torch.device, context: int) -> int:
        """Chooses the size of a batch: in windows for a text, in padded tokens for pairs."""

    def timed_batch_size(self, batch_size: int, context: int, most_tokens: int) -> int:
        """Returns the size of a batch of about `most_tokens` tokens, but at most `batch_size`."""

    def step_tokens(self, context: int, batch_size: int) -> int:
        """Returns the mean number of tokens of a step."""

    def load(self, context: int, batch_size: int) -> Load:
        """Returns the size of the largest batch."""

    def shape(self, layers: int, width: int, context: int) -> ModelConfig:
        """Returns the config of a new model."""

    def unit_count(self, context: int) -> int:
        """Returns the number of units of the validation part."""

    def unit_tokens(self, context: int) -> float:
        """Returns the mean number of tokens of a unit."""

    def units_at_once(self, device: torch.device, context: int) -> int:
        """Returns how many units are scored in one batch."""

    def units_during(self, plan: Plan) -> int:
        """Returns how many units an evaluation during the run scores: a small share of the run's time."""

    def judging_seconds(self, seconds: float, *, timed: bool) -> float:
        """Estimates the time of the judgment after a run of `seconds`, without the final sample."""

    def notes(self, plan: Plan, start: LoadedModel | None) -> Iterator[str]:
        """Yields notes on the corpus for the user, before the run begins."""

    # The run

    def batch(self, step: int, seed: int, context: int, batch_size: int) -> Batch:
        """Returns the batch of a step: a pure function of the arguments."""

    def evaluate(
        self,
        model: Transformer,
        units: int | None,
        context: int | None = None,
        progress: Callable[[int], None] = lambda scored: None,
    ) -> Score:
        """Scores the validation part, or an evenly spread sample of `units` units of it.

        `context` is the length of a window, by default the model's context. After each batch, `progress` is called with
        the number of tokens scored so far.
        """

    def share_of(self, score: Score) -> float:
        """Returns the share of the validation part that a score covers, from 0 to 1."""

    def is_whole(self, score: Score) -> bool:
        """Whether a score covers all tokens of the validation part."""

    def sampler(self, plan: Plan) -> Sampler | None:
        """Returns the function that shows at each evaluation what the model has learned, or None for a short run."""

    # The records

    def borders(self) -> Borders:
        """Returns the start token and the end tokens of a new model."""

    def facts(self) -> dict[str, Any]:
        """Returns the facts about the corpus for run.json."""

    def summarize(
        self, loaded: LoadedModel, result: Result, plan: Plan, metrics: Iterable[Mapping[str, Any]], naming: Naming
    ) -> RunSummary:
        """Returns the summary of a finished run.

        `metrics` are the lines of metrics.jsonl. `naming` returns the name of a setting as the user writes it.
        """
