"""A small text, a plan to train on it, and whole runs of plans."""

from dataclasses import replace

import pytest
import torch

from attncli.checkpoint.save import write_checkpoint
from attncli.config import CorpusConfig
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.training import make_plan, saver, train
from tests.support.texts import story
from tests.support.training import FACTS, SMALL, WholeRun, cloned


@pytest.fixture(scope="session")
def corpus():
    return prepare(Documents.of((story(1500),), ("story.txt",)), CorpusConfig(vocab_size=300))


@pytest.fixture(scope="session")
def plan(corpus):
    """Returns a plan whose intervals and precision do not depend on the speed of this machine."""
    return replace(make_plan(SMALL, corpus), eval_every=10, report_every=5)


@pytest.fixture(scope="session")
def whole_run(corpus, tmp_path_factory):
    """Returns a function that trains a plan to its end, once for each plan and number of threads."""
    runs = {}

    def of(plan):
        key = (repr(plan), torch.get_num_threads())
        if key not in runs:
            folder, saves = tmp_path_factory.mktemp("whole") / "m", []

            def kept(place, checkpoint):
                saves.append(cloned(checkpoint))
                write_checkpoint(place, checkpoint)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(saver, "write_checkpoint", kept)
                reports = list(train(corpus, plan, folder, facts=FACTS))
            runs[key] = WholeRun(folder, reports, saves)
        return runs[key]

    return of
