"""Files, directories and pipes as documents: encodings, separators, blocks, and hints for files that are not text."""

import errno
import io
import itertools
import os
import re
import sys
import threading
import tracemalloc
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.folders import cache_folder
from attncli.text import documents as documents_module
from attncli.text import encode as encode_module
from attncli.text import progress, reading, token_cache
from attncli.text.corpus import prepare
from attncli.text.files import read_documents, read_text, refuse_overlap
from attncli.text.names import listed
from attncli.text.progress import Progress
from attncli.text.tokenizer import END_OF_TEXT
from tests.support.corpora import texts_of, write
from tests.support.texts import story

BOM = b"\xef\xbb\xbf"


# Reading


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (BOM + b"marked\n", "marked\n"),
        (b"one\r\ntwo\rthree\n", "one\r\ntwo\rthree\n"),
        ("naïve 東京 🎉".encode(), "naïve 東京 🎉"),
        (b"inside \xef\xbb\xbf it", "inside \ufeff it"),
        (b"", ""),
    ],
)
def test_a_file_is_read_unchanged_except_for_its_byte_order_mark(tmp_path, data, text):
    assert read_text(write(tmp_path / "f.txt", data)) == text


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "UTF8", "utf_8", "utf-8-sig"])
def test_a_file_is_read_in_the_given_encoding(tmp_path, encoding):
    text = "Größe: 10 €\r\n" if encoding not in ("latin-1",) else "Größe: 10\r\n"
    path = write(tmp_path / "f.txt", text.encode(encoding))
    assert read_text(path, encoding) == text
    assert texts_of(read_documents([path], CorpusConfig(encoding=encoding))) == (text,)


@pytest.mark.parametrize(
    ("data", "offset", "found"),
    [
        (b"\xffgood", 0, "0xff"),
        (b"good \xff", 5, "0xff"),
        (b"caf\xe9 au lait", 3, "0xe9"),
        (BOM + b"ab\xffcd", 5, "0xff"),
        (b"cut short \xe6\x9d", 10, "0xe6"),
        (b"a surrogate \xed\xa0\x80", 12, "0xed"),
        (b"overlong \xc0\xaf", 9, "0xc0"),
        (b"x" * 3_000_000 + b"\x80", 3_000_000, "0x80"),
    ],
)
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(tmp_path, data, offset, found):
    path = write(tmp_path / "f.txt", data)
    for read in (read_text, lambda p: read_documents([p])):
        with pytest.raises(BadInput) as caught:
            read(path)
        assert path in caught.value.message
        assert f"byte {offset} is {found}" in caught.value.message
        assert "latin-1" in caught.value.hint


@pytest.mark.parametrize(("data", "offset"), [(b"\0", 0), (b"text\0more", 4), (BOM + b"a\0\xff", 4)])
def test_a_nul_byte_is_named_with_its_offset(tmp_path, data, offset):
    path = write(tmp_path / "f.bin", data)
    with pytest.raises(BadInput, match=f"byte {offset} is 0x00") as caught:
        read_text(path)
    assert path in caught.value.message
    assert caught.value.hint == "Give a text file."


@pytest.mark.parametrize(
    ("encoding", "data"), [("utf-16", b"\xff\xfea"), ("ascii", b"caf\xe9"), ("utf-16", b"\xff\xfe\0\xd8")]
)
def test_a_text_that_is_not_in_the_given_encoding_is_refused(tmp_path, encoding, data):
    with pytest.raises(BadInput, match=r"f\.txt is not " + encoding.upper()):
        read_text(write(tmp_path / "f.txt", data), encoding)


def test_a_missing_file_and_a_directory_are_refused_as_text(tmp_path):
    with pytest.raises(BadInput, match=r"no file .*nowhere\.txt"):
        read_text(str(tmp_path / "nowhere.txt"))
    with pytest.raises(BadInput, match="cannot be read"):
        read_text(str(tmp_path))
    with pytest.raises(BadInput, match=r"no file .*nowhere\.txt"):
        read_documents([write(tmp_path / "f.txt", "there"), str(tmp_path / "nowhere.txt")])


def test_standard_input_is_read_and_named_in_errors(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BOM + "piped é\r\n".encode())))
    assert read_text("-") == "piped é\r\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\0")))
    with pytest.raises(BadInput, match="standard input is not text: byte 2"):
        read_text("-")


@pytest.mark.parametrize("name", ["no-such-code", "rot13"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(UsageProblem, match=f"^encoding '{name}'"):
        CorpusConfig(encoding=name)


# Documents


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", BOM, f"{END_OF_TEXT}\n\n{END_OF_TEXT}\n".encode()])
def test_a_file_without_text_is_refused_as_empty(tmp_path, data):
    with pytest.raises(BadInput, match="empty"):
        read_documents([write(tmp_path / "f.txt", data)])


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("a\n<|endoftext|>\nb", ("a\n", "b")),
        ("a\r\n<|endoftext|>\r\nb\r\n", ("a\r\n", "b\r\n")),
        ("a\n<|endoftext|> \t\n\n b", ("a\n", "\n b")),
        ("<|endoftext|>\na\n<|endoftext|>\n<|endoftext|>\n \n<|endoftext|>\nb\n<|endoftext|>", ("a\n", "b\n")),
        ("one document\nof two lines\n", ("one document\nof two lines\n",)),
    ],
)
def test_lines_of_the_end_of_text_string_separate_documents(tmp_path, text, split):
    assert texts_of(read_documents([write(tmp_path / "f.txt", text)])) == split


@pytest.mark.parametrize(
    "text",
    [
        "the string <|endoftext|> inside a line\n",
        "at the end <|endoftext|>\nof a line",
        " <|endoftext|>\nindented",
        "<|endoftext|> is the string that ends a document.\n",
    ],
)
def test_the_end_of_text_string_within_a_line_is_plain_text(tmp_path, text):
    assert texts_of(read_documents([write(tmp_path / "f.txt", text)])) == (text,)


def test_a_directory_is_read_in_order_of_names_without_hidden_and_binary_files(tmp_path):
    folder = tmp_path / "texts"
    for name, data in {
        "b.txt": b"second",
        "a.txt": b"first\n<|endoftext|>\nand a half",
        "c/d.md": b"third",
        "image.png": b"\x89PNG\r\n\x1a\n\0\0",
        "latin.txt": b"caf\xe9",
        ".hidden.txt": b"hidden",
        ".git/config": b"hidden",
        "c/.cache/e.txt": b"hidden",
        "empty.txt": b"",
    }.items():
        write(folder / name, data)
    last = write(tmp_path / "a-last.txt", "fourth")
    read = read_documents([str(folder), last])
    assert texts_of(read) == ("first\n", "and a half", "second", "third", "fourth")
    assert read.sources == (str(folder), last)
    assert read.skipped == (str(folder / "image.png"), str(folder / "latin.txt"))
    assert read.characters == sum(map(len, texts_of(read)))
    assert read.count == 5


def test_model_directories_within_a_directory_are_not_read(tmp_path):
    folder = tmp_path / "texts"
    for name in ("a.txt", "config.json", "web/manifest.json", "checkpoints/notes.txt"):
        write(folder / name, f"text of {name}")
    before = read_documents([str(folder)])
    assert before.count == 4
    for name in ("config.json", "run.json", "model-00001-of-00002.safetensors", "state/state.json"):
        write(folder / "checkpoints/m" / name, "{}")
    assert texts_of(read_documents([str(folder)])) == texts_of(before)
    with pytest.raises(BadInput, match="without text files"):
        read_documents([str(folder / "checkpoints/m")])


def test_a_directory_without_text_is_refused(tmp_path):
    with pytest.raises(BadInput, match="without text files"):
        read_documents([str(tmp_path)])
    write(tmp_path / "image.png", b"\0")
    write(tmp_path / ".hidden", "hidden")
    write(tmp_path / "blank.txt", " \n")
    with pytest.raises(BadInput, match="without text files"):
        read_documents([str(tmp_path)])


# Reading in blocks


SNIPPETS = st.sampled_from(
    [
        END_OF_TEXT,
        END_OF_TEXT,
        END_OF_TEXT[:7],
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "\t",
        "\x1c",
        "\u2028",
        "a",
        "é",
        "東京",
        "🎉",
        "word",
    ]
)


MIXED = st.lists(SNIPPETS, max_size=24).map("".join)


SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)", re.MULTILINE)


def split_at_once(text):
    """Returns the documents of the whole text of a file, split at once."""
    return tuple(part for part in SEPARATOR.split(text) if part.strip())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(deadline=None, max_examples=120)
@given(contents=st.lists(MIXED, min_size=1, max_size=3), block=st.integers(4, 40), marked=st.booleans(), data=st.data())
@example(contents=[f"a\n{END_OF_TEXT}"], block=14, marked=False, data=None)
@example(contents=[f"a\n{END_OF_TEXT}\n"], block=16, marked=True, data=None)
def test_blocks_of_any_size_give_the_documents_of_the_whole_text(folder, contents, block, marked, data):
    paths = [write(folder / f"{i}.txt", BOM * marked + text.encode()) for i, text in enumerate(contents)]
    texts = [text for content in contents for text in split_at_once(content)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        if not texts:
            with pytest.raises(BadInput, match="empty"):
                read_documents(paths)
            return
        read = read_documents(paths)
        assert texts_of(read) == tuple(texts)
        assert (read.characters, read.count) == (sum(map(len, texts)), len(texts))
        start = data.draw(st.integers(0, read.characters)) if data else 0
        stop = data.draw(st.integers(start, read.characters)) if data else read.characters
        pieces = list(read.read(start, stop))
    assert "".join(text for text, _ in pieces) == "".join(texts)[start:stop]
    ends = [at for at in accumulate(map(len, texts)) if start < at <= stop]
    at = accumulate(len(text) for text, _ in pieces)
    assert [start + end for end, (_, ended) in zip(at, pieces, strict=True) if ended] == ends
    assert read_documents(paths).digest == read.digest


@settings(deadline=None, max_examples=50)
@given(good=st.text("aé東🎉", max_size=12), block=st.integers(4, 12), marked=st.booleans())
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe6\x9d", b"\xed\xa0\x80", b"\0"])
def test_blocks_of_any_size_give_the_offset_of_the_wrong_byte(folder, bad, good, block, marked):
    whole = BOM * marked + good.encode()
    path = write(folder / "bad.txt", whole + bad + b"more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        for read in (read_text, lambda path: read_documents([path])):
            with pytest.raises(BadInput, match=rf"byte {len(whole)} is 0x{bad[0]:02x}"):
                read(path)


@settings(deadline=None, max_examples=50)
@given(text=st.text("aé東\r\n", min_size=1, max_size=12).filter(str.strip), block=st.integers(4, 12))
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "gb18030", "utf-7", "utf-8-sig", "euc-jp"])
def test_blocks_of_any_size_are_read_in_the_given_encoding(folder, encoding, text, block):
    text = text.replace("é", "京") if encoding == "euc-jp" else text
    path = write(folder / "encoded.txt", text.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        assert read_text(path, encoding) == text
        assert texts_of(read_documents([path], CorpusConfig(encoding=encoding))) == (text,)


def test_utf_16_without_a_byte_order_mark_has_the_byte_order_of_the_machine(tmp_path):
    data = "plain é".encode(f"utf-16-{sys.byteorder[0]}e")
    assert read_text(write(tmp_path / "f.txt", data), "utf-16") == "plain é"


@pytest.mark.parametrize("kept", [1, 1 << 20])
def test_a_pipe_can_be_read_several_times(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(documents_module, "_KEPT_IN_MEMORY", kept)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BOM + f"piped é\r\n{END_OF_TEXT}\nmore".encode())))
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"through a fifo",))
    writer.start()
    read = read_documents(["-", str(tmp_path / "fifo")])
    writer.join()
    assert texts_of(read) == texts_of(read) == ("piped é\r\n", "more", "through a fifo")


def test_a_pipe_that_does_not_fit_on_the_disk_is_an_error(monkeypatch):
    class Full(io.BytesIO):
        def __init__(self, _):
            super().__init__()

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(documents_module, "_Spool", Full)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    with pytest.raises(OutOfRoom, match=r"standard input does not fit .*No space left") as caught:
        read_documents(["-"])
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
def test_a_file_that_changes_between_readings_is_refused(tmp_path, change):
    text = story(300)
    path = write(tmp_path / "f.txt", text)
    read = read_documents([path])
    if change == "gone":
        (tmp_path / "f.txt").unlink()
    else:
        write(tmp_path / "f.txt", {"longer": text + "x", "shorter": text[:-1], "other": text.upper()}[change])
    with pytest.raises(BadInput, match=r"f\.txt changed"):
        prepare(read, CorpusConfig())
    assert not list((cache_folder() / "tokens").glob("*"))


def peak_memory(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_longer_text_needs_no_more_memory(tmp_path, monkeypatch):
    """The peak of memory is a few blocks of 16 KiB for files of 0.07 and 0.5 MB, with many lines or a single line."""
    monkeypatch.setattr(reading, "_BLOCK", 1 << 14)
    monkeypatch.setattr(encode_module, "_STRETCH", 1 << 14)
    monkeypatch.setattr(token_cache, "_READ_AT_ONCE", 1 << 12)
    peaks = []
    for lines, times in ((True, 1), (True, 7), (False, 7)):
        text = story(15_000) * times
        path = write(tmp_path / f"{lines}{times}.txt", text if lines else text.replace("\n", " "))
        del text
        peaks.append(peak_memory(lambda path=path: prepare(read_documents([path]), CorpusConfig(tokenizer="byte"))))
    assert max(peaks) < 1.3 * min(peaks)
    assert max(peaks) < 1_900_000


# Progress


def test_the_progress_of_every_stage_reaches_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_REPORT_EVERY", 0)
    monkeypatch.setattr(reading, "_BLOCK", 1000)
    monkeypatch.setattr(encode_module, "_STRETCH", 1000)
    path = write(tmp_path / "f.txt", story(3000))
    told: list[Progress] = []
    prepare(read_documents([path], progress=told.append), CorpusConfig(), progress=told.append)
    stages = [list(group) for _, group in itertools.groupby(told, lambda one: one.stage)]
    assert [group[0].stage for group in stages] == ["reading", "learning the vocabulary", "tokenizing"]
    for group in stages:
        done = [one.done for one in group]
        assert len(done) > 5
        assert done == sorted(done)
        assert done[-1] == group[-1].total
    told.clear()
    prepare(read_documents([path]), CorpusConfig(), progress=told.append)
    assert told == []


def test_the_progress_of_a_pipe_has_no_total(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    told: list[Progress] = []
    read_documents(["-"], progress=told.append)
    assert told == [Progress("reading", 4, None)]


# Overlapping files, encodings and hints


@pytest.mark.parametrize(
    ("paths", "held_out", "said"),
    [
        (["a.txt", "b.txt"], None, None),
        (["a.txt", "b.txt"], "folder/c.txt", None),
        (["folder"], None, None),  # the folder contains a link to its own file, which is read once
        (["a.txt", "a.txt"], "b.txt", None),
        (["a.txt", "./a.txt"], None, "a.txt is given more than once"),
        (["folder/c.txt", "folder"], None, "c.txt is given more than once"),
        (["a.txt", "hard.txt"], None, "is given more than once"),
        (["a.txt", "soft.txt"], "b.txt", None),
        (["a.txt"], "soft.txt", "measure memorized text"),
        (["folder"], "folder/c.txt", "folder/c.txt is given both to train on and to validate on"),
        (["a.txt", "folder"], "folder", "is given both to train on and to validate on"),
        (["-", "-"], "a.txt", "Standard input is named twice"),
        (["-"], "-", "Standard input is named twice"),
        (["-", "a.txt"], None, None),
    ],
)
def test_overlapping_training_and_validation_files_are_refused(paths, held_out, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.txt", "b.txt", "folder/c.txt"):
        Path(name).write_text("the same text in all of them\n")
    Path("hard.txt").hardlink_to("a.txt")
    Path("soft.txt").symlink_to("a.txt")
    Path("folder/latest.txt").symlink_to("c.txt")
    if said is None:
        refuse_overlap(paths, held_out)
    else:
        with pytest.raises(UsageProblem, match=said):
            refuse_overlap(paths, held_out)


def test_a_text_named_several_times_is_listed_once():
    assert listed(["a", "b", "a", "a"]) == "3 x a, b"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_determines_the_encoding(tmp_path, monkeypatch, encoding):
    data = "\ufeffGröße 東京\r\nmore".encode(encoding)
    path = write(tmp_path / "f.txt", data)
    assert read_text(path) == "Größe 東京\r\nmore"
    assert texts_of(read_documents([path])) == ("Größe 東京\r\nmore",)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_text("-") == "Größe 東京\r\nmore"


@pytest.mark.parametrize("order", ["le", "be"])
def test_the_hint_for_utf_16_names_an_encoding_that_reads_the_text(tmp_path, order):
    utf16 = write(tmp_path / "f.txt", "plain letters".encode(f"utf-16-{order}"))
    with pytest.raises(BadInput) as caught:
        read_text(utf16)
    assert f"encoding utf-16-{order}" in caught.value.hint
    assert read_text(utf16, f"utf-16-{order}") == "plain letters"
    binary = write(tmp_path / "f.bin", bytes(range(256)) * 20)
    for encoding in ("utf-8", "latin-1", "cp437", "gb18030"):
        with pytest.raises(BadInput, match="is not") as caught:
            read_text(binary, encoding)
        assert not re.search("latin-1|utf-16|gb18030", caught.value.hint)


def test_a_url_is_refused_with_the_command_that_downloads_it():
    for read in (read_text, lambda path: read_documents([path])):
        with pytest.raises(BadInput, match=r"https://example\.org/a\.txt is a URL") as caught:
            read("https://example.org/a.txt")
        assert caught.value.hint == "Download it first: curl -LO https://example.org/a.txt"
