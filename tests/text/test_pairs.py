"""Pairs of texts: formats, errors with their line, recognition of files, and the split by source."""

import hashlib
import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.text import reading
from attncli.text.formats import base
from attncli.text.pair_formats import Pair
from attncli.text.pair_split import shared_sources, split_by_source
from attncli.text.pairs import are_pair_files, pairs_from, read_pairs, read_parallel
from tests.support.corpora import write

DOG, CAT = ("A dog runs.", "Ein Hund rennt."), ("The cat\u2028sleeps.", "  Die Katze schläft. ")
SIDES = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), min_size=1).filter(str.strip)


def tabbed(*pairs):
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


def objects(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


# Formats


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pairs.tsv", tabbed(DOG, CAT)),
        ("pairs.txt", tabbed(DOG, CAT).rstrip("\n")),
        ("windows.tsv", "\ufeff" + tabbed(DOG, CAT).replace("\n", "\r\n\r\n \t \r\n")),
        (
            "made.jsonl",
            objects({"source": DOG[0], "target": DOG[1], "note": "x"}, {"target": CAT[1], "source": CAT[0]}),
        ),
        ("made.ndjson", objects({"en": DOG[0], "de": DOG[1], "id": 1}, {"de": CAT[1], "en": CAT[0]})),
        ("made.txt", objects(*({"translation": {"en": source, "de": target}} for source, target in (DOG, CAT)))),
        ("made.json", objects({"question": DOG[0], "answer": DOG[1]}, {"question": CAT[0], "answer": CAT[1]})),
    ],
)
def test_every_format_gives_the_same_pairs(tmp_path, monkeypatch, name, data):
    """Also in small blocks, and from standard input. The digest depends on the texts alone."""
    path = write(tmp_path / name, data)
    found = read_pairs([path])
    assert [*found] == [DOG, CAT]
    assert found[1] == Pair(*CAT)
    assert found.paths == (path,)
    assert found.digest == read_pairs([write(tmp_path / "plain.tsv", tabbed(DOG, CAT))]).digest
    assert (found.source.characters, found.target.characters) == (len(DOG[0] + CAT[0]), len(DOG[1] + CAT[1]))
    assert found.bytes == len("".join((*DOG, *CAT)).encode())
    monkeypatch.setattr(reading, "_BLOCK", 7)
    assert [*read_pairs([path])] == [DOG, CAT]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert [*read_pairs(["-"])] == [DOG, CAT]


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1), st.data())
def test_pairs_are_stored_unchanged(pairs, data):
    """A selection has the pairs at its indices, and different pairs have different digests."""
    found = pairs_from((Pair(*pair) for pair in pairs), ["-"])
    assert [*found] == pairs
    assert (len(found), found.characters) == (len(pairs), sum(len(a) + len(b) for a, b in pairs))
    indices = data.draw(st.lists(st.integers(0, len(pairs) - 1)))
    assert [*found.take(np.array(indices, np.int64)).source] == [pairs[i][0] for i in indices]
    other = data.draw(st.lists(st.tuples(SIDES, SIDES), min_size=1))
    assert (pairs_from((Pair(*pair) for pair in other), ["-"]).digest == found.digest) == (other == pairs)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_encoding_is_used_for_pairs(tmp_path, encoding):
    for name, data in (
        ("a.tsv", tabbed(DOG, ("Ä", "Ö"))),
        ("a.en", "A dog runs.\nÄ\n"),
        ("a.de", "Ein Hund rennt.\nÖ\n"),
    ):
        (tmp_path / name).write_bytes(data.encode(encoding))
    config = CorpusConfig(encoding=encoding)
    assert [*read_pairs([str(tmp_path / "a.tsv")], config)] == [DOG, ("Ä", "Ö")]
    assert [*read_parallel(str(tmp_path / "a.en"), str(tmp_path / "a.de"), config)] == [DOG, ("Ä", "Ö")]


def test_two_files_are_read_line_by_line(tmp_path, monkeypatch):
    """A line that is blank in both files is skipped, and so are blank lines at the end of one file."""
    source = write(tmp_path / "a.en", f"{DOG[0]}\r\n\n{CAT[0]}\n")
    target = write(tmp_path / "a.de", f"{DOG[1]}\n \n{CAT[1]}\n\n\n")
    found = read_parallel(source, target)
    assert [*found] == [DOG, CAT]
    assert found.paths == (source, target)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.de").read_bytes())))
    assert [*read_parallel(source, "-")] == [DOG, CAT]


def test_reading_takes_little_more_memory_than_the_file(tmp_path):
    path = write(tmp_path / "pairs.tsv", tabbed(*((f"source {i} " * 5, f"target {i} " * 5) for i in range(10_000))))
    size = (tmp_path / "pairs.tsv").stat().st_size
    tracemalloc.start()
    found = read_pairs([path])
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 10_000
    assert kept < 2 * size
    assert most < 8 * size  # blocks of a megabyte, as lines


# Errors


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tsv", tabbed(DOG) + "no tab\n", "line 2 has no tab"),
        ("a.tsv", tabbed(DOG) + "\na\tb\tc\n", "line 3 has 3 fields"),
        ("a.tsv", "\tb\n", "line 1 has an empty source"),
        ("a.tsv", "a\t \r\n", "line 1 has an empty target"),
        ("a.txt", "plain text\n", "line 1 has no tab"),
        ("a.jsonl", '{"en": "a", "de": "b"}\n{"en": "a" "de": "b"}', "line 2 is not JSON: .* at column 12"),
        (
            "a.jsonl",
            '{"en": "a", "de": "b"}\n{"en": "a',
            "line 2 is not JSON: Unterminated string starting at column 8",
        ),
        ("a.jsonl", '{"en": "a", "de": "b"}\n{"en": "a", "de": 5}', 'line 2 has no text "de"'),
        ("a.jsonl", '{"en": "a", "de": "b"}\n{"en": {"x": "a"}, "de": "b"}', 'line 2 has no text "en"'),
        ("a.txt", '{"en": "a", "de": "b"}\nplain text', "line 2 is not JSON: .* at column 1"),
        ("a.jsonl", '["a", "b"]', "line 1 is not a JSON object"),
        ("a.jsonl", '{"en": "a", "de": "b"}\n{"en": "a", "fr": "b"}', 'line 2 has no text "de", as the first line'),
        ("a.jsonl", '{"en": "a", "de": "b", "fr": "c"}', r"line 1 has 3 texts \(en, de, fr\)"),
        ("a.jsonl", '{"text": "a"}', "line 1 has 1 text,"),
        ("a.jsonl", '{"en": "a", "de": "\\ud800"}', "line 1: The text is not valid Unicode"),
        ("a.jsonl", '{"en": "a", "de": ""}', "line 1 has an empty target"),
        ("a.jsonl", "[" * 100_000, "line 1 has JSON that is too large"),
        ("a.jsonl", '{"en": ' + "1" * 5000 + "}", "line 1 has JSON that is too large"),
        ("a.tsv", " \n", "contains no pairs"),
        ("a.tsv", "", "is empty"),
        ("a.tsv", "a\tb\0\n", "is not text: byte 3 is 0x00"),
        ("a.tsv", b"a\t\xff\n", "is not UTF-8: byte 2 is 0xff"),
        ("a.tsv", b"\xfd7zXZ\x00", "is an xz file"),
    ],
)
def test_a_line_that_is_not_a_pair_is_named(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(BadInput, match=f"{name}.* ?{message}"):
        read_pairs([str(path)])


def test_the_hint_for_three_fields_is_a_command(tmp_path):
    path = write(tmp_path / "a b.tsv", "a\tb\tCC-BY\n")
    with pytest.raises(BadInput) as found:
        read_pairs([path])
    assert found.value.hint.endswith(f": cut -f1,2 '{path}' > pairs.tsv")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\nc\n", "A\nB\n", "a.en has 3 lines and .*a.de has 2"),
        ("a\n", "A\n\nC", "a.en has 1 lines and .*a.de has 3"),
        ("a\nb\nc", "A\n\nC", "a.de, line 2 is empty, but line 2 of .*a.en is not"),
        ("a\n\nc", "A\nB\nC", "a.en, line 2 is empty, but line 2 of .*a.de is not"),
    ],
)
def test_two_files_must_have_a_text_in_the_same_lines(tmp_path, source, target, message):
    with pytest.raises(BadInput, match=message):
        read_parallel(write(tmp_path / "a.en", source), write(tmp_path / "a.de", target))


def test_missing_files_and_a_second_standard_input_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"There is no file gone\.tsv"):
        read_pairs(["gone.tsv"])
    with pytest.raises(BadInput, match="Is a directory"):
        read_pairs([str(tmp_path)])
    for read in (lambda: read_pairs(["-", "-"]), lambda: read_parallel("-", "-")):
        with pytest.raises(UsageProblem, match="Standard input is named twice"):
            read()
    with pytest.raises(UsageProblem, match="path of a text is empty"):
        read_pairs([""])


def test_a_line_of_pairs_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LONGEST_LINE", 40)
    monkeypatch.setattr(reading, "_BLOCK", 7)
    path = write(tmp_path / "a.tsv", tabbed(DOG, ("a" * 50, "b")))
    with pytest.raises(BadInput, match="line 2 has more than 40 characters"):
        read_pairs([path])


@given(
    st.lists(
        st.sampled_from(
            [b"{", b'"en": "a"', b'"de": "b"', b", ", b"}", b"\n", b"\t", b"a", b"\xc3", b"\xff\xfe", b"\0"]
        )
    )
)
def test_any_bytes_are_pairs_or_an_error_that_names_the_file(tmp_path_factory, pieces):
    """A file of any kind of name."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.tsv", "a.jsonl", "a.txt"):
        path = folder / name
        path.write_bytes(b"".join(pieces))
        are_pair_files([str(path)])
        try:
            found = read_pairs([str(path)])
        except BadInput as problem:
            assert name in problem.message
            assert problem.hint
        else:
            assert all(source.strip() and target.strip() for source, target in found)


# Recognition


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.tsv", tabbed(DOG, CAT), True),
        ("A.TSV", "\n" + tabbed(DOG, CAT) + "one wrong line\n", True),  # which is reported when the pairs are read
        ("a.tsv", "one wrong line\n" + tabbed(DOG, CAT), True),
        ("a.txt", tabbed(DOG, CAT), False),
        ("a.tsv", "a\tb\tc\nd\te\tf\n", False),
        ("a.tsv", "\tindented\n\tindented\n", False),
        ("a.tsv", "", False),
        ("a.tsv", "\n", False),
        ("a.tsv", "a\0b", False),
        ("a.csv", tabbed(DOG), False),
        ("a.jsonl", objects({"source": "a", "target": "b", "id": "7"}), True),
        ("a.jsonl", objects({"en": "a", "pt_BR": "b", "score": 0.5}), True),
        ("a.ndjson", objects({"eng_Latn": "a", "zh-Hans": "b"}), True),
        ("a.jsonl", objects({"translation": {"en": "a", "de": "b"}}), True),
        ("a.jsonl", objects({"prompt": "Once", "text": " upon"}), False),
        ("a.jsonl", objects({"text": "a", "translation": {"en": "a", "de": "b"}}), False),
        ("a.jsonl", objects({"question": "a", "answer": "b"}), False),
        ("a.jsonl", objects({"en": "a", "de": "b", "fr": "c"}), False),
        ("a.jsonl", objects({"id": 1}), False),
        ("a.jsonl", "[" * 100_000, False),
        ("a.jsonl", "plain", False),
        ("a.txt", objects({"source": "a", "target": "b"}), False),
    ],
)
def test_a_file_of_pairs_is_recognized_by_its_name_and_its_first_lines(tmp_path, name, data, expected):
    path = write(tmp_path / name, data)
    assert are_pair_files([path]) is expected
    assert not are_pair_files([path, write(tmp_path / "text.txt", "text")])


def test_what_cannot_be_read_twice_or_at_all_is_not_a_file_of_pairs(tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    assert not any(map(are_pair_files, ([], ["-"], [str(tmp_path / "gone.tsv")], [str(tmp_path / "folder.tsv")])))


# The split


@given(st.lists(st.integers(0, 30), min_size=2).filter(lambda found: len({*found}) > 1), st.floats(0.01, 0.5))
def test_no_source_is_in_both_parts(numbers, fraction):
    pairs = pairs_from((Pair(f"source {n}", f"target {i}") for i, n in enumerate(numbers)), ["-"])
    train, val = split_by_source(pairs, fraction)
    assert not {*train.source} & {*val.source}
    assert sorted([*train, *val]) == sorted(pairs)
    assert len(train)
    assert len(val)
    assert shared_sources(train, val) == 0
    largest = max(numbers.count(n) for n in numbers)
    assert len(val) <= max(round(fraction * len(pairs)), 1) - 1 + largest
    if len({*train.source}) > 1:
        assert len(val) >= round(fraction * len(pairs))
    shuffled = pairs.take(np.random.default_rng(0).permutation(len(pairs)))
    assert {*split_by_source(shuffled, fraction)[1]} == {*val}


def test_the_split_is_the_same_on_every_machine():
    """The sources in the order of their BLAKE2 hashes, read as little-endian numbers."""
    pairs = pairs_from((Pair(f"source {i}", "target") for i in range(100)), ["-"])
    by_hash = sorted(
        pairs.source, key=lambda text: int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    )
    assert {*split_by_source(pairs, 0.1)[1].source} == {*by_hash[:10]}


def test_pairs_of_one_source_cannot_be_split():
    pairs = pairs_from([Pair("a", "b"), Pair("a", "c")], ["-"])
    with pytest.raises(BadInput, match="All 2 pairs have the same source"):
        split_by_source(pairs, 0.1)
    with pytest.raises(BadInput, match="There is only one pair, so no pairs are left"):
        split_by_source(pairs.take(np.array([0])), 0.1)


def test_pairs_whose_source_is_trained_on_are_counted():
    train, val = (pairs_from([Pair(text, "t") for text in texts], ["-"]) for texts in ("abb", "bbcd"))
    assert shared_sources(train, val) == 2
