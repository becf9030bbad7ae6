"""Statistical alignment: expectations equal an enumeration of all alignments; corresponding words are linked."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.evaluation.alignment import diagonal, grow_diagonal_final, score_links
from attncli.evaluation.ibm import EMPTY, Aligner, LinkPrior, hmm_expectation, model1_expectation
from tests.support.alignments import gold_pairs

sentence = st.lists(st.sampled_from("abcd"), max_size=5)
corpus = st.lists(st.tuples(sentence, sentence), max_size=6)
HOUSE = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]


def words(pairs):
    return [(source.split(), target.split()) for source, target in pairs]


def probability(aligner, source, target):
    """Returns p(target | source) of the table that was learned; 0 for words that never occur together."""
    text = aligner._text
    key = text.sources[source] * len(text.targets) + text.targets[target]
    return aligner._directions[0].table[text.keys == key].sum()


def enumerated(p, empty, jumps):
    """Returns what the HMM expects of one pair, from the probability of every alignment.

    The state of a target word is (s, whether the empty word generates it after source word s).
    """
    sources, targets = p.shape
    links, null, counts, total = np.zeros(p.shape), np.zeros(targets), np.zeros((sources, sources)), 0.0
    for states in product(product(range(sources), (False, True)), repeat=targets):
        probability, last, made = 1.0, None, []
        for t, (s, is_null) in enumerate(states):
            if is_null:
                probability *= EMPTY * empty[t] * (1 / sources if last is None else float(s == last))
            else:
                probability *= (1 - EMPTY) * p[s, t] * (1 / sources if last is None else jumps[last, s])
                made += [] if last is None else [(last, s)]
            last = s
        total += probability
        for t, (s, is_null) in enumerate(states):
            if is_null:
                null[t] += probability
            else:
                links[s, t] += probability
        for jump in made:
            counts[jump] += probability
    return links / total, null / total, np.log(total), counts / total


@pytest.mark.parametrize(("sources", "targets"), [(1, 1), (1, 3), (2, 4), (3, 3), (3, 1)])
def test_the_expectation_of_the_hmm_equals_the_enumeration_of_all_alignments(sources, targets):
    rng = np.random.default_rng(0)
    p, empty = rng.random((2, sources, targets)), rng.random((2, targets))
    jumps = rng.random((sources, sources))
    jumps /= jumps.sum(1, keepdims=True)
    found = hmm_expectation(p, empty, jumps)
    each = [enumerated(p[n], empty[n], jumps) for n in range(2)]
    for n in range(2):
        np.testing.assert_allclose(found.links[n], each[n][0], rtol=1e-10)
        np.testing.assert_allclose(found.empty[n], each[n][1], rtol=1e-10)
    assert found.nats == pytest.approx(sum(one[2] for one in each))
    np.testing.assert_allclose(found.jumps, each[0][3] + each[1][3], rtol=1e-10, atol=1e-15)


def test_with_uniform_jumps_the_hmm_is_model_1():
    rng = np.random.default_rng(1)
    p, empty = rng.random((4, 5, 6)), rng.random((4, 6))
    one, other = model1_expectation(p, empty), hmm_expectation(p, empty, np.full((5, 5), 1 / 5))
    np.testing.assert_allclose(one.links, other.links)
    np.testing.assert_allclose(one.empty, other.empty)
    np.testing.assert_allclose(one.links.sum(1) + one.empty, 1)
    assert one.nats == pytest.approx(other.nats)


@settings(max_examples=60, deadline=None)
@given(corpus)
def test_the_likelihood_of_model_1_never_decreases(pairs):
    nats = np.array(Aligner(pairs, "model1", rounds=8).nats)
    assert (np.diff(nats, axis=0) >= -1e-8).all()


def test_the_likelihood_is_the_probability_of_the_targets():
    """At first, all three target words have the probability 1/3 in every pair."""
    forward, _ = Aligner(words(HOUSE[:2]), "model1", rounds=1).nats[0]
    assert forward == pytest.approx(4 * np.log(1 / 3))


def test_words_that_occur_together_are_linked():
    """The usual example: each source word occurs in the same pairs as exactly one target word."""
    for method in ("model1", "hmm"):
        aligner = Aligner(words(HOUSE), method, rounds=40)
        for source, target in (("the", "das"), ("house", "Haus"), ("book", "Buch"), ("a", "ein")):
            assert probability(aligner, source, target) > 0.9, method
        assert probability(aligner, "the", "Haus") < 0.1
        assert probability(aligner, "the", "ein") == 0
        assert aligner.links() == ([{(0, 0), (1, 1)}] * 3, [{(0, 0), (1, 1)}] * 3)


@settings(max_examples=40, deadline=None)
@given(corpus)
def test_exchanging_source_and_target_exchanges_the_directions(pairs):
    for method in ("model1", "hmm"):
        one, other = Aligner(pairs, method), Aligner([(target, source) for source, target in pairs], method)
        np.testing.assert_allclose(one.nats, [(b, a) for a, b in other.nats], atol=1e-9)


def test_the_hmm_aligns_better_than_model_1_and_the_diagonal():
    gold = gold_pairs()
    pairs = [(one.source, one.target) for one in gold]
    links = [one.links for one in gold]

    def error_rate(found):
        return score_links(found, links).error_rate

    errors = {"diagonal": error_rate([diagonal(len(source), len(target)) for source, target in pairs])}
    for method in ("model1", "hmm"):
        forward, backward = Aligner(pairs, method).links()
        united = [grow_diagonal_final(*both) for both in zip(forward, backward, strict=True)]
        errors[method] = error_rate(united)
        flipped = Aligner([(target, source) for source, target in pairs], method).links()
        assert [frozenset((i, j) for j, i in one) for one in flipped[1]] == forward
        assert [frozenset((i, j) for j, i in one) for one in flipped[0]] == backward
    assert errors["hmm"] < 0.1 < errors["diagonal"], errors
    assert errors["hmm"] <= errors["model1"], errors


@settings(max_examples=40, deadline=None)
@given(corpus, st.integers(0, 7))
def test_links_of_the_first_pairs_are_within_their_sentences(pairs, most):
    aligner = Aligner(pairs, rounds=2)
    every, some = aligner.links(), aligner.links(most)
    assert [direction[:most] for direction in every] == list(some)
    for direction in every:
        assert len(direction) == len(pairs)
        for found, (source, target) in zip(direction, pairs, strict=True):
            assert all(i < len(source) and j < len(target) for i, j in found)


@settings(max_examples=40, deadline=None)
@given(corpus, st.integers(0, 6))
def test_a_prior_of_ones_changes_nothing(pairs, known):
    shapes = [(len(source), len(target)) for source, target in pairs[:known]]
    ones = [LinkPrior(np.ones(shape), np.ones(shape)) for shape in shapes]
    for method in ("model1", "hmm"):
        one, other = Aligner(pairs, method), Aligner(pairs, method, priors=ones)
        assert one.nats == other.nats
        assert one.links(known) == other.links(known)
        for found, (source, target) in zip(other.probabilities(), pairs, strict=True):
            assert found.shape == (len(source), len(target)) or not found.size
            assert ((found >= 0) & (found <= 1)).all()


def test_a_prior_decides_between_links_that_the_words_do_not_tell_apart():
    pairs = words([("a b", "x y")])
    crossed = np.array([[0.1, 1.9], [1.9, 0.1]])
    for prior in (crossed, 2 - crossed):
        links = {(int(i), int(j)) for i, j in np.argwhere(prior > 1)}
        assert Aligner(pairs, priors=[LinkPrior(prior, prior)]).links() == ([links], [links])


def test_a_prior_is_a_factor_of_the_probability_of_words():
    """One round of Model 1 from equal words: the expected counts are in proportion to the prior and the empty word."""
    prior = LinkPrior(np.array([[0.5, 2.0], [1.5, 1.0]]), np.array([[1.0, 3.0], [0.5, 1.0]]))
    aligner = Aligner(words([("a b", "x y")]), "model1", rounds=1, priors=[prior])
    generated = prior.forward * (1 - EMPTY) / 2
    counts = generated / (generated.sum(0) + EMPTY)
    for s, source in enumerate("ab"):
        for t, target in enumerate("xy"):
            assert probability(aligner, source, target) == pytest.approx(counts[s, t] / counts[s].sum())
