"""The measured overlap equals the overlap that a naive search finds, for every block size."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.evaluation.memorization import WINDOW, measure_memorization, measure_overlap
from attncli.text.tokenizer_training import byte_tokenizer

ids = st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(0, most), max_size=60))


def naive(sample, train):
    """Returns the longest copied stretch and the numbers of windows and new windows, by comparing all pairs."""

    def holds(stretch):
        return any(train[i : i + len(stretch)] == stretch for i in range(len(train) - len(stretch) + 1))

    longest = max(
        (j - i for i in range(len(sample)) for j in range(i + 1, len(sample) + 1) if holds(sample[i:j])), default=0
    )
    windows = [sample[i : i + WINDOW] for i in range(len(sample) - WINDOW + 1)]
    return longest, len(windows), sum(not holds(window) for window in windows)


def as_ids(values, kind="uint16"):
    return np.array(values, kind)


@settings(max_examples=300, deadline=None)
@given(sample=st.one_of(ids, st.lists(st.sampled_from([0, 1, 2]), max_size=20)), train=ids, block=st.integers(1, 80))
@example(sample=[], train=[1, 2], block=1)
@example(sample=[1], train=[], block=1)
@example(sample=[0] * 30, train=[0] * 50, block=7)
@example(sample=[0, 1] * 16, train=[1, 0] * 9, block=5)
@example(sample=[9, 9], train=[1], block=3)
def test_the_overlap_equals_the_overlap_that_a_naive_search_finds(sample, train, block):
    found = measure_overlap(as_ids(sample), as_ids(train), block)
    assert (found.length, found.windows, found.new) == naive(sample, train)
    stretch = sample[found.start : found.start + found.length]
    assert any(train[i : i + len(stretch)] == stretch for i in range(len(train) - len(stretch) + 1))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_copied_stretch_is_found_across_blocks(data):
    """Random ids share only the copied stretch; by chance, one more token matches in 100 of 60,000 examples."""
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    train, sample = random.integers(0, 60_000, 3000), random.integers(0, 60_000, 100)
    length, at = data.draw(st.integers(10, 90)), data.draw(st.integers(0, 2900))
    sample[5 : 5 + length] = train[at : at + length]
    found = measure_overlap(sample, train, data.draw(st.integers(1, 500)))
    assert found.start <= 5 < 5 + length <= found.start + found.length <= length + 8
    assert found.new == found.windows - (found.length - WINDOW + 1)


@pytest.mark.parametrize("kind", ["uint16", "uint32"])
def test_ids_are_read_from_memory_maps_of_both_types(tmp_path, kind):
    train = as_ids(range(5000), kind)
    train.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", kind, "r")
    found = measure_overlap(as_ids([7, *range(4000, 4020)]), mapped, 100)
    assert (found.start, found.length, found.new) == (1, 20, 1)


def test_a_sample_shorter_than_a_window_has_no_new_share():
    assert measure_overlap(as_ids([1, 2, 3]), as_ids([1, 2, 3])).new_share is None


def test_memorization_has_the_longest_stretch_as_text_and_the_share_of_unseen_text():
    tokenizer = byte_tokenizer()
    train, sample, unseen = (
        as_ids(tokenizer.encode(text))
        for text in ("the cat sat on the mat. " * 3, "a dog: the cat sat on it", "an unseen sentence, all new")
    )
    found = measure_memorization(sample, train, tokenizer, unseen)
    assert found.longest == " the cat sat on "
    assert found.sample.length == len(found.longest)
    assert found.unseen_new_share == 1.0
    assert measure_memorization(sample, train, tokenizer).unseen_new_share is None
