"""The baselines: the n-gram model equals the formula of its paper, and the compressors equal gzip and xz."""

import gzip
import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.evaluation import baselines
from attncli.evaluation.baselines import BASELINES, Baseline, gzip_size, measure, xz_size
from attncli.evaluation.excerpt import Excerpt, counted_of, first_of, last_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.ngram import NgramModel
from attncli.evaluation.score import Score
from attncli.render import evaluation
from attncli.render.evaluation import judgement_document, measured_on
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.text.parts import Part
from attncli.text.tokens import tokens_of
from tests.support.texts import story

VOCABULARY = 6
ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=120)


class Reference:
    """Interpolated modified Kneser-Ney smoothing as in the paper, with dictionaries and recursion."""

    def __init__(self, text, vocab_size, order):
        self.vocab_size, self.order = vocab_size, min(order, len(text))
        grams = [Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for n in range(1, self.order + 1)]
        self.counts = []
        for longer in grams[1:]:
            before = defaultdict(set)
            for gram in longer:
                before[gram[1:]].add(gram[0])
            self.counts.append({gram: len(words) for gram, words in before.items()})
        self.counts.append(dict(grams[-1]))

    def discount(self, counts, number):
        of, n = Counter(counts.values()), min(number, 3)
        fallback = (0, 0.5, 1.0, 1.5)[n]
        if not all(of[n] for n in (1, 2, 3, 4)):
            return fallback
        y = of[1] / (of[1] + 2 * of[2])
        found = {n: n - (n + 1) * y * of[n + 1] / of[n] for n in (1, 2, 3)}
        if min(found.values()) <= 0:
            return fallback
        return 0.0 if n == 0 else min(found[n], n)

    def probability(self, context, word):
        counts = self.counts[len(context)]
        lower = self.probability(context[1:], word) if context else 1 / self.vocab_size
        after = {gram[-1]: number for gram, number in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        left = sum(self.discount(counts, number) for number in after.values())
        count = after.get(word, 0)
        return (count - self.discount(counts, count) + left * lower) / sum(after.values())


@settings(max_examples=60, deadline=None)
@given(text=ids, scored=ids, order=st.integers(1, 5))
def test_the_ngram_model_equals_the_formula_of_the_paper(text, scored, order):
    found = NgramModel(np.array(text, np.uint16), VOCABULARY, order).log_probabilities(np.array(scored, np.uint16))
    reference = Reference(text, VOCABULARY, order)
    longest = reference.order - 1
    expected = [
        math.log(reference.probability(tuple(scored[max(i - longest, 0) : i]), scored[i]))
        for i in range(1, len(scored))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(text=ids, context=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), order=st.integers(1, 5))
def test_the_probabilities_of_all_tokens_sum_to_one(text, context, order):
    model = NgramModel(np.array(text), VOCABULARY, order)
    last = [model.log_probabilities(np.array([*context, word]))[-1] for word in range(VOCABULARY)]
    assert math.isclose(np.exp(last).sum(), 1, rel_tol=1e-12)


def test_the_discounts_are_estimated_if_the_text_is_long_enough():
    """A longer text does not use the fallback discounts of short texts. Its probabilities still sum to one."""
    text = np.random.default_rng(0).zipf(1.4, 4000) % 50
    model = NgramModel(text, 50)
    assert any(order.discounts.tolist() != [0, 0.5, 1, 1.5] for order in model._orders)
    for start in (0, 100, 2000):
        rows = [model.log_probabilities(np.append(text[start : start + 4], word))[-1] for word in range(50)]
        assert math.isclose(np.exp(rows).sum(), 1, rel_tol=1e-12)
    reference = Reference(text.tolist(), 50, 5)
    found = model.log_probabilities(text[:40])
    expected = [math.log(reference.probability(tuple(text[max(i - 4, 0) : i]), text[i])) for i in range(1, 40)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("vocab_size", [70_000, 1 << 20])
def test_the_keys_of_a_large_vocabulary_do_not_overflow(vocab_size):
    """Five ids of a large vocabulary do not fit into 64 bits. Still, different n-grams must have different keys."""
    text = np.random.default_rng(1).integers(vocab_size - 3, vocab_size, 200)
    few = NgramModel(text - (vocab_size - 3), 3)
    many = NgramModel(text, vocab_size)
    for a, b in zip(few._orders[1:], many._orders[1:], strict=True):
        assert a.counts.tolist() == b.counts.tolist()


def test_without_a_training_text_all_compressed_bytes_are_counted():
    scored = story(300).encode()
    alone = measure(Excerpt(scored, np.zeros(2, np.uint16), len(scored)), 257)
    assert alone.figures["gzip"] * len(scored) / 8 + 18 == len(gzip.compress(scored, 9))
    assert alone.figures["xz"] == 8 * xz_size(scored) / len(scored)


def test_the_ngram_model_can_use_more_training_text_than_the_compressors():
    tokens = prepare(Documents.of([story(3000)]), CorpusConfig(vocab_size=300))
    scored, given = first_of(tokens.val, tokens.tokenizer), last_of(tokens.train, tokens.tokenizer, 500)
    few, more, all_ = (counted_of(tokens.train, most) for most in (len(given.ids), 2000, 10**9))
    found = [measure(scored, 300, given, counted) for counted in (None, few, more, all_)]
    assert (
        found[0].figures["ngram"] == found[1].figures["ngram"] > found[2].figures["ngram"] > found[3].figures["ngram"]
    )
    assert len({one.figures["xz"] for one in found}) == 1
    assert (found[0].counted, found[3].counted) == (len(given.data), tokens.train.bytes)
    assert found[2].counted == pytest.approx(tokens.train.bytes * 2000 / len(tokens.train), abs=1)


@pytest.mark.parametrize("size", [1, 5000, 70_000, 300_000])
def test_compressed_sizes_equal_the_sizes_of_gzip_and_xz_without_their_containers(size):
    data = story(size // 4 + 1).encode()[:size]
    assert gzip_size(data) + 18 == len(gzip.compress(data, 9))
    container = len(lzma.compress(data, preset=9)) - xz_size(data)
    assert 0 < container < 100


def test_the_bits_are_conditional_on_the_training_text():
    train, scored = story(3000).encode(), story(400, seed=7).encode()
    as_ids = [np.frombuffer(data, np.uint8).astype(np.uint16) for data in (train, scored)]
    alone = measure(Excerpt(scored, as_ids[1], len(scored)), 257)
    after = measure(Excerpt(scored, as_ids[1], len(scored)), 257, Excerpt(train, as_ids[0], len(train)))
    assert after.figures["xz"] == 8 * (xz_size(train + scored) - xz_size(train)) / len(scored)
    assert after.figures["gzip"] == 8 * (gzip_size(train + scored) - gzip_size(train)) / len(scored)
    assert after.figures["xz"] < alone.figures["xz"]
    assert alone.figures["ngram"] is None
    assert after.figures["ngram"] == -NgramModel(as_ids[0], 257).log_probabilities(as_ids[1]).sum() / math.log(2) / len(
        scored
    )
    assert (alone.given, after.given, after.scored) == (0, len(train), len(scored))
    led = measure(Excerpt(scored, as_ids[1], len(scored), first=3), 257, Excerpt(train, as_ids[0], len(train)))
    assert (led.figures["xz"], led.figures["gzip"]) == (after.figures["xz"], after.figures["gzip"])
    assert math.isclose(
        led.figures["ngram"], after.figures["ngram"] * len(scored) / (len(scored) - 3)
    )  # the first token is not scored


def test_an_excerpt_of_a_large_text_records_its_size():
    written = (story(2000), "\u6771\u4eac " * 200, story(500, seed=2))
    texts = Documents.of(written)
    corpus = prepare(texts, CorpusConfig(vocab_size=300))
    whole = last_of(corpus.train, corpus.tokenizer)
    assert whole.data.decode() == "".join(written)[: corpus.train.characters]
    assert (whole.of, len(whole.data)) == (corpus.train.bytes, corpus.train.bytes)
    part, first = last_of(corpus.train, corpus.tokenizer, 500), first_of(corpus.val, corpus.tokenizer, 300)
    assert whole.data.endswith(part.data)
    assert corpus.tokenizer.decode(corpus.val.ids[:].tolist()).encode().startswith(first.data)
    for excerpt, most in ((part, 500), (first, 300)):
        assert 0.5 * most < len(excerpt.data) < 2 * most
    found = measure(first, corpus.tokenizer.vocab_size, part)
    assert (found.given, found.given_of) == (len(part.data), corpus.train.bytes)
    assert (found.scored, found.scored_of) == (len(first.data), corpus.val.bytes)


@pytest.mark.parametrize("texts", [("one text alone\n",), ("a first text\n", "and \u6771\u4eac, a second")])
def test_texts_in_memory_have_the_same_tokens_as_a_prepared_corpus(texts):
    longer = tuple(text * 400 for text in texts)
    corpus = prepare(Documents.of(longer), CorpusConfig(vocab_size=300), Documents.of(longer))
    tokens = tokens_of(Part.whole(Documents.of(longer), len(longer) > 1), corpus.tokenizer)
    assert tokens.ids.dtype == corpus.val.ids.dtype
    assert tokens.ids[:].tolist() == corpus.val.ids[:].tolist()
    assert (tokens.characters, tokens.bytes) == (corpus.val.characters, corpus.val.bytes)


def test_an_unseen_token_has_a_positive_probability_for_any_counts():
    """Most blocks occur three times, a few twice or four times, so the estimated discount of count 2 is negative."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 50, 12).tolist() for _ in range(60)]
    times = [3] * 50 + [2] * 6 + [4] * 4
    ids = np.array([i for block, n in zip(blocks, times, strict=True) for _ in range(n) for i in block])
    model = NgramModel(ids, 50)
    assert np.isfinite(model.log_probabilities(rng.integers(0, 50, 2000))).all()


def test_a_registered_baseline_is_measured_drawn_and_in_the_document(monkeypatch):
    added = Baseline("uniform", "uniform", "uniform", False, lambda material: 8.0)
    for module in (baselines, evaluation):
        monkeypatch.setattr(module, "BASELINES", (*BASELINES, added))
    found = measure(Excerpt(b"some text", np.arange(9), 9), 257)
    assert found.figures["uniform"] == 8.0
    judged = Judgement(Score(nats=9.0, scored=9, characters=9.0, bytes=9.0), found)
    assert judgement_document(judged)["yardsticks"]["uniform_bits_per_byte"] == 8.0
    assert "uniform" in measured_on(found, "the training text")
