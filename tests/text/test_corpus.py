"""Files to text, text to two parts, parts to a cache of ids, ids to the batch of every step."""

import bz2
import errno
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import re
import resource
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.folders import cache_folder
from attncli.text import corpus as corpus_module
from attncli.text import documents as documents_module
from attncli.text import encode as encode_module
from attncli.text import parts, progress, reading, token_cache, tokenizer_training
from attncli.text.batch import batch
from attncli.text.corpus import Corpus, default_vocab_size, learn_tokenizer, prepare
from attncli.text.documents import Documents
from attncli.text.encode import Encoder, batches, stretched
from attncli.text.files import read_documents, read_text, refuse_overlap
from attncli.text.formats import base, json_lines
from attncli.text.names import listed
from attncli.text.parts import Part, split_by_position, spread
from attncli.text.progress import Progress
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer, stretches, train_tokenizer
from attncli.text.tokens import count_tokens
from attncli.training.samples import first_words
from tests.support.texts import story

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "cache"))


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def documents(*texts):
    return Documents.of(texts, ("made.txt",))


def joined(pieces):
    """The documents that pieces are of; one that is cut at the end counts."""
    texts, goes_on = [], False
    for text, ended in pieces:
        texts[len(texts) - goes_on :] = [texts[-1] + text] if goes_on else [text]
        goes_on = not ended
    return tuple(texts)


def texts_of(read, start=0, stop=None):
    return joined(read.read(start, stop))


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
def test_a_file_is_read_as_it_is_without_its_byte_order_mark(tmp_path, data, text):
    assert read_text(write(tmp_path / "f.txt", data)) == text


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "UTF8", "utf_8", "utf-8-sig"])
def test_a_file_is_read_in_the_encoding_named(tmp_path, encoding):
    text = "Größe: 10 €\r\n" if encoding not in ("latin-1",) else "Größe: 10\r\n"
    path = write(tmp_path / "f.txt", text.encode(encoding))
    assert read_text(path, encoding) == text
    assert texts_of(read_documents([path], encoding)) == (text,)


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
def test_what_is_not_utf8_is_named_with_its_offset(tmp_path, data, offset, found):
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
def test_what_is_not_in_the_encoding_named_is_refused(tmp_path, encoding, data):
    with pytest.raises(BadInput, match=r"f\.txt is not " + encoding.upper()):
        read_text(write(tmp_path / "f.txt", data), encoding)


def test_a_missing_file_and_a_directory_are_no_text(tmp_path):
    with pytest.raises(BadInput, match=r"no file .*nowhere\.txt"):
        read_text(str(tmp_path / "nowhere.txt"))
    with pytest.raises(BadInput, match="cannot be read"):
        read_text(str(tmp_path))
    with pytest.raises(BadInput, match=r"no file .*nowhere\.txt"):
        read_documents([write(tmp_path / "f.txt", "there"), str(tmp_path / "nowhere.txt")])


def test_standard_input_is_read_and_named(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BOM + "piped é\r\n".encode())))
    assert read_text("-") == "piped é\r\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\0")))
    with pytest.raises(BadInput, match="standard input is not text: byte 2"):
        read_text("-")


@pytest.mark.parametrize("name", ["no-such-code", "rot13"])
def test_an_encoding_that_is_none_is_refused(name):
    with pytest.raises(UsageProblem, match=f"^encoding '{name}'"):
        CorpusConfig(encoding=name)


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, float("nan"), float("inf")])
def test_a_validation_part_of_none_or_of_most_is_refused(fraction):
    with pytest.raises(UsageProblem, match=r"^val_fraction"):
        CorpusConfig(val_fraction=fraction)


# Documents


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", BOM, f"{END_OF_TEXT}\n\n{END_OF_TEXT}\n".encode()])
def test_a_file_without_text_is_empty(tmp_path, data):
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
def test_the_end_of_text_string_in_a_line_of_text_is_text(tmp_path, text):
    assert texts_of(read_documents([write(tmp_path / "f.txt", text)])) == (text,)


def test_a_directory_is_read_by_name_without_what_is_hidden_or_not_text(tmp_path):
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


def test_a_directory_is_read_without_the_models_in_it(tmp_path):
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
    """The documents of a file's text, from all of it."""
    return tuple(part for part in SEPARATOR.split(text) if part.strip())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(deadline=None, max_examples=300)
@given(contents=st.lists(MIXED, min_size=1, max_size=3), block=st.integers(4, 40), marked=st.booleans(), data=st.data())
@example(contents=[f"a\n{END_OF_TEXT}"], block=14, marked=False, data=None)
@example(contents=[f"a\n{END_OF_TEXT}\n"], block=16, marked=True, data=None)
def test_blocks_of_any_size_give_the_documents_of_the_whole(folder, contents, block, marked, data):
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


@settings(deadline=None, max_examples=100)
@given(good=st.text("aé東🎉", max_size=12), block=st.integers(4, 12), marked=st.booleans())
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe6\x9d", b"\xed\xa0\x80", b"\0"])
def test_blocks_of_any_size_give_the_offset_of_what_is_wrong(folder, bad, good, block, marked):
    whole = BOM * marked + good.encode()
    path = write(folder / "bad.txt", whole + bad + b"more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        for read in (read_text, lambda path: read_documents([path])):
            with pytest.raises(BadInput, match=rf"byte {len(whole)} is 0x{bad[0]:02x}"):
                read(path)


@settings(deadline=None, max_examples=100)
@given(text=st.text("aé東\r\n", min_size=1, max_size=12).filter(str.strip), block=st.integers(4, 12))
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "gb18030", "utf-7", "utf-8-sig", "euc-jp"])
def test_blocks_of_any_size_are_read_in_the_encoding_named(folder, encoding, text, block):
    text = text.replace("é", "京") if encoding == "euc-jp" else text
    path = write(folder / "encoded.txt", text.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        assert read_text(path, encoding) == text
        assert texts_of(read_documents([path], encoding)) == (text,)


def test_utf_16_without_its_mark_is_that_of_the_machine(tmp_path):
    data = "plain é".encode(f"utf-16-{sys.byteorder[0]}e")
    assert read_text(write(tmp_path / "f.txt", data), "utf-16") == "plain é"


@pytest.mark.parametrize("kept", [1, 1 << 20])
def test_a_pipe_can_be_read_again_and_again(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(documents_module, "_KEPT_IN_MEMORY", kept)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BOM + f"piped é\r\n{END_OF_TEXT}\nmore".encode())))
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"through a fifo",))
    writer.start()
    read = read_documents(["-", str(tmp_path / "fifo")])
    writer.join()
    assert texts_of(read) == texts_of(read) == ("piped é\r\n", "more", "through a fifo")


def test_a_pipe_that_does_not_fit_the_disk_is_out_of_room(monkeypatch):
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
    assert not list((tmp_path / "cache" / "tokens").glob("*"))


def peak_memory(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    """Files of 0.07 and of 0.5 MB in blocks of 16 KiB, one line and many: the same few blocks are held."""
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


# Splitting


@settings(deadline=None, max_examples=100)
@given(
    texts=st.lists(st.text("ab\n", min_size=1, max_size=30).filter(str.strip), max_size=6),
    fraction=st.floats(1e-6, 0.5),
)
@example(texts=["a" * 10, "b" * 10], fraction=0.5)
@example(texts=["a", "b"], fraction=0.25)
def test_a_split_loses_nothing_and_has_the_sizes_asked_for(texts, fraction):
    train, val = split_by_position(documents(*texts), fraction)
    total = sum(map(len, texts))
    keep = total - round(total * fraction)
    assert (train.characters, val.characters) == (keep, total - keep)
    first, last = (joined(piece for passage in part.chunks() for piece in passage) for part in (train, val))
    assert "".join(first) == "".join(texts)[:keep]
    assert "".join(last) == "".join(texts)[keep:]
    assert len(texts) <= len(first) + len(last) <= len(texts) + 1


@settings(deadline=None, max_examples=100)
@given(characters=st.integers(0, 10**12))
def test_a_vocabulary_by_default_is_a_power_of_two_within_its_bounds(characters):
    size = default_vocab_size(characters)
    assert 512 <= size <= 8192
    assert size & (size - 1) == 0
    assert size <= default_vocab_size(2 * characters)


def test_a_vocabulary_by_default_grows_with_the_square_root_of_the_text():
    assert [default_vocab_size(n) for n in (0, 1, 10_000, 1_000_000, 4_000_000, 50_000_000, 10**11)] == [
        512, 512, 512, 1024, 2048, 8192, 8192,
    ]  # fmt: skip


# Preparing


@dataclass
class Copy:
    """What a corpus holds, out of the files that it maps."""

    train: list[int]
    val: list[int]
    tokenizer: str
    facts: tuple

    @classmethod
    def of(cls, made: Corpus):
        facts = tuple((part.characters, part.bytes, part.documents) for part in (made.train, made.val))
        return cls(
            made.train.ids[:].tolist(), made.val.ids[:].tolist(), made.tokenizer.to_json(), (*facts, made.digest)
        )


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_the_ids_of_both_parts_decode_to_the_text(kind):
    text = story(800) + "naïve 東京 🎉\r\n"
    made = prepare(documents(text), CorpusConfig(tokenizer=kind))
    parts = [made.tokenizer.decode(part.ids[:].tolist()) for part in (made.train, made.val)]
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [made.train.characters, made.val.characters]
    assert [len(part.encode()) for part in parts] == [made.train.bytes, made.val.bytes]
    assert made.val.characters == round(len(text) * 0.1)
    assert (made.train.documents, made.val.documents) == (1, 1)
    assert made.sources == ("made.txt",)
    assert len(made.train) == len(made.train.ids)


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_a_text_taken_in_stretches_gives_the_ids_of_the_whole(tmp_path, monkeypatch, kind):
    text, config = documents(story(2000), story(500, seed=1)), CorpusConfig(tokenizer=kind)
    whole = Copy.of(prepare(text, config))
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "another cache"))
    monkeypatch.setattr(encode_module, "_STRETCH", 100)
    monkeypatch.setattr(reading, "_BLOCK", 64)
    text = documents(story(2000), story(500, seed=1))
    assert Copy.of(prepare(text, config)) == whole


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("character", ["x", "東", " "])
def test_a_line_of_a_million_characters_is_tokenized(kind, character):
    text = character * 1_200_000 + "end of it"
    made = prepare(documents(text), CorpusConfig(tokenizer=kind))
    assert made.train.characters + made.val.characters == len(text)
    decoded = [made.tokenizer.decode(part.ids[:].tolist()) for part in (made.train, made.val)]
    assert "".join(decoded) == text


def test_a_tokenizer_is_learned_from_short_stretches_of_a_long_word():
    """The library takes time by the square of a word's length, hours for a line of 100 MB; no token is longer than one.

    Learned from the whole word, the longest token has 16384 characters.
    """
    text = "x" * 20_000 + " and the end of it."
    tokenizer = train_tokenizer(stretches(text), "bpe", 512)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(map(len, json.loads(tokenizer.to_json())["model"]["vocab"])) <= 2 * tokenizer_training._LEARN_LENGTH


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_the_tokenizer_is_learned_from_the_training_part_alone(kind):
    text = story(800)
    plain = prepare(documents(text), CorpusConfig(tokenizer=kind))
    assert round(len(text) * 0.1) > 9
    odd = prepare(documents(text[:-9] + "☃☃☃☃☃☃☃☃\n"), CorpusConfig(tokenizer=kind))
    assert odd.tokenizer.to_json() == plain.tokenizer.to_json()
    assert odd.train.ids[:].tolist() == plain.train.ids[:].tolist()
    assert odd.val.ids[:].tolist() != plain.val.ids[:].tolist()
    assert odd.digest != plain.digest
    learned = text[: plain.train.characters]
    wanted = default_vocab_size(len(learned)) if kind == "bpe" else None
    assert train_tokenizer([learned], kind, wanted).to_json() == plain.tokenizer.to_json()


def test_a_tokenizer_that_is_given_is_used():
    given_ = byte_tokenizer()
    made = prepare(documents(story(100)), CorpusConfig(tokenizer="bpe"), tokenizer=given_)
    assert made.tokenizer.to_json() == given_.to_json()
    assert bytes(made.train.ids[:].tolist() + made.val.ids[:].tolist()).decode() == story(100)


def test_validation_documents_that_are_given_are_used_whole():
    train, val = story(300), story(100, seed=9)
    made = prepare(documents(train), CorpusConfig(), documents(val))
    assert made.tokenizer.decode(made.train.ids[:].tolist()) == train
    assert made.tokenizer.decode(made.val.ids[:].tolist()) == val
    assert made.digest != prepare(documents(train), CorpusConfig(), documents(train)).digest


def test_one_document_has_no_end_of_text():
    made = prepare(documents(story(300)), CorpusConfig())
    assert made.tokenizer.end_of_text is not None
    assert made.tokenizer.end_of_text not in made.train.ids[:]
    assert made.tokenizer.end_of_text not in made.val.ids[:]


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_each_of_several_documents_has_an_end_of_text_after_it(kind):
    texts = [story(100, seed) for seed in range(5)]
    made = prepare(documents(*texts), CorpusConfig(tokenizer=kind), documents(story(50, 8), story(50, 9)))
    decoded = made.tokenizer.decode(made.train.ids[:].tolist())
    assert decoded == "".join(text + END_OF_TEXT for text in texts)
    for part, count in ((made.train, 5), (made.val, 2)):
        ends = np.flatnonzero(part.ids[:] == made.tokenizer.end_of_text)
        assert len(ends) == part.documents == count
        assert ends[-1] == len(part) - 1


def test_the_string_of_the_end_of_text_within_a_document_is_not_its_id():
    text = story(200).replace(" the ", f" {END_OF_TEXT} ")
    made = prepare(documents(text), CorpusConfig())
    assert END_OF_TEXT in text
    assert made.tokenizer.end_of_text not in made.train.ids[:]
    assert made.tokenizer.decode(made.train.ids[:].tolist() + made.val.ids[:].tolist()) == text


@pytest.mark.parametrize("text", ["word", "two words", "x" * 40])
@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_a_text_of_a_word_is_too_short(tmp_path, text, kind):
    with pytest.raises(BadInput, match=f"too short .* {len(text)} characters"):
        prepare(documents(text), CorpusConfig(tokenizer=kind))
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


def test_a_vocabulary_that_cannot_be_is_refused_by_prepare():
    with pytest.raises(UsageProblem, match="vocab_size"):
        prepare(documents(story(100)), CorpusConfig(vocab_size=12))


# Many words at once


def metaspace():
    """A tokenizer of another family, whose tokens may go beyond a word."""
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(split=False, prepend_scheme="never")
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*alphabet, END_OF_TEXT], show_progress=False
    )
    backend.train_from_iterator([story(400).replace("\n", " ")], trainer)
    return Tokenizer(backend)


TOKENIZERS = {
    "bpe": train_tokenizer([story(400), "naïve it's the  end\t\t of 東京\r\n" * 9], "bpe", 400),
    "char": train_tokenizer([story(400)], "char"),
    "byte": byte_tokenizer(),
    "other": metaspace(),
}
SPACES = [" ", "  ", *"\n\r\t\x0b\x1c\x1f\x85\xa0\u2028\u3000"]
WORDS = [
    "the",
    " the",
    "cat",
    "it's",
    "'s",
    "42",
    "!?",
    "_",
    END_OF_TEXT,
    "é",
    "東京",
    "🎉",
    "\u180e",
    "\u200b",
    "\ufeff",
]
WORDS_AND_SPACES = st.lists(st.sampled_from([*WORDS, *SPACES]), max_size=30).map("".join)


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.tuples(WORDS_AND_SPACES, st.booleans()), max_size=4), ends=st.booleans(), most=st.integers(1, 40)
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_that_are_remembered_give_the_ids_of_the_whole(kind, texts, ends, most):
    tokenizer = TOKENIZERS[kind]
    expected = []
    for text, ended in texts:
        expected += tokenizer.encode(text)
        if ends and ended:
            expected.append(tokenizer.end_of_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_module, "_MOST_WORDS", most)
        encoder = Encoder(tokenizer, ends)
        for _ in range(3):
            assert encoder.encode(texts).tolist() == expected


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_a_word_is_tokenized_once(kind, monkeypatch):
    encoder = Encoder(TOKENIZERS[kind], False)
    text = story(300)
    first = encoder.encode([(text, False)]).tolist()
    monkeypatch.setattr(Tokenizer, "encode_batch", None)
    assert encoder.encode([(text, False)] * 2).tolist() == first * 2


def test_ids_beyond_two_bytes_are_kept():
    large = train_tokenizer(
        [" ".join(map(chr, range(0x4E00, 0x4E00 + 20_000))), "".join(map(chr, range(0xAC00, 0xD7A3)))], "char"
    )
    assert large.vocab_size < 1 << 16
    assert Encoder(large, True).encode([("一", True)]).dtype == np.uint16
    huge = train_tokenizer(["".join(map(chr, range(0x20000, 0x32000)))], "char")
    assert huge.vocab_size > 1 << 16
    assert Encoder(huge, True).encode([(chr(0x31FFF), True)]).tolist() == [*huge.encode(chr(0x31FFF)), huge.end_of_text]


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.text("ab \n\t", min_size=1, max_size=90), max_size=3),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    length=st.integers(1, 20),
)
def test_pieces_are_cut_as_whole_documents_are(texts, cuts, length):
    def pieces():
        sizes = itertools.cycle(cuts)
        for text in texts:
            while text:
                size = next(sizes)
                yield text[:size], False
                text = text[size:]
            yield "", True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_module, "_STRETCH", length)
        found = list(stretched(pieces()))
        grouped = list(batches(iter(found)))
    assert [text for text, _ in found if text] == [cut for text in texts for cut in stretches(text, length)]
    assert joined(found) == tuple(texts)
    assert [piece for group in grouped for piece in group] == found
    assert all(sum(len(text) for text, _ in group[:-1]) < length for group in grouped)


# Passages of a large text


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


def test_passages_cover_the_whole_and_keep_documents_or_else_lines(short_passages):
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


def test_of_a_large_part_only_passages_are_trained_on(tmp_path, short_passages):
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


def test_a_vocabulary_is_learned_from_passages_of_a_large_text(short_passages, monkeypatch):
    monkeypatch.setattr(corpus_module, "_LEARN_FROM", 5000)
    part = Part.whole(documents(*(story(60, seed) for seed in range(100))))
    sizes = []
    learned = [learn_tokenizer(part, CorpusConfig(vocab_size=300), lambda p: sizes.append(p.total)) for _ in range(2)]
    assert learned[0].to_json() == learned[1].to_json()
    assert set(sizes) == {spread(part, 5000).characters}
    assert count_tokens(part, learned[0])[1] == part.characters
    every = learn_tokenizer(part, CorpusConfig(tokenizer="char"))
    assert every.vocab_size == 257 + len(set("".join(text for text, _ in part.documents.read())))


def test_the_most_characters_are_some():
    with pytest.raises(UsageProblem, match="most_characters"):
        CorpusConfig(most_characters=0)


# The text again


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("ab é東🎉\n", min_size=40, max_size=90).filter(str.strip), min_size=2, max_size=4),
    limit=st.integers(0, 400),
)
@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_the_first_document_is_given_back(kind, texts, limit):
    made = prepare(documents(*texts, "x" * 99), CorpusConfig(val_fraction=0.3), tokenizer=TOKENIZERS[kind])
    first = texts[0] if made.tokenizer.end_of_text is not None else "".join(texts) + "x" * 99
    assert made.opening(limit) == first[: min(limit, made.train.characters)]


def test_a_prompt_to_try_is_of_one_document():
    texts = [f"Note {i} is short." for i in range(40)]
    assert first_words(prepare(documents(*texts), CorpusConfig(vocab_size=300))) == "Note 0 is short."
    assert first_words(prepare(documents("Hi", *texts), CorpusConfig(vocab_size=300))) == "Hi"


@pytest.mark.parametrize(
    ("text", "words"), [("--- \n- one two\n", "one two"), ("-5 degrees", "5 degrees"), ("- - -", "The")]
)
def test_a_prompt_to_try_is_no_option(text, words):
    made = prepare(documents(text, *(story(40, seed) for seed in range(12))), CorpusConfig(vocab_size=300))
    assert first_words(made) == words


# Progress


def test_every_stage_is_told_to_its_end(tmp_path, monkeypatch):
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


def test_the_size_of_a_pipe_is_not_known(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    told: list[Progress] = []
    read_documents(["-"], progress=told.append)
    assert told == [Progress("reading", 4, None)]


# The cache


def entries():
    return list((cache_folder() / "tokens").iterdir())


@pytest.fixture
def no_tokenizing(monkeypatch):
    """From now on, learning a tokenizer or using one is an error."""

    def forbid():
        def refuse(*_):
            raise AssertionError("tokenized again")

        monkeypatch.setattr(corpus_module, "train_tokenizer", refuse)
        monkeypatch.setattr(Tokenizer, "encode_batch", refuse)

    return forbid


def test_a_second_call_reads_the_cache(no_tokenizing):
    text = documents(story(500), story(20))
    first = Copy.of(prepare(text, CorpusConfig()))
    no_tokenizing()
    assert Copy.of(prepare(text, CorpusConfig())) == first
    assert len(entries()) == 1


def test_the_source_is_that_of_the_call_and_not_of_the_cache():
    prepare(documents(story(500)), CorpusConfig())
    assert prepare(Documents.of((story(500),), ("moved.txt",)), CorpusConfig()).sources == ("moved.txt",)
    assert len(entries()) == 1


def test_everything_that_changes_the_ids_has_an_entry_of_its_own():
    text = documents(story(500))
    for config in (
        CorpusConfig(),
        CorpusConfig(vocab_size=300),
        CorpusConfig(tokenizer="char"),
        CorpusConfig(val_fraction=0.2),
    ):
        prepare(text, config)
    prepare(text, CorpusConfig(), documents(story(50)))
    prepare(documents(story(250), story(250)), CorpusConfig())
    prepare(text, CorpusConfig(), tokenizer=byte_tokenizer())
    assert len(entries()) == 7


DAMAGES = {
    "facts deleted": ("facts.json", None),
    "facts empty": ("facts.json", b""),
    "facts of another shape": ("facts.json", b'{"train": [], "val": null}'),
    "facts not an object": ("facts.json", b"null"),
    "facts not text": ("facts.json", b"\xff\xfe"),
    "ids deleted": ("train.ids", None),
    "ids empty": ("val.ids", b""),
    "ids cut within one": ("train.ids", slice(-1)),
    "ids cut": ("train.ids", slice(-2)),
    "ids doubled": ("val.ids", 2),
    "tokenizer deleted": ("tokenizer.json", None),
    "tokenizer cut": ("tokenizer.json", slice(-20)),
    "tokenizer not text": ("tokenizer.json", b"\xff\xfe"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_made_again(name, no_tokenizing):
    text = documents(story(500))
    first = Copy.of(prepare(text, CorpusConfig()))
    (entry,) = entries()
    file, damage = DAMAGES[name]
    data = (entry / file).read_bytes()
    (entry / file).unlink()
    if damage is not None:
        changed = damage if isinstance(damage, bytes) else data * damage if isinstance(damage, int) else data[damage]
        (entry / file).write_bytes(changed)
    assert Copy.of(prepare(text, CorpusConfig())) == first
    assert entries() == [entry]
    no_tokenizing()
    assert Copy.of(prepare(text, CorpusConfig())) == first


def test_a_cache_that_shrinks_while_it_is_read_is_an_error_and_kills_nothing():
    corpus = prepare(documents(story(20_000)), CorpusConfig(tokenizer="byte"))
    (entry,) = entries()
    before = batch(corpus.train.ids, seed=0, step=0, batch_size=64, context=128)
    os.truncate(entry / "train.ids", 5_000)
    assert corpus.train.ids[:1000].tolist() == [*story(20_000).encode()[:1000]]
    with pytest.raises(BadInput, match=r"train\.ids was cut short while it was in use"):
        batch(corpus.train.ids, seed=0, step=0, batch_size=64, context=128)
    with pytest.raises(BadInput):
        corpus.train.ids[:]
    again = prepare(documents(story(20_000)), CorpusConfig(tokenizer="byte"))
    assert (batch(again.train.ids, seed=0, step=0, batch_size=64, context=128) == before).all()


@pytest.mark.parametrize("name", ["facts.json", "tokenizer.json", "train.ids"])
def test_a_pipe_in_the_cache_is_made_again(name):
    prepare(documents(story(500)), CorpusConfig())
    (entry,) = entries()
    (entry / name).unlink()
    os.mkfifo(entry / name)
    prepare(documents(story(500)), CorpusConfig())
    assert entries() == [entry]


def test_the_cache_is_its_owners_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "deep" / "cache"))
    before = os.umask(0)
    try:
        prepare(documents(story(500)), CorpusConfig())
    finally:
        os.umask(before)
    folders = [tmp_path / "deep", *(path for path in (tmp_path / "deep").rglob("*") if path.is_dir())]
    assert len(folders) == 4
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    write(tmp_path / "file", "in the way")
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutOfRoom, match="token cache") as caught:
        prepare(documents(story(100)), CorpusConfig())
    assert "ATTNCLI_CACHE" in caught.value.hint


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ATTNCLI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "attncli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "attncli"


def test_the_digest_is_of_all_text_and_of_the_split():
    texts = (story(300), story(300, seed=1))
    made = [
        prepare(documents(*texts), CorpusConfig()),
        prepare(documents("".join(texts)), CorpusConfig()),
        prepare(documents(*reversed(texts)), CorpusConfig()),
        prepare(documents(texts[0], texts[1][:-2] + "\n"), CorpusConfig()),
        prepare(documents(*texts), CorpusConfig(val_fraction=0.2)),
        prepare(documents(texts[0]), CorpusConfig(), documents(texts[1])),
    ]
    assert len({corpus.digest for corpus in made}) == len(made)
    assert prepare(documents(*texts), CorpusConfig(tokenizer="byte")).digest == made[0].digest


def test_a_full_disk_is_named_with_what_is_needed_and_nothing_is_left(monkeypatch):
    monkeypatch.setattr(encode_module, "_STRETCH", 10_000)
    text = documents(story(20_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(OutOfRoom, match=r"about [\d,]+ bytes are needed, [\d,]+ were written") as caught:
            prepare(text, CorpusConfig(tokenizer="byte"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    needed = int(re.search(r"about ([\d,]+)", caught.value.message)[1].replace(",", ""))
    assert needed == pytest.approx(2 * text.bytes, rel=0.1)
    assert entries() == []


def test_an_interruption_leaves_no_entry(monkeypatch):
    calls = iter(range(3))
    encode = Encoder.encode

    def interrupted(self, pieces):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, pieces)

    monkeypatch.setattr(encode_module, "_STRETCH", 1000)
    monkeypatch.setattr(Encoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(documents(story(3000)), CorpusConfig())
    assert entries() == []


# Batches


def numbered(length):
    """Ids that say where they stand."""
    return np.arange(length, dtype=np.uint16)


SHAPE = {"length": st.integers(9, 400), "context": st.integers(1, 8), "seed": st.integers(0, 2**63 - 1)}


@settings(deadline=None, max_examples=100)
@given(**SHAPE, step=st.integers(0, 1000), batch_size=st.integers(1, 9))
def test_every_row_is_a_stretch_of_the_ids(length, context, seed, step, batch_size):
    rows = batch(numbered(length), seed=seed, step=step, batch_size=batch_size, context=context)
    assert rows.shape == (batch_size, context + 1)
    assert rows.dtype == np.int64
    assert (rows == rows[:, :1] + np.arange(context + 1)).all()
    assert rows.min() >= 0
    assert rows.max() < length


@settings(deadline=None, max_examples=60)
@given(**SHAPE, steps=st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_batch_depends_on_nothing_but_its_arguments(length, context, seed, steps):
    def take(step):
        return batch(numbered(length), seed=seed, step=step, batch_size=5, context=context).tolist()

    forward = {step: take(step) for step in steps}
    for other in range(6):  # more epochs of another run than are remembered
        batch(numbered(300), seed=other, step=0, batch_size=1, context=2)
    assert {step: take(step) for step in reversed(steps)} == forward


@settings(deadline=None, max_examples=60)
@given(**SHAPE, epoch=st.integers(0, 5))
def test_an_epoch_visits_every_window_once(length, context, seed, epoch):
    """The windows of an epoch lie side by side, so that no id but the ends is left out and none is a target twice."""
    windows = max((length - 1) // context - 1, 1)
    rows = [
        batch(numbered(length), seed=seed, step=epoch * windows + i, batch_size=1, context=context)[0]
        for i in range(windows)
    ]
    starts = sorted(int(row[0]) for row in rows)
    assert starts == list(range(starts[0], starts[0] + windows * context, context))
    assert starts[0] + length - 1 - (starts[-1] + context) < 2 * context


@settings(deadline=None, max_examples=60)
@given(**SHAPE, step=st.integers(0, 50), batch_size=st.integers(1, 6), ranks=st.integers(1, 4))
def test_the_ranks_share_the_rows_of_one(length, context, seed, step, batch_size, ranks):
    ids = numbered(length)
    shared = [
        batch(ids, seed=seed, step=step, batch_size=batch_size, context=context, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    alone = batch(ids, seed=seed, step=step, batch_size=ranks * batch_size, context=context)
    assert np.concatenate(shared).tolist() == alone.tolist()


def test_seeds_and_epochs_have_orders_of_their_own():
    ids = numbered(2000)
    windows = 1999 // 8 - 1
    orders = [
        batch(ids, seed=seed, step=epoch, batch_size=windows, context=8)[:, 0].tolist()
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 9
    assert all(order != sorted(order) for order in orders)
    assert len({min(order) % 8 for order in orders}) > 1


def test_ids_too_few_for_the_context_are_refused():
    with pytest.raises(BadInput, match="8 tokens are too few for a context of 8"):
        batch(numbered(8), seed=0, step=0, batch_size=1, context=8)
    assert batch(numbered(9), seed=0, step=3, batch_size=1, context=8).tolist() == [list(range(9))]


def test_a_document_that_the_split_cuts_is_not_ended_there():
    texts = ("one two three four five. " * 40, "six seven eight nine ten. " * 40)
    corpus = prepare(Documents.of(texts), CorpusConfig(tokenizer="byte", val_fraction=0.25))
    end = corpus.tokenizer.end_of_text
    assert corpus.train.ids[:].tolist().count(end) == 1
    assert corpus.train.ids[:][len(texts[0].encode())] == end
    assert corpus.val.ids[:].tolist()[-1] == end


def test_two_documents_split_between_them_are_both_ended():
    corpus = prepare(Documents.of(("a b c. " * 40,) * 2), CorpusConfig(tokenizer="byte", val_fraction=0.5))
    end = corpus.tokenizer.end_of_text
    assert [part.ids[:].tolist().count(end) for part in (corpus.train, corpus.val)] == [1, 1]


@pytest.mark.parametrize(
    ("paths", "held_out", "said"),
    [
        (["a.txt", "b.txt"], None, None),
        (["a.txt", "b.txt"], "folder/c.txt", None),
        (["folder"], None, None),  # the link in it leads to a file of it, which is read once
        (["a.txt", "a.txt"], "b.txt", None),
        (["a.txt", "./a.txt"], None, "a.txt is given more than once"),
        (["folder/c.txt", "folder"], None, "c.txt is given more than once"),
        (["a.txt", "hard.txt"], None, "is given more than once"),
        (["a.txt", "soft.txt"], "b.txt", None),
        (["a.txt"], "soft.txt", "learned by heart"),
        (["folder"], "folder/c.txt", "folder/c.txt is to train on and to validate on"),
        (["a.txt", "folder"], "folder", "is to train on and to validate on"),
        (["-", "-"], "a.txt", "Standard input is named twice"),
        (["-"], "-", "Standard input is named twice"),
        (["-", "a.txt"], None, None),
    ],
)
def test_no_text_is_trained_on_and_validated_on(paths, held_out, said, tmp_path, monkeypatch):
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


def zipped(name, text):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(name, text)
    return made.getvalue()


def packed(kind):
    """A file of some kind, whole or only its beginning."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    return {
        "a gzip file": gzip.compress(b"text"),
        "an xz file": lzma.compress(b"text"),
        "a bzip2 file": bz2.compress(b"text"),
        "a zstd file": b"\x28\xb5\x2f\xfd\x04\x00",
        "an EPUB book": zipped("mimetype", "application/epub+zip"),
        "an Office file": zipped("[Content_Types].xml", "<Types/>"),
        "a zip file": zipped("a.txt", "text"),
        "a tar file": tar.getvalue(),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
        "a Parquet file": b"PAR1\x15\x04\x15",
        "a PNG picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "a JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF",
        "an SQLite database": b"SQLite format 3\0\x10\0",
        "a program": b"\x7fELF\x02\x01\x01\0",
        "a Python pickle": pickle.dumps({"a": 1}),
        "a file of PyTorch": zipped("archive/data.pkl", ""),
        "a safetensors file": safetensors.numpy.save({"a": np.zeros(2, np.float32)}),
        "a GGUF file": b"GGUF\x03\0\0\0\0\0",
    }[kind]


COMMANDS = {
    "a gzip file": "gzip -dc",
    "an xz file": "xz -dc",
    "a bzip2 file": "bzip2 -dc",
    "a zstd file": "zstd -dc",
    "an EPUB book": "pandoc",
    "an Office file": "pandoc",
    "a zip file": "unzip -p",
    "a tar file": "tar -xf",
    "a PDF": "pdftotext",
    "a Parquet file": "read_parquet",
    "an SQLite database": "sqlite3",
}
NO_TEXT = ("a PNG picture", "a JPEG picture", "a program", "a Python pickle", "a file of PyTorch", "a safetensors file")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize("kind", [*COMMANDS, *NO_TEXT, "a GGUF file"])
def test_what_is_no_text_is_named_with_the_command_that_gives_its_text(tmp_path, monkeypatch, kind, encoding):
    """In whatever encoding it is read: none makes text of it."""
    path = write(tmp_path / "my file", packed(kind))
    for read in (read_text, lambda path, encoding: read_documents([path], encoding)):
        with pytest.raises(BadInput, match=rf"my file is {kind}, not text") as caught:
            read(path, encoding)
        assert COMMANDS.get(kind, "Give a text file.") in caught.value.hint
        assert ("| attncli COMMAND -" in caught.value.hint) == (kind in COMMANDS and kind != "a tar file")
        assert (f"'{path}'" in caught.value.hint) == (kind in COMMANDS)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed(kind))))
    with pytest.raises(BadInput, match=f"standard input is {kind}") as caught:
        read_text("-")
    assert "standard input" not in caught.value.hint


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz"])
def test_a_packed_archive_is_to_be_unpacked(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(b"text"))
    with pytest.raises(BadInput) as caught:
        read_text(path)
    assert caught.value.hint.endswith(f"tar -xf {path}")


@pytest.mark.parametrize("text", ["BZh9 is how it begins", "%PD", "PAR1 and PAR2", "GGUF", "ustar", "PK and BK"])
def test_text_that_begins_much_like_another_kind_is_text(tmp_path, text):
    assert read_text(write(tmp_path / "f.txt", text)) == text


def test_a_word_where_a_tar_file_has_its_mark_is_text(tmp_path):
    text = "a" * 255 + " gustar mucho"
    assert text.index("ustar") == 257
    assert read_text(write(tmp_path / "f.txt", text)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, monkeypatch, encoding):
    data = "\ufeffGröße 東京\r\nmore".encode(encoding)
    path = write(tmp_path / "f.txt", data)
    assert read_text(path) == "Größe 東京\r\nmore"
    assert texts_of(read_documents([path])) == ("Größe 東京\r\nmore",)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_text("-") == "Größe 東京\r\nmore"


@pytest.mark.parametrize("order", ["le", "be"])
def test_hints_lead_to_the_text_and_not_in_a_circle(tmp_path, order):
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


def test_a_url_is_called_one():
    for read in (read_text, lambda path: read_documents([path])):
        with pytest.raises(BadInput, match=r"https://example\.org/a\.txt is a URL") as caught:
            read("https://example.org/a.txt")
        assert caught.value.hint == "Download it first: curl -LO https://example.org/a.txt"


def lines_of(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_lines_of_json_with_a_text_are_documents(tmp_path, monkeypatch):
    """As `attncli generate --jsonl` writes them: a prompt, and the text after it."""
    records = [{"index": 0, "prompt": "Once", "text": " upon\na time"}, {"prompt": "", "text": ""}, {"text": "é\n\n"}]
    data = lines_of(*records).replace("\n", "\n\n") + '{"text": "no end"}'
    expected = ("Once upon\na time\n", "é\n\n", "no end")
    path = write(tmp_path / "made.jsonl", data)
    found = read_documents([path])
    assert texts_of(found) == expected
    assert found.notes == (f"of {path} each line's text, after its prompt, is a document",)
    monkeypatch.setattr(reading, "_BLOCK", 7)
    assert texts_of(read_documents([path])) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert texts_of(read_documents(["-"])) == expected
    plain = read_documents([write(tmp_path / "made.txt", data)])
    assert (plain.count, plain.notes) == (1, ())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": 1}', "line 2 is not a JSON object"),
        ("[" * 5000, "line 2 is not a JSON object"),
        ('{"text": "cut', "line 2 is not a JSON object"),
        ('{"text": "\\ud800"}', "line 2: The text is not valid Unicode"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, line, found):
    path = write(tmp_path / "made.jsonl", lines_of({"text": "first"}) + line)
    with pytest.raises(BadInput, match=found):
        read_documents([path])


def test_a_line_is_held_in_memory_only_up_to_a_limit(tmp_path, monkeypatch):
    """One long first line is text as it stands, and no more of it is read ahead; a later one is an error."""
    monkeypatch.setattr(reading, "_BLOCK", 7)
    monkeypatch.setattr(base, "LONGEST_LINE", 40)
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 40)
    whole = json.dumps({"text": 60 * "x"})
    taken = []
    blocks = ((whole[at : at + 7], False) for at in range(0, 10**6, 7) if taken.append(at) is None)
    base.with_first_line(blocks)
    assert len(taken) == 6
    assert texts_of(read_documents([write(tmp_path / "a.jsonl", whole)])) == (whole,)
    with pytest.raises(BadInput, match=r"b\.jsonl, line 3 has more than 40 characters"):
        read_documents([write(tmp_path / "b.jsonl", lines_of({"text": "a"}, {"text": "b"}) + whole + "\n")])


def test_other_syntax_is_read_as_it_stands_and_that_is_said(tmp_path):
    table, lines = write(tmp_path / "a.csv", "name,text\nx,y\n"), write(tmp_path / "b.jsonl", '{"words": "x"}\n')
    found = read_documents([table, lines])
    assert texts_of(found) == ("name,text\nx,y\n", '{"words": "x"}\n')
    assert found.notes == (f"read as plain text, with all the syntax of CSV, JSONL: {table} and 1 more",)
    assert read_documents([write(tmp_path / "a.txt", "name,text\n")]).notes == ()
