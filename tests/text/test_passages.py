"""Passages that are spread over a large text, and passages that are drawn from it."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import UsageProblem
from attncli.text import corpus as corpus_module
from attncli.text import parts
from attncli.text.corpus import learn_tokenizer, prepare
from attncli.text.parts import Part, spread
from attncli.text.tokens import count_tokens
from tests.support.corpora import Copy, documents, entries
from tests.support.texts import story


@pytest.fixture
def short_passages(monkeypatch):
    monkeypatch.setattr(parts, "_SHORTEST", 200)
    monkeypatch.setattr(parts, "_LONGEST", 1000)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(most=st.integers(1, 60_000), parts=st.integers(1, 40), again=st.integers(1, 30_000))
def test_passages_are_spread_over_the_text_in_order(short_passages, most, parts, again):
    texts = [story(200, seed) for seed in range(parts)]
    read = documents(*texts)
    part = Part.whole(read)
    for limit in (most, again):
        whole, part = part, spread(part, limit)
        assert min(limit, whole.characters) / 4 - 200 <= part.characters <= limit
        assert part.characters + part.left_out == read.characters
        flat = [at for passage in part.passages for at in passage]
        assert flat == sorted(flat)
        assert all(any(a <= start and stop <= b for a, b in whole.passages) for start, stop in part.passages)
    assert spread(part, again) is part
    text = "".join(texts)
    assert ["".join(piece for piece, _ in pieces) for pieces in part.chunks()] == [text[a:b] for a, b in part.passages]


def test_passages_are_spread_over_the_text_and_consist_of_whole_documents_or_lines(short_passages):
    tales = [story(6, seed) for seed in range(3000)]
    ends = {0, *accumulate(map(len, tales))}
    part = spread(Part.whole(documents(*tales)), 20_000)
    assert len(part.passages) == 100
    assert all(start in ends and stop in ends for start, stop in part.passages)
    starts = np.asarray([start for start, _ in part.passages])
    assert np.diff(starts).max() < 1.5 * part.documents.characters / 100
    text = "".join(tales)
    part = spread(Part.whole(documents(text)), 20_000)
    assert all((start == 0 or text[start - 1] == "\n") and text[stop - 1] == "\n" for start, stop in part.passages)


def test_a_large_part_is_reduced_to_passages(tmp_path, short_passages):
    tales = [story(60, seed) for seed in range(200)]
    read, config = documents(*tales), CorpusConfig(most_characters=4000)
    made = prepare(read, config)
    whole = prepare(read, CorpusConfig())
    assert made.digest == whole.digest
    for part, of in ((made.train, whole.train), (made.val, whole.val)):
        assert 2000 <= part.characters <= 4000
        assert part.characters + part.left_out == of.characters
        assert of.left_out == 0
        assert of.share_of(len(of) - 1) == 1
        assert part.share_of(len(part) - 1) == part.characters / of.characters
        assert part.share_of((len(part) - 1) / 2) == part.characters / of.characters / 2
    ends = np.flatnonzero(made.train.ids[:] == made.tokenizer.end_of_text)
    text = made.tokenizer.decode(made.train.ids[:][made.train.ids[:] != made.tokenizer.end_of_text].tolist())
    assert len(text) == made.train.characters
    assert len(text.encode()) == made.train.bytes
    assert len(ends) <= made.train.documents <= len(ends) + 20
    assert all(line + "\n" in "".join(tales) for line in text.splitlines())
    assert len(entries()) == 2
    assert Copy.of(prepare(read, config)) == Copy.of(made)
    assert len(entries()) == 2
    assert prepare(read, CorpusConfig(most_characters=10**9)).train.left_out == 0


def test_the_vocabulary_of_a_large_text_is_learned_from_passages(short_passages, monkeypatch):
    monkeypatch.setattr(corpus_module, "_LEARN_FROM", 5000)
    part = Part.whole(documents(*(story(60, seed) for seed in range(100))))
    sizes = []
    learned = [learn_tokenizer(part, CorpusConfig(vocab_size=300), lambda p: sizes.append(p.total)) for _ in range(2)]
    assert learned[0].to_json() == learned[1].to_json()
    assert set(sizes) == {spread(part, 5000).characters}
    assert count_tokens(part, learned[0])[1] == part.characters
    every = learn_tokenizer(part, CorpusConfig(tokenizer="char"))
    assert every.vocab_size == 257 + len(set("".join(text for text, _ in part.documents.read())))


def test_most_characters_must_be_at_least_one():
    with pytest.raises(UsageProblem, match="most_characters"):
        CorpusConfig(most_characters=0)
