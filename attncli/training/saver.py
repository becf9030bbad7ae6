"""What a run is, and what of it goes to disk.

Owns the state of a run and its saves. Knows nothing of how steps are taken or when a save is due.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from attncli.checkpoint.store import Checkpoint, State, write_checkpoint
from attncli.model.transformer import Transformer
from attncli.text.corpus import Corpus
from attncli.training.reports import Plan, Result, Score
from attncli.training.schedule import Schedule
from attncli.training.step import Trainee

_DOCUMENTS_FOR_START = 10  # from so many on, the model has learned what follows the end of one


@dataclass
class Run:
    """What changes while a run goes on."""

    trainee: Trainee
    schedule: Schedule
    step: int = 0
    best_step: int = 0
    best: Score | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    train_loss: float | None = None
    seconds_before: float = 0.0  # spent by earlier parts of a resumed run

    @property
    def model(self) -> Transformer:
        """The weights as they are now."""
        return self.trainee.model


class Saver:
    """Writes what a run is worth to disk."""

    def __init__(self, target: Path, corpus: Corpus, plan: Plan, facts: dict[str, Any]) -> None:
        self._target, self._corpus, self._plan, self._facts = target, corpus, plan, facts

    def save(self, run: Run, status: str, seconds: float, result: Result | None = None) -> None:
        """One save: the best weights to use, and unless the run is over the state to go on from."""
        weights = run.best_weights or weights_of(run.model)
        document = {
            **self._facts,
            "status": status,
            "plan": asdict(self._plan),
            "progress": {"step": run.step, "steps": run.schedule.steps, "seconds": seconds, "best_step": run.best_step},
            "results": self._results(run, result),
        }
        state = None if result is not None else self._state(run, seconds)
        tokenizer = self._corpus.tokenizer
        write_checkpoint(
            self._target, Checkpoint(self._plan.model, weights, tokenizer, self._start(), document, run.metrics, state)
        )

    def _start(self) -> int:
        end = self._corpus.tokenizer.end_of_text
        if end is not None and self._corpus.train.documents >= _DOCUMENTS_FOR_START:
            return end
        return self._corpus.tokenizer.encode("\n")[0]

    def _results(self, run: Run, result: Result | None) -> dict[str, Any] | None:
        score = result.best if result is not None else run.best
        if score is None:
            return None
        return {
            **figures(score),
            "validation": "whole" if result is not None else "sampled",
            "train_loss": run.train_loss,
        }

    def _state(self, run: Run, seconds: float) -> State:
        tensors = {f"weights.{name}": tensor for name, tensor in run.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in run.trainee.optimizer.tensors().items()}
        facts = {
            "step": run.step,
            "seconds": seconds,
            "schedule": run.schedule.marks,
            "best_step": run.best_step,
            "best": asdict(run.best) if run.best else None,
            "train_loss": run.train_loss,
        }
        return State(tensors, facts)


def weights_of(model: Transformer) -> dict[str, Tensor]:
    """A copy of a model's tensors in the CPU's memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def figures(score: Score) -> dict[str, float]:
    """A score as the records on disk say it."""
    return {
        "nats_per_token": score.per_token,
        "nats_per_character": score.per_character,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
    }
