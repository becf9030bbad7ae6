"""Saves a run: decides what each save contains, and writes a large state in the background during training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.save import Borders, Checkpoint, State, try_checkpoint, write_checkpoint
from attncli.model.device import physical_memory
from attncli.paths import unwritable
from attncli.training import recipe
from attncli.training.reports import Plan, Result, RunState, plan_document
from attncli.training.run import OPTIMIZER_PREFIX, WEIGHTS_PREFIX, Run, copies_of, trained_of
from attncli.training.tasks.base import Task


class Saver:
    """Saves a run, one save at a time. The end of its `with` block waits for the save that is being written."""

    def __init__(
        self,
        target: Path,
        task: Task,
        plan: Plan,
        facts: dict[str, Any],
        borders: Borders | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        """`borders` are the start and end tokens of the model to fine-tune; for a new model, see `Task.borders`."""
        self._target, self._task, self._plan, self._facts = target, task, plan, facts
        self._borders, self._adaptation = borders or task.borders(), adaptation
        self._thread = ThreadPoolExecutor(1, "save")
        self._writing: Future[None] | None = None
        self._writing_step = 0
        self._safe: list[int] = []
        self.saved_at = 0.0  # the time of the run at the last save, in seconds
        self._replaces = False  # whether the target contains a model, which is kept until the run has a score

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def begin(self, run: Run, seconds: float) -> None:
        """Makes the first save of a new run, so that an unwritable target raises an error before the first step.

        If the target contains a model, only the free space is checked, because the model is kept until the run has a
        score.
        """
        try:
            self._replaces = self._target.is_dir() and any(self._target.iterdir())
        except OSError as problem:
            raise unwritable(self._target, problem) from None
        if self._replaces:
            try_checkpoint(self._target, self._checkpoint(run, "running", seconds))
        else:
            self.save(run, "running", seconds)

    def save(self, run: Run, status: str, seconds: float, result: Result | None = None) -> None:
        """Saves the best weights, and the state of an unfinished run. The save is on the disk when this method returns.

        A run without a score does not replace the model of another run. Raises OutOfRoom if this save or an earlier
        save in the background fails.
        """
        self.wait()
        self.saved_at = seconds
        if self._replaces and run.best is None:
            return
        write_checkpoint(self._target, self._checkpoint(run, status, seconds, result))
        self._safe.append(run.step)

    def save_beside(self, run: Run, seconds: float) -> None:
        """Saves a run that continues: copies a large state, and writes the copy in the background.

        First waits for the previous save to finish, so no save is skipped. Raises OutOfRoom if this save or an earlier
        save in the background fails.
        """
        self.wait()
        self.saved_at = seconds
        if self._replaces and run.best is None:
            return
        checkpoint = self._checkpoint(run, "running", seconds)
        assert checkpoint.state is not None
        if not self._worth_copying(checkpoint.state):
            write_checkpoint(self._target, checkpoint)
            self._safe.append(run.step)
            return
        copies = copies_of(checkpoint.state.tensors)
        weights = run.best_weights or {name: copies[WEIGHTS_PREFIX + name] for name in checkpoint.weights}
        checkpoint = replace(checkpoint, weights=weights, state=replace(checkpoint.state, tensors=copies))
        self._writing, self._writing_step = self._thread.submit(write_checkpoint, self._target, checkpoint), run.step

    def wait(self) -> None:
        """Waits for the save that is being written. Raises OutOfRoom if the save failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._safe.append(self._writing_step)

    def safe(self) -> Iterator[int]:
        """Yields the steps of the saves that were finished since the last call. Raises OutOfRoom if a save failed."""
        if self._writing is not None and self._writing.done():
            self.wait()
        while self._safe:
            yield self._safe.pop(0)

    def _worth_copying(self, state: State) -> bool:
        """Whether to copy a state, and write the copy in the background.

        True if the state is large or on a GPU, and if the copy fits the memory.
        """
        size = sum(int(tensor.nbytes) for tensor in state.tensors.values())
        if self._plan.device != "cpu":
            return size <= recipe.MEMORY_SHARE * physical_memory()
        return recipe.COPIED_STATE <= size <= recipe.MEMORY_SHARE * physical_memory() - self._plan.memory_bytes

    def _checkpoint(self, run: Run, status: str, seconds: float, result: Result | None = None) -> Checkpoint:
        """Returns the content of a save.

        Its tensors are shared with the run, so later steps change them. All other values are copies.
        """
        document = {
            **self._facts,
            "status": status,
            "plan": plan_document(self._plan),
            "progress": {"step": run.step, "steps": run.schedule.steps, "seconds": seconds, "best_step": run.best_step},
            "results": self._results(run, result),
        }
        weights = run.best_weights or trained_of(run.model)
        state = None if result is not None else self._state(run, seconds)
        return Checkpoint(
            self._plan.model,
            weights,
            self._task.tokenizer,
            **self._borders._asdict(),
            run=document,
            metrics=tuple(run.metrics),
            state=state,
            adaptation=self._adaptation,
        )

    def _results(self, run: Run, result: Result | None) -> dict[str, Any] | None:
        score = result.best if result is not None else run.best
        if score is None:
            return None
        return {
            **score.figures(),
            "scored_bytes": score.bytes,
            "validation": "whole" if self._task.share_of(score) == 1 else "sampled",
            "train_loss": run.train_loss,
        }

    def _state(self, run: Run, seconds: float) -> State:
        tensors = {WEIGHTS_PREFIX + name: tensor for name, tensor in trained_of(run.model).items()}
        tensors |= {f"{OPTIMIZER_PREFIX}{name}": tensor for name, tensor in run.trainee.optimizer.tensors().items()}
        facts = RunState(
            step=run.step,
            seconds=seconds,
            schedule=run.schedule.marks,
            best_step=run.best_step,
            best=run.best,
            train_loss=run.train_loss,
        )
        return State(tensors, asdict(facts))
