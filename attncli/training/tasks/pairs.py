"""PairTask: learns to translate the sources of pairs to their targets.

The model is an encoder-decoder. A step reads pairs of similar length, and predicts the tokens of their targets. A run
counts only these target tokens, including the end token of each target: in the tokens per second, in `--tokens` and in
the loss per token. The size of a batch counts the tokens of both sides, padding included, because they decide the time
and the memory of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attncli.checkpoint.load import LoadedModel
from attncli.checkpoint.save import Borders
from attncli.config import ModelConfig, TrainConfig
from attncli.errors import Naming, UsageProblem
from attncli.evaluation.evaluate_pairs import evaluate_pairs, pair_tensors, pairs_at_once
from attncli.evaluation.nearest import MOST_CHARACTERS
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.text.pair_batch import PairBatches
from attncli.text.pair_corpus import PairCorpus
from attncli.text.tokenizer import Tokenizer
from attncli.training import recipe
from attncli.training.decision import Decision
from attncli.training.pair_summary import summarize_pairs, translating_seconds
from attncli.training.recipe import Tuning
from attncli.training.reports import Plan, Result, RunSummary
from attncli.training.shapes import pair_shape
from attncli.training.step_setup import refuse_longer_than
from attncli.training.tasks.base import Load, MicroBatch, Sampler
from attncli.training.translations import translation_sampler

_FEWEST_VALIDATION_PAIRS = 50  # with fewer pairs, a note says that the scores are rough


@dataclass(frozen=True)
class PairTensors:
    """The arguments of `Transformer.translation_loss` for the pairs of a step: source ids, mask, inputs and labels.

    Each tensor has B rows; the mask may be None. `counts` are the numbers of tokens to predict in each row.
    """

    tensors: tuple[Tensor | None, ...]
    counts: tuple[int, ...]

    def to(self, device: torch.device | str) -> PairTensors:
        """Returns the batch on a device."""
        tensors = (None if one is None else one.to(device, non_blocking=True) for one in self.tensors)
        return PairTensors(tuple(tensors), self.counts)

    def micro_batches(self, parts: int) -> list[MicroBatch]:
        """Splits the pairs into at most `parts` micro-batches, with at least one pair each."""
        rows, total = len(self.counts), sum(self.counts)
        parts = min(parts, rows)
        cuts = [part * rows // parts for part in range(parts + 1)]
        return [
            MicroBatch(tuple(None if one is None else one[a:b] for one in self.tensors), sum(self.counts[a:b]) / total)
            for a, b in pairwise(cuts)
        ]


@dataclass(frozen=True)
class PairTask:
    """Learns to translate. `start` is the decoder's start token. `base.Task` describes the methods."""

    corpus: PairCorpus
    start: int
    _batches: dict[tuple[int, int], PairBatches] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokenizer(self) -> Tokenizer:
        """The joint tokenizer of sources and targets."""
        return self.corpus.tokenizer

    @property
    def tuning(self) -> Tuning:
        """The numbers of the recipe for pairs."""
        return recipe.PAIRS

    @property
    def train_tokens(self) -> int:
        """The tokens of the targets of the training part."""
        return self.corpus.train.to_score

    @property
    def train_bytes(self) -> int:
        """The bytes of the targets of the training part."""
        return self.corpus.train.bytes

    @property
    def amounts(self) -> str:
        """The sizes of both parts in words."""
        return f"{len(self.corpus.train):,} pairs to train on, {len(self.corpus.val):,} to validate"

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad or 0

    @property
    def vocabulary_reason(self) -> str:
        """The characters of both sides of the training part."""
        return f"for {self.corpus.train.pairs.characters:,} characters of both sides"

    def within(self, context: int) -> PairTask:
        """Returns the task without the pairs that have a side of more than `context` tokens."""
        corpus = self.corpus.within(context)
        return (
            self
            if corpus.train is self.corpus.train and corpus.val is self.corpus.val
            else PairTask(corpus, self.start)
        )

    def choose_context(
        self, config: TrainConfig, seconds: float, device: torch.device, start: ModelConfig | None
    ) -> Decision[int]:
        """Returns the recipe's context, or the context of the model to fine-tune if this is shorter."""
        if config.context is not None:
            refuse_longer_than(start, config.context)
            return Decision(config.context)
        if start is not None and start.context < recipe.PAIR_CONTEXT:
            return Decision(start.context, "the context of the model to fine-tune")
        return Decision(recipe.PAIR_CONTEXT, "for a source and for a target")

    def choose_batch_size(self, config: TrainConfig, seconds: float, device: torch.device, context: int) -> int:
        """Returns the number of padded tokens of a step, on both sides together: enough for the longest pair."""
        longest = self._longest_pair
        if config.batch_size is not None:
            if config.batch_size < longest:
                few = f"{config.batch_size} is less than the {longest} tokens of the longest pair"
                raise UsageProblem.naming(
                    lambda named: (
                        f"{named('batch_size')} {few}.",
                        f"A batch counts the tokens of both sides. Give {named('batch_size')} {longest} or more.",
                    )
                )
            return config.batch_size
        table = recipe.PAIR_CPU_BATCHES if device.type == "cpu" else recipe.PAIR_GPU_BATCHES
        return max(next(tokens for limit, tokens in table if seconds <= limit), longest)

    @property
    def _longest_pair(self) -> int:
        """The most tokens of both sides of a pair to train on."""
        return int((self.corpus.train.source.lengths + self.corpus.train.target.lengths).max())

    def timed_batch_size(self, batch_size: int, context: int, most_tokens: int) -> int:
        """Returns about `most_tokens` tokens, at most `batch_size`."""
        return min(batch_size, max(most_tokens, self._longest_pair))

    def step_tokens(self, context: int, batch_size: int) -> int:
        """Returns the mean number of target tokens of a step."""
        return max(round(self.train_tokens / len(self._made(0, batch_size))), 1)

    def load(self, context: int, batch_size: int) -> Load:
        """Returns the size of a batch of the longest pairs."""
        longest = self._longest_pair
        return Load(max(batch_size // longest, 1), longest, self.corpus.train.longest)

    def shape(self, layers: int, width: int, context: int) -> ModelConfig:
        """Returns the config of a new encoder-decoder."""
        return pair_shape(layers, width, self.tokenizer.vocab_size, context)

    def unit_count(self, context: int) -> int:
        """Returns the number of validation pairs."""
        return len(self.corpus.val)

    def unit_tokens(self, context: int) -> float:
        """Returns the mean number of target tokens of a validation pair."""
        return self.corpus.val.to_score / len(self.corpus.val)

    def units_at_once(self, device: torch.device, context: int) -> int:
        """Returns how many pairs are scored in one batch."""
        return min(pairs_at_once(device, 2 * self.unit_tokens(context)), len(self.corpus.val))

    def units_during(self, plan: Plan) -> int:
        """Returns how many pairs an evaluation during the run scores."""
        steps = recipe.EVALUATION_SHARE * recipe.FORWARD_PASSES_PER_STEP * plan.schedule.steps
        tokens = max(steps * plan.tokens_per_step, recipe.PAIR_EVALUATION_TOKENS)
        return max(round(tokens / self.unit_tokens(plan.context)), 1)

    def judging_seconds(self, seconds: float, *, timed: bool) -> float:
        """Estimates the time for translating validation sources, and for the baseline."""
        searched = min(self.corpus.train.pairs.source.bytes, MOST_CHARACTERS)
        return translating_seconds(seconds) + searched / recipe.SEARCHED_BYTES_PER_SECOND

    def notes(self, plan: Plan, start: LoadedModel | None) -> Iterator[str]:
        """Yields notes on pairs that are left out, many epochs, and few pairs to validate on."""
        yield from self.corpus.notes
        if plan.seconds is None and plan.epochs > recipe.PAIR_MOST_EPOCHS:
            most = recipe.PAIR_MOST_EPOCHS
            yield f"{plan.epochs:.0f} passes over the pairs: after about {most}, a model only memorizes more"
        if len(self.corpus.val) < _FEWEST_VALIDATION_PAIRS:
            few = f"only {len(self.corpus.val):,} pairs to validate on"
            yield f"{few}: scores, and the choice of the best weights, are rough"

    def batch(self, step: int, seed: int, context: int, batch_size: int) -> PairTensors:
        """Returns the pairs of a step."""
        made = self._made(seed, batch_size).batch(step)
        return PairTensors(pair_tensors(made, "cpu"), tuple(made.target_lengths.tolist()))

    def _made(self, seed: int, batch_size: int) -> PairBatches:
        """Returns the batches of the training part. Each combination of arguments is computed once."""
        key = seed, batch_size
        if key not in self._batches:
            self._batches[key] = PairBatches(
                self.corpus.train, batch_tokens=batch_size, seed=seed, start=self.start, pad=self._pad
            )
        return self._batches[key]

    def evaluate(
        self,
        model: Transformer,
        units: int | None,
        context: int | None = None,
        progress: Callable[[int], None] = lambda scored: None,
    ) -> Score:
        """Scores the validation pairs, or `units` of them."""
        return evaluate_pairs(model, self.corpus.val, start=self.start, pad=self._pad, pairs=units, progress=progress)

    def share_of(self, score: Score) -> float:
        """Returns the share of the validation part that a score covers."""
        return self.corpus.val.share_of(score.scored)

    def is_whole(self, score: Score) -> bool:
        """Whether a score covers all target tokens."""
        return score.scored >= self.corpus.val.to_score

    def sampler(self, plan: Plan) -> Sampler | None:
        """Returns a function that translates a few validation sources."""
        return translation_sampler(self.corpus.val, self.tokenizer, self.start, plan)

    def borders(self) -> Borders:
        """Returns the start token and the end token of a new model."""
        end = self.tokenizer.end_of_text
        return Borders(self.start, frozenset() if end is None else frozenset({end}))

    def facts(self) -> dict[str, Any]:
        """Returns the facts about the pairs for run.json. Characters, bytes and tokens are counted in the targets."""
        train, val = self.corpus.train, self.corpus.val
        return {
            "sources": list(self.corpus.sources),
            "digest": self.corpus.digest,
            "text_digest": self.corpus.text_digest,
            "tokenizer": self.tokenizer.kind,
            "train_pairs": len(train),
            "train_characters": train.characters,
            "train_left_out": train.left_out + train.too_long,
            "train_bytes": train.bytes,
            "train_tokens": train.to_score,
            "train_source_tokens": train.source.tokens,
            "val_pairs": len(val),
            "val_characters": val.characters,
            "val_left_out": val.left_out + val.too_long,
            "val_bytes": val.bytes,
            "val_tokens": val.to_score,
            "val_source_tokens": val.source.tokens,
        }

    def summarize(
        self, loaded: LoadedModel, result: Result, plan: Plan, metrics: Iterable[Mapping[str, Any]], naming: Naming
    ) -> RunSummary:
        """Returns the summary: the score, translations with BLEU and chrF2, the diagnosis."""
        return summarize_pairs(self.corpus, loaded, result, plan, metrics, naming)
