"""Word alignments: the format of Pharaoh, gold files, the alignment error rate, and the union of two directions."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.errors import BadInput
from attncli.evaluation.alignment import (
    GoldLinks,
    default_method,
    diagonal,
    format_links,
    grow_diagonal,
    grow_diagonal_final,
    intersection,
    parse_links,
    read_gold,
    score_links,
)
from tests.support.alignments import GOLD_LINES, gold_pairs

links = st.frozensets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def transposed(links):
    return frozenset((j, i) for i, j in links)


@given(links, links)
def test_links_are_parsed_as_they_were_formatted(sure, possible):
    assert parse_links(format_links(sure, possible)) == GoldLinks(sure, sure | possible)


def test_possible_links_have_two_spellings():
    assert format_links({(1, 2), (0, 0)}) == "0-0 1-2"
    assert parse_links("0-0 1p2  1?3\n") == GoldLinks(frozenset({(0, 0)}), frozenset({(0, 0), (1, 2), (1, 3)}))
    assert parse_links("") == GoldLinks(frozenset(), frozenset())


@pytest.mark.parametrize("word", ["0", "0-", "a-b", "0--1", "0:1", "-1-0", "1-2-3", "٣-1", "0-1,", "9999999999-0"])
def test_a_word_that_is_not_a_link_is_named(word):
    with pytest.raises(BadInput, match=re.escape(ascii(word))):
        parse_links(f"0-0 {word}")


def test_the_gold_file_is_read():
    pairs = gold_pairs()
    assert len(pairs) == 20
    assert (pairs[0].source, pairs[0].target) == (("The", "dog", "sleeps", "."), ("Der", "Hund", "schläft", "."))
    assert pairs[14].links.possible - pairs[14].links.sure == {(2, 2)}
    assert read_gold(["\n", GOLD_LINES[0] + "\r\n"], "gold") == pairs[:1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a b\tc", "gold.tsv, line 2 has 2 columns, not 3."),
        ("a b c", "gold.tsv, line 2 has 1 column, not 3."),
        ("a\tb\t0-0\t", "gold.tsv, line 2 has 4 columns, not 3."),
        ("a b\tc\t0-0 2-0", "gold.tsv, line 2: the link 2-0 is out of range: 2 words in the source, 1 in the target."),
        ("a b\tc\t0p1", "gold.tsv, line 2: the link 0-1 is out of range: 2 words in the source, 1 in the target."),
        ("a b\tc\t0-0 x", "gold.tsv, line 2: 'x' is not a link."),
        ("a b\tc\t99999999999-0", "gold.tsv, line 2: '99999999999-0' is not a link."),
        ("a b\tc\t-1-0", "gold.tsv, line 2: '-1-0' is not a link."),
        ("a b\tc\t0:0", "gold.tsv, line 2: '0:0' is not a link."),
        ("a b\tc\t0-0,1-0", "gold.tsv, line 2: '0-0,1-0' is not a link."),
        ("a b\tc\t0 0", "gold.tsv, line 2: '0' is not a link."),
        ("\tc\t0-0", "gold.tsv, line 2: the link 0-0 is out of range: 0 words in the source, 1 in the target."),
    ],
)
def test_a_malformed_line_is_named_by_its_number(line, message):
    with pytest.raises(BadInput) as caught:
        read_gold([GOLD_LINES[0], line], "gold.tsv")
    assert caught.value.message == message
    assert caught.value.hint


def test_a_gold_file_without_a_pair_is_refused():
    with pytest.raises(BadInput, match="contains no sentence pairs"):
        read_gold(["\n"], "gold.tsv")


def test_the_error_rate_of_a_small_example():
    """Of 3 links, 2 are possible or sure and 1 is sure; 2 links are sure: AER = 1 - (1 + 2) / (3 + 2)."""
    gold = [GoldLinks(frozenset({(0, 0), (1, 1)}), frozenset({(0, 0), (1, 1), (1, 2)}))]
    score = score_links([frozenset({(0, 0), (1, 2), (2, 2)})], gold)
    assert (score.pairs, score.links, score.sure, score.sure_found, score.possible_found) == (1, 3, 2, 1, 2)
    assert (score.precision, score.recall, score.error_rate) == (2 / 3, 1 / 2, pytest.approx(2 / 5))


@given(st.lists(st.tuples(links, links, links), max_size=4))
def test_the_error_rate_of_sure_and_possible_links(both):
    found, gold = [one for one, _, _ in both], [GoldLinks(sure, sure | possible) for _, sure, possible in both]
    score = score_links(found, gold)
    assert 0 <= score.error_rate <= 1
    assert score_links([one.sure for one in gold], gold).error_rate == 0
    assert score_links([one.possible for one in gold], gold).error_rate == 0
    only_sure = score_links(found, [GoldLinks(one.sure, one.sure) for one in gold])
    if only_sure.links and only_sure.sure and only_sure.sure_found:
        p, r = only_sure.precision, only_sure.recall
        assert only_sure.error_rate == pytest.approx(1 - 2 * p * r / (p + r))
    flipped = score_links(
        [transposed(one) for one in found], [GoldLinks(transposed(one.sure), transposed(one.possible)) for one in gold]
    )
    assert flipped == score


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_diagonal_links_every_word(sources, targets):
    found = diagonal(sources, targets)
    if not (sources and targets):
        assert found == frozenset()
        return
    assert len(found) == max(sources, targets)
    assert ({i for i, _ in found}, {j for _, j in found}) == (set(range(sources)), set(range(targets)))
    assert all(b[0] >= a[0] and b[1] >= a[1] for a, b in pairwise(sorted(found)))
    assert diagonal(targets, sources) == transposed(found)
    if sources == targets:
        assert found == {(i, i) for i in range(sources)}


@given(links, links)
def test_every_union_of_directions_is_between_the_intersection_and_the_union(forward, backward):
    ways = intersection, grow_diagonal, grow_diagonal_final
    core, grown, final = (unite(forward, backward) for unite in ways)
    assert core == forward & backward
    assert core <= grown <= final <= forward | backward
    assert all(unite(forward, forward) == forward for unite in ways)


def test_links_grow_from_the_intersection():
    """(1, 2) touches (0, 1), and word 2 of the target has no link yet; (4, 4) touches nothing, and is added last."""
    forward, backward = frozenset({(0, 1), (1, 2), (4, 4)}), frozenset({(0, 1), (0, 4)})
    assert grow_diagonal(forward, backward) == {(0, 1), (1, 2)}
    assert grow_diagonal_final(forward, backward) == {(0, 1), (1, 2), (4, 4)}


def test_the_default_method_combines_with_an_hmm_if_the_pairs_can_train_one():
    assert [default_method(pairs) for pairs in (0, 2, 3, 3000)] == ["predictions"] * 2 + ["combined"] * 2
    assert default_method(3000, attention=True) == "attention"
