"""A small text and a plan to train on it."""

from dataclasses import replace

import pytest

from attncli.config import CorpusConfig
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.training import make_plan
from tests.support.texts import story
from tests.support.training import SMALL


@pytest.fixture(scope="session")
def corpus():
    return prepare(Documents.of((story(1500),), ("story.txt",)), CorpusConfig(vocab_size=300))


@pytest.fixture(scope="session")
def plan(corpus):
    """Returns a plan whose intervals and precision do not depend on the speed of this machine."""
    return replace(make_plan(SMALL, corpus), eval_every=10, report_every=5)
