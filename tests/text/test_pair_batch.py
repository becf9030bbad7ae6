"""Batches of pairs: every pair once per epoch, within the budget, the same for a resumed run and for several ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.errors import BadInput
from attncli.text.pair_batch import IGNORED, PairBatches
from attncli.text.pair_tokens import IdLists, PairTokens
from attncli.text.pairs import Pair, pairs_from

START, PAD, END = 2, 1, 2


def made(lengths):
    """Returns pairs of these lengths. The last id of a text is END, and no two of the other ids are equal."""
    sides = []
    for side in range(2):
        sizes = np.array([pair[side] for pair in lengths], np.int64)
        ids = np.arange(4, 4 + sizes.sum(), dtype=np.uint32)
        ids[np.cumsum(sizes) - 1] = END
        sides.append(IdLists.of(ids, sizes))
    return PairTokens(pairs_from((Pair("a", "b") for _ in lengths), ["-"]), *sides)


def batches_of(tokens, budget=60, seed=0):
    return PairBatches(tokens, batch_tokens=budget, seed=seed, start=START, pad=PAD)


LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=200)


@given(LENGTHS, st.integers(24, 200), st.integers(0, 3))
def test_every_pair_is_once_in_an_epoch_and_every_batch_within_the_budget(lengths, budget, epoch):
    tokens = made(lengths)
    batches = batches_of(tokens, budget)
    found = [batches.batch(epoch * len(batches) + i) for i in range(len(batches))]
    assert sorted(row for batch in found for row in batch.rows.tolist()) == [*range(len(lengths))]
    for batch in found:
        assert batch.source.size + batch.labels.size <= budget
        assert batch.labels.shape == batch.inputs.shape
        for row, source, size, inputs, labels, length in zip(
            batch.rows,
            batch.source,
            batch.source_lengths,
            batch.inputs,
            batch.labels,
            batch.target_lengths,
            strict=True,
        ):
            target = tokens.target[row]
            assert [*source] == [*tokens.source[row], *[PAD] * (len(source) - size)]
            assert [*labels] == [*target, *[IGNORED] * (len(labels) - length)]
            assert [*inputs] == [START, *target[:-1], *[PAD] * (len(labels) - length)]
    assert sum(batch.tokens for batch in found) == tokens.to_score


@given(LENGTHS, st.integers(0, 5), st.integers(0, 50))
def test_a_batch_is_a_function_of_the_seed_and_the_step(lengths, seed, step):
    """A run that is resumed at any step continues with the batches of an uninterrupted run."""
    tokens = made(lengths)
    run, resumed = batches_of(tokens, seed=seed), batches_of(tokens, seed=seed)
    expected = [run.batch(i) for i in range(step + 3)][step:]
    for before, after in zip(expected, (resumed.batch(step + i) for i in range(3)), strict=True):
        for name in ("rows", "source", "source_lengths", "inputs", "labels", "target_lengths"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


@settings(max_examples=30)
@given(LENGTHS, st.integers(1, 4), st.integers(0, 30))
def test_the_ranks_of_a_step_share_the_batches_in_order(lengths, ranks, step):
    tokens = made(lengths)
    one, shared = batches_of(tokens), batches_of(tokens)
    for rank in range(ranks):
        expected = one.batch(step * ranks + rank)
        np.testing.assert_array_equal(shared.batch(step, rank, ranks).rows, expected.rows)


def test_the_order_varies_with_the_epoch_and_the_seed():
    """The order of the batches and of pairs of equal lengths varies; the shapes of the batches do not."""
    tokens = made([(length % 4 + 3, 5) for length in range(400)])

    def epoch(seed, number):
        batches = batches_of(tokens, seed=seed)
        return [batches.batch(number * len(batches) + i) for i in range(len(batches))]

    first = epoch(0, 0)
    for other in (epoch(0, 1), epoch(1, 0)):
        assert [batch.source.shape for batch in other] != [batch.source.shape for batch in first]
        assert sorted(batch.source.shape for batch in other) == sorted(batch.source.shape for batch in first)
        assert {frozenset(batch.rows) for batch in other} != {frozenset(batch.rows) for batch in first}


def test_the_mask_marks_padded_sources_and_is_none_without_padding():
    even = batches_of(made([(3, 2), (3, 4)])).batch(0)
    assert even.source_mask is None
    uneven = batches_of(made([(3, 2), (1, 2)])).batch(0)
    mask = uneven.source_mask
    assert mask.tolist() == [[size > at for at in range(3)] for size in uneven.source_lengths]
    assert (uneven.source[~mask] == PAD).all()


def test_most_batches_of_many_pairs_have_sources_of_one_length_and_little_padding():
    chance = np.random.default_rng(0)
    source = chance.poisson(8, 20_000) + 2
    target = np.maximum(source + chance.integers(-3, 4, len(source)), 2)
    tokens = made([*zip(source.tolist(), target.tolist(), strict=True)])
    batches = batches_of(tokens, budget=2000)
    found = [batches.batch(i) for i in range(len(batches))]
    padded = sum(batch.source.size + batch.labels.size for batch in found)
    assert padded < 1.05 * (tokens.source.tokens + tokens.target.tokens)
    assert len(found) < 1.05 * padded / 2000
    assert sum(batch.source_mask is None for batch in found) > 0.8 * len(found)


def test_the_last_batch_is_not_tiny():
    """Of 101 equal pairs, a batch has room for 100."""
    batches = batches_of(made([(10, 10)] * 101), budget=2000)
    assert sorted(len(batches.batch(i).rows) for i in range(2)) == [50, 51]


def test_an_evaluation_reads_every_pair_once_and_does_not_depend_on_the_seed():
    tokens = made([(length % 7 + 1, length % 5 + 1) for length in range(100)])
    found, other = ([batch.rows for batch in batches_of(tokens, seed=seed).in_order()] for seed in (0, 1))
    assert sorted(np.concatenate(found).tolist()) == [*range(100)]
    assert all((a == b).all() for a, b in zip(found, other, strict=True))


def test_a_pair_that_exceeds_the_budget_is_refused():
    assert batches_of(made([(30, 30)])).batch(5).rows.tolist() == [0]
    with pytest.raises(BadInput, match="A pair has 61 tokens, more than the 60 tokens of a batch"):
        batches_of(made([(1, 1), (30, 31)]))
    with pytest.raises(BadInput, match="no pairs to make batches of"):
        batches_of(made([(3, 3)]).within(2))
