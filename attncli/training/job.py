"""Prepares a run as a `Job`: its text, its plan, and its facts for `run.json`.

`new_job` reads and tokenizes the text and makes the plan. `resume.resume_job` makes the job of a stopped run. `run_job`
trains. Nothing here prints: messages to the user are in the notes of the job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.load import LoadedModel
from attncli.checkpoint.save import Borders, Checkpoint
from attncli.config import DEFAULT_TRAINING_SECONDS, CorpusConfig, TrainConfig
from attncli.errors import UsageProblem
from attncli.model.device import pick_device
from attncli.paths import real
from attncli.text.files import refuse_overlap
from attncli.text.pair_inputs import InputKind
from attncli.text.progress import Listener, Progress
from attncli.training import recipe
from attncli.training.head_scores import head_scorer
from attncli.training.inputs import kind_of, read_corpus, refuse_settings
from attncli.training.loop import train
from attncli.training.plan import make_plan
from attncli.training.provenance import provenance
from attncli.training.reports import Plan, Report
from attncli.training.tasks.base import Task
from attncli.training.tasks.registry import TrainingCorpus, task_of

_BUSY = 1.5  # seconds of a step per second of its CPU time; above this, a note says that the machine is busy


@dataclass(frozen=True)
class Job:
    """Everything that a run needs except its directory. `facts` are written to `run.json`, `notes` are for the user."""

    corpus: TrainingCorpus
    plan: Plan
    facts: dict[str, Any]
    resume: Checkpoint | None = None
    initial: dict[str, Tensor] | None = None  # the weights of the model to fine-tune
    notes: tuple[str, ...] = ()
    borders: Borders | None = None  # of the model to fine-tune, or of the resumed run
    adaptation: Adaptation | None = None  # the adapters to train, if the model to fine-tune is frozen

    @property
    def task(self) -> Task:
        """The task of the run."""
        return _task(self.corpus, self.plan, self.borders)

    @property
    def watch_heads(self) -> bool:
        """Whether the attention heads are scored at every evaluation. A resumed run keeps this setting."""
        return bool(self.facts.get("watch_heads"))

    @property
    def resumed_at(self) -> int | None:
        """The step at which a resumed run continues; None for a new run."""
        return None if self.resume is None or self.resume.state is None else int(self.resume.state.facts["step"])


def new_job(
    files: Sequence[str],
    val_file: str | None,
    text: CorpusConfig,
    pinned: TrainConfig,
    spent: float = 0.0,
    start: LoadedModel | None = None,
    progress: Listener | None = None,
    *,
    kind: InputKind | None = None,
    watch_heads: bool = False,
) -> Job:
    """Returns the job of a new run: reads and tokenizes the text, and makes the plan.

    Args:
        files: the text or the pairs to train on.
        val_file: the text or the pairs to validate on, by default a part of `files`.
        text: how the text is read, split and tokenized.
        pinned: the settings that the user gave; the plan chooses the others.
        spent: the seconds of the run's time that have passed.
        start: a model to fine-tune; its shape, weights and tokenizer are kept.
        progress: is called with the progress of reading and tokenizing.
        kind: the kind of the files; None recognizes files of pairs.
        watch_heads: scores the attention heads at every evaluation.

    Raises UsageProblem for settings that do not suit the kind, or if a file is both trained on and validated on, and
    the errors of reading, planning and the token cache.
    """
    began = time.monotonic()
    refuse_overlap(files, val_file)
    text = _limited(text, pinned)
    kind = kind or kind_of(files, text)
    refuse_settings(kind, pinned, start, watch_heads=watch_heads)
    tokenizer = start.tokenizer if start is not None else None
    corpus, read = read_corpus(files, val_file, kind, text, tokenizer, progress)
    if progress is not None:
        progress(Progress("measuring a step", 0, None))
    shape = None if start is None else start.model.config
    adaptation = _adaptation(pinned, start)
    plan = make_plan(pinned, corpus, spent=spent + time.monotonic() - began, start=shape, adaptation=adaptation)
    borders = None if start is None else start.borders
    task = _task(corpus, plan, borders)
    notes = (*read, *task.notes(plan, start), *_notes(plan, spent + time.monotonic() - began))
    facts = provenance(task, text, val_file, pinned, kind) | ({"watch_heads": True} if watch_heads else {})
    if start is not None:
        facts |= {"from": str(start.path)}
        if adaptation is not None:
            base = {"weights": adaptation.digest, "tokenizer": start.tokenizer.digest}
            facts |= {"from": str(adaptation.base), "base": base}
        initial = start.model.state_dict() if adaptation is None else None
        return Job(corpus, plan, facts, initial=initial, notes=notes, borders=borders, adaptation=adaptation)
    if text.vocab_size is None and text.tokenizer == "bpe":
        plan = replace(plan, reasons=plan.reasons | {"vocab_size": task.vocabulary_reason})
    return Job(corpus, plan, facts, notes=notes)


def run_job(
    job: Job, target: Path, *, started: float | None = None, stop: Callable[[], bool] = lambda: False
) -> Iterator[Report]:
    """Trains the model of a job, and yields the reports of `train`.

    Each evaluation generates a sample, and scores the heads if the job requests it. `target`, `started` and `stop` mean
    the same as in `train`. Raises the errors of `train`, and UsageProblem if `target` is the model to adapt.
    """
    if job.adaptation is not None and real(target).is_relative_to(real(job.adaptation.base)):
        raise UsageProblem.naming(
            lambda named: (
                f"{target} is the directory of the model to adapt, or inside it, and that directory is only read.",
                f"Choose another {named('name')} or {named('out')}.",
            )
        )
    start_of_text = (job.borders or job.task.borders()).start_of_text
    return train(
        job.corpus,
        job.plan,
        target,
        facts=job.facts,
        initial=job.initial,
        borders=job.borders,
        resume=job.resume,
        adaptation=job.adaptation,
        started=started,
        stop=stop,
        sample=job.task.sampler(job.plan),
        head_scorer=head_scorer(job.plan, job.corpus.tokenizer.vocab_size, start_of_text) if job.watch_heads else None,
    )


def _task(corpus: TrainingCorpus, plan: Plan, borders: Borders | None) -> Task:
    """Returns the task of a run. `borders` are the start and end tokens of a fine-tuned or resumed model."""
    return task_of(corpus, None if borders is None else borders.start_of_text).within(plan.context)


def _adaptation(pinned: TrainConfig, start: LoadedModel | None) -> Adaptation | None:
    """Returns the adapters to train on a model; None if all of its weights are trained."""
    lora = pinned.adapters
    if lora is None or start is None:
        return None
    return Adaptation(
        lora, start.path.absolute(), ModelFolder(start.path).digest_of_weights(), start.model.state_dict()
    )


def _limited(text: CorpusConfig, pinned: TrainConfig) -> CorpusConfig:
    """Returns the settings of the text. For a timed run, they limit the number of characters that are tokenized."""
    if not pinned.timed or text.most_characters is not None:
        return text
    seconds, device = pinned.seconds or DEFAULT_TRAINING_SECONDS, pick_device(pinned.device)
    return replace(text, most_characters=_most_characters(seconds, device.type))


def _most_characters(seconds: float, device: str) -> int:
    """Returns the largest number of characters per part that a run of `seconds` tokenizes.

    The limit holds for the training part and for the validation part. It is about as many characters as the run can
    train on, so tokenizing takes a small share of its time. It is a power of two, so that runs of similar length find
    their tokens in the cache.
    """
    per_second = recipe.CPU_CHARACTERS_PER_SECOND if device == "cpu" else recipe.GPU_CHARACTERS_PER_SECOND
    return 1 << math.ceil(math.log2(max(seconds, 1.0) * per_second))


def _notes(plan: Plan, spent: float) -> Iterator[str]:
    """Yields notes on a busy machine, and on too little time. `spent` is the time since the command started."""
    if plan.seconds is not None and plan.busy >= _BUSY:
        yield f"this machine is busy: a step took {plan.busy:.1f} times its CPU time; the plan may be too small"
    if plan.seconds is not None and spent > plan.seconds / 2:
        yield f"reading and measuring took {spent:.0f} of {plan.seconds:.0f} seconds: give the run more time"
