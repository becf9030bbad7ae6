"""Returns the task of a corpus. A new task is one file beside this one and one entry here."""

from __future__ import annotations

from attncli.text.corpus import Corpus
from attncli.training.tasks.base import Task
from attncli.training.tasks.text import TextTask

TrainingCorpus = Corpus


def task_of(corpus: TrainingCorpus) -> Task:
    """Returns the task that learns from a corpus."""
    return TextTask(corpus)
