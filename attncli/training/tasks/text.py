"""TextTask: learns to predict the next token of a text.

A step reads windows of the training part. The validation part is scored in windows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncli.checkpoint.load import LoadedModel
from attncli.checkpoint.save import Borders
from attncli.config import ModelConfig, TrainConfig
from attncli.errors import Naming
from attncli.evaluation.evaluate import evaluate, windows_at_once
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.batch import batch
from attncli.text.corpus import Corpus
from attncli.text.tokenizer import Tokenizer
from attncli.training import recipe
from attncli.training.budget import counted_tokens, evaluation_windows
from attncli.training.decision import Decision
from attncli.training.recipe import Tuning
from attncli.training.reports import Plan, Result, RunSummary
from attncli.training.samples import sampler
from attncli.training.shapes import shape
from attncli.training.step_setup import choose_context, usual_batch
from attncli.training.tasks.base import Load, MicroBatch, Sampler
from attncli.training.text_summary import summarize_text

_DOCUMENTS_FOR_START = 10  # with fewer training documents, a model does not learn how a document begins
_FEWEST_VALIDATION_TOKENS = 200  # with fewer tokens, a note says that the scores are rough
_FEWEST_BYTES_PER_TOKEN = 1.5  # with fewer bytes, a note says that the tokenizer does not fit the text


@dataclass(frozen=True)
class TextBatch:
    """The windows of a step as token ids (B, T + 1)."""

    rows: Tensor

    def to(self, device: torch.device | str) -> TextBatch:
        """Returns the batch on a device."""
        rows = self.rows.pin_memory() if torch.device(device).type == "cuda" else self.rows
        return TextBatch(rows.to(device, non_blocking=True))

    def micro_batches(self, parts: int) -> list[MicroBatch]:
        """Splits the windows into `parts` micro-batches."""
        return [MicroBatch((part,), len(part) / len(self.rows)) for part in self.rows.tensor_split(parts)]


@dataclass(frozen=True)
class TextTask:
    """Learns to predict the next token of a text. `base.Task` describes the methods."""

    corpus: Corpus

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text."""
        return self.corpus.tokenizer

    @property
    def tuning(self) -> Tuning:
        """The numbers of the recipe for texts."""
        return recipe.TEXT

    @property
    def train_tokens(self) -> int:
        """The tokens of the training part."""
        return len(self.corpus.train)

    @property
    def train_bytes(self) -> int:
        """The bytes of the training part."""
        return self.corpus.train.bytes

    @property
    def amounts(self) -> str:
        """The sizes of both parts in words."""
        return f"{self.corpus.train.characters:,} characters to train on, {self.corpus.val.characters:,} to validate"

    @property
    def vocabulary_reason(self) -> str:
        """The characters of the training part."""
        return f"for {self.corpus.train.characters:,} characters"

    def within(self, context: int) -> TextTask:
        """Returns this task: a text has windows of every context."""
        return self

    def choose_context(
        self, config: TrainConfig, seconds: float, device: torch.device, start: ModelConfig | None
    ) -> Decision[int]:
        """Chooses the number of tokens in a window, as `step_setup.choose_context` describes."""
        return choose_context(config, self.train_tokens, seconds, device, start)

    def choose_batch_size(self, config: TrainConfig, seconds: float, device: torch.device, context: int) -> int:
        """Returns as many windows as fit into the recipe's tokens per step; at least one per micro-batch."""
        return config.batch_size or max(usual_batch(device, seconds)[1] // context, config.grad_accum or 1)

    def timed_batch_size(self, batch_size: int, context: int, most_tokens: int) -> int:
        """Returns at most `batch_size` windows, with about `most_tokens` tokens."""
        return max(min(batch_size, most_tokens // context), 1)

    def step_tokens(self, context: int, batch_size: int) -> int:
        """Returns the tokens of a step."""
        return batch_size * context

    def load(self, context: int, batch_size: int) -> Load:
        """Returns the size of every batch."""
        return Load(batch_size, context, context)

    def shape(self, layers: int, width: int, context: int) -> ModelConfig:
        """Returns the config of a new decoder."""
        return shape(layers, width, self.tokenizer.vocab_size, context)

    def unit_count(self, context: int) -> int:
        """Returns the number of windows of the validation part."""
        return math.ceil(len(self.corpus.val) / context)

    def unit_tokens(self, context: int) -> float:
        """Returns the tokens of a window."""
        return context

    def units_at_once(self, device: torch.device, context: int) -> int:
        """Returns how many windows are scored in one batch."""
        return windows_at_once(device, context)

    def units_during(self, plan: Plan) -> int:
        """Returns how many windows an evaluation during the run scores."""
        return evaluation_windows(plan)

    def judging_seconds(self, seconds: float, *, timed: bool) -> float:
        """Estimates the time of the compressors, the n-gram model and the search for copied text."""
        train = self.train_tokens
        counted = min(counted_tokens(seconds if timed else None), train)
        compressing = min(recipe.JUDGEMENT_SHARE * seconds, recipe.JUDGEMENT_SECONDS)
        return compressing + counted / recipe.COUNTING_SPEED + train / recipe.OVERLAP_SPEED

    def notes(self, plan: Plan, start: LoadedModel | None) -> Iterator[str]:
        """Yields notes on text that is left out, many epochs, little text, and a tokenizer that does not fit."""
        train, val = self.corpus.train, self.corpus.val
        for does, part in (("trains", train), ("is validated", val)):
            if part.left_out:
                share = f"{part.characters:,} of {part.characters + part.left_out:,} characters"
                spread = f"the model {does} on {share}, spread evenly over the text"
                yield f"the time suffices for a part of the text: {spread}"
        if plan.seconds is None and plan.epochs > recipe.MOST_EPOCHS:
            most = recipe.MOST_EPOCHS
            yield f"{plan.epochs:.0f} passes over the text: after about {most}, a model only memorizes more"
        if len(val) < _FEWEST_VALIDATION_TOKENS:
            yield f"only {len(val):,} tokens to validate on: scores, and the choice of the best weights, are rough"
        per_token = train.bytes / len(train)
        if start is not None and self.tokenizer.kind == "bpe" and per_token < _FEWEST_BYTES_PER_TOKEN:
            pieces = f"the tokenizer of the model cuts this text into pieces of {per_token:.1f} bytes"
            yield f"{pieces}: a new model would get a tokenizer that fits the text"

    def batch(self, step: int, seed: int, context: int, batch_size: int) -> TextBatch:
        """Returns the windows of a step."""
        rows = batch(self.corpus.train.ids, seed=seed, step=step, batch_size=batch_size, context=context)
        return TextBatch(torch.from_numpy(rows))

    def evaluate(
        self,
        model: Transformer,
        units: int | None,
        context: int | None = None,
        progress: Callable[[int], None] = lambda scored: None,
    ) -> Score:
        """Scores the validation part, or `units` windows of it."""
        return evaluate(model, self.corpus.val, windows=units, context=context, progress=progress)

    def share_of(self, score: Score) -> float:
        """Returns the share of the validation part's characters that a score covers."""
        return self.corpus.val.share_of(score.scored)

    def is_whole(self, score: Score) -> bool:
        """Whether a score covers all tokens except the first, which is not scored."""
        return score.scored >= len(self.corpus.val) - 1

    def sampler(self, plan: Plan) -> Sampler | None:
        """Returns a function that continues the first words of the text."""
        return sampler(self.corpus, plan)

    def borders(self) -> Borders:
        """Returns the start token and the end tokens of a new model.

        The start token is the end token of a document. A model that was trained on few documents has not learned this
        token, so its start token is a line end.
        """
        end, line_end = self.tokenizer.end_of_text, self.tokenizer.encode("\n")
        known = frozenset() if end is None else frozenset({end})
        if line_end and (end is None or self.corpus.train.documents < _DOCUMENTS_FOR_START):
            return Borders(line_end[0], known)
        return Borders(0 if end is None else end, known)

    def facts(self) -> dict[str, Any]:
        """Returns the facts about the text for run.json."""
        train, val = self.corpus.train, self.corpus.val
        return {
            "sources": list(self.corpus.sources),
            "digest": self.corpus.digest,
            "text_digest": self.corpus.text_digest,
            "tokenizer": self.tokenizer.kind,
            "train_characters": train.characters,
            "train_left_out": train.left_out,
            "train_bytes": train.bytes,
            "train_tokens": len(train),
            "val_characters": val.characters,
            "val_left_out": val.left_out,
            "val_bytes": val.bytes,
            "val_tokens": len(val),
        }

    def summarize(
        self, loaded: LoadedModel, result: Result, plan: Plan, metrics: Iterable[Mapping[str, Any]], naming: Naming
    ) -> RunSummary:
        """Returns the summary: the score, baselines, a sample and how much of it was copied, the diagnosis."""
        return summarize_text(self.corpus, loaded, result, plan, metrics, naming)
