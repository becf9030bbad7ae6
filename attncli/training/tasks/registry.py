"""Returns the task of a corpus. A new task is one file beside this one and one entry here."""

from __future__ import annotations

from attncli.text.corpus import Corpus
from attncli.text.pair_corpus import PairCorpus
from attncli.training.tasks.base import Task
from attncli.training.tasks.pairs import PairTask
from attncli.training.tasks.text import TextTask

TrainingCorpus = Corpus | PairCorpus


def task_of(corpus: TrainingCorpus, start: int | None = None) -> Task:
    """Returns the task that learns from a corpus.

    `start` is the start token of an encoder-decoder; by default, its end token.
    """
    if isinstance(corpus, Corpus):
        return TextTask(corpus)
    if start is None:
        start = corpus.tokenizer.end_of_text or 0
    return PairTask(corpus, start)
