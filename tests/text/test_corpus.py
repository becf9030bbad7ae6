"""From documents to batches: the split, the tokenizer that is trained on it, the token cache, the batches."""

import json
import os
import re
import resource

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.folders import cache_folder
from attncli.text import corpus as corpus_module
from attncli.text import encode as encode_module
from attncli.text import reading, tokenizer_training
from attncli.text.batch import batch
from attncli.text.corpus import default_vocab_size, prepare
from attncli.text.documents import Documents
from attncli.text.encode import Encoder
from attncli.text.parts import split_by_position
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer, stretches, train_tokenizer
from attncli.training.samples import first_words
from tests.support.corpora import TOKENIZERS, Copy, documents, entries, joined, write
from tests.support.texts import story

# Reading


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, float("nan"), float("inf")])
def test_a_validation_fraction_outside_0_to_one_half_is_refused(fraction):
    with pytest.raises(UsageProblem, match=r"^val_fraction"):
        CorpusConfig(val_fraction=fraction)


# Splitting


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(st.text("ab\n", min_size=1, max_size=30).filter(str.strip), max_size=6),
    fraction=st.floats(1e-6, 0.5),
)
@example(texts=["a" * 10, "b" * 10], fraction=0.5)
@example(texts=["a", "b"], fraction=0.25)
def test_a_split_keeps_the_whole_text_and_has_the_requested_sizes(texts, fraction):
    train, val = split_by_position(documents(*texts), fraction)
    total = sum(map(len, texts))
    keep = total - round(total * fraction)
    assert (train.characters, val.characters) == (keep, total - keep)
    first, last = (joined(piece for passage in part.chunks() for piece in passage) for part in (train, val))
    assert "".join(first) == "".join(texts)[:keep]
    assert "".join(last) == "".join(texts)[keep:]
    assert len(texts) <= len(first) + len(last) <= len(texts) + 1


@settings(deadline=None, max_examples=50)
@given(characters=st.integers(0, 10**12))
def test_the_default_vocabulary_size_is_a_power_of_two_from_512_to_8192(characters):
    size = default_vocab_size(characters)
    assert 512 <= size <= 8192
    assert size & (size - 1) == 0
    assert size <= default_vocab_size(2 * characters)


def test_the_default_vocabulary_size_grows_with_the_square_root_of_the_text():
    assert [default_vocab_size(n) for n in (0, 1, 10_000, 1_000_000, 4_000_000, 50_000_000, 10**11)] == [
        512, 512, 512, 1024, 2048, 8192, 8192,
    ]  # fmt: skip


# Preparing


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
def test_a_text_that_is_tokenized_in_stretches_has_the_ids_of_the_whole_text(tmp_path, monkeypatch, kind):
    text, config = documents(story(2000), story(500, seed=1)), CorpusConfig(tokenizer=kind)
    whole = Copy.of(prepare(text, config))
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "another cache"))
    monkeypatch.setattr(encode_module, "_STRETCH", 100)
    monkeypatch.setattr(reading, "_BLOCK", 64)
    text = documents(story(2000), story(500, seed=1))
    assert Copy.of(prepare(text, config)) == whole


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("character", ["東", " "])
def test_a_line_of_a_megabyte_is_tokenized(kind, character):
    """The line is longer than a block of a file and than a chunk of a document."""
    text = character * 1_100_000 + "end of it"
    made = prepare(documents(text), CorpusConfig(tokenizer=kind))
    assert made.train.characters + made.val.characters == len(text)
    decoded = [made.tokenizer.decode(part.ids[:].tolist()) for part in (made.train, made.val)]
    assert "".join(decoded) == text


def test_a_tokenizer_is_trained_on_short_stretches_of_a_long_word():
    """No token is longer than a stretch.

    The library takes time quadratic in the length of a word, which is hours for a line of 100 MB.
    A tokenizer that is trained on the whole word has a token of 16384 characters.
    """
    text = "x" * 20_000 + " and the end of it."
    tokenizer = train_tokenizer(stretches(text), "bpe", 512)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(map(len, json.loads(tokenizer.to_json())["model"]["vocab"])) <= 2 * tokenizer_training._LEARN_LENGTH


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_the_tokenizer_is_trained_on_the_training_part_alone(kind):
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


def test_a_given_tokenizer_is_used():
    given_ = byte_tokenizer()
    made = prepare(documents(story(100)), CorpusConfig(tokenizer="bpe"), tokenizer=given_)
    assert made.tokenizer.to_json() == given_.to_json()
    assert bytes(made.train.ids[:].tolist() + made.val.ids[:].tolist()).decode() == story(100)


def test_given_validation_documents_are_used_whole():
    train, val = story(300), story(100, seed=9)
    made = prepare(documents(train), CorpusConfig(), documents(val))
    assert made.tokenizer.decode(made.train.ids[:].tolist()) == train
    assert made.tokenizer.decode(made.val.ids[:].tolist()) == val
    assert made.digest != prepare(documents(train), CorpusConfig(), documents(train)).digest


def test_a_single_document_has_no_end_of_text():
    made = prepare(documents(story(300)), CorpusConfig())
    assert made.tokenizer.end_of_text is not None
    assert made.tokenizer.end_of_text not in made.train.ids[:]
    assert made.tokenizer.end_of_text not in made.val.ids[:]


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_each_of_several_documents_ends_with_an_end_of_text(kind):
    texts = [story(100, seed) for seed in range(5)]
    made = prepare(documents(*texts), CorpusConfig(tokenizer=kind), documents(story(50, 8), story(50, 9)))
    decoded = made.tokenizer.decode(made.train.ids[:].tolist())
    assert decoded == "".join(text + END_OF_TEXT for text in texts)
    for part, count in ((made.train, 5), (made.val, 2)):
        ends = np.flatnonzero(part.ids[:] == made.tokenizer.end_of_text)
        assert len(ends) == part.documents == count
        assert ends[-1] == len(part) - 1


def test_the_end_of_text_string_within_a_document_is_encoded_as_plain_text():
    text = story(200).replace(" the ", f" {END_OF_TEXT} ")
    made = prepare(documents(text), CorpusConfig())
    assert END_OF_TEXT in text
    assert made.tokenizer.end_of_text not in made.train.ids[:]
    assert made.tokenizer.decode(made.train.ids[:].tolist() + made.val.ids[:].tolist()) == text


@pytest.mark.parametrize("text", ["word", "two words", "x" * 40])
@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_a_text_of_a_single_word_is_refused_as_too_short(tmp_path, text, kind):
    with pytest.raises(BadInput, match=f"too short .* {len(text)} characters"):
        prepare(documents(text), CorpusConfig(tokenizer=kind))
    assert entries() == []


def test_prepare_refuses_an_impossible_vocabulary_size():
    with pytest.raises(UsageProblem, match="vocab_size"):
        prepare(documents(story(100)), CorpusConfig(vocab_size=12))


# The first words of a text


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("ab é東🎉\n", min_size=40, max_size=90).filter(str.strip), min_size=2, max_size=4),
    limit=st.integers(0, 400),
)
@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_the_opening_is_the_beginning_of_the_first_document(kind, texts, limit):
    made = prepare(documents(*texts, "x" * 99), CorpusConfig(val_fraction=0.3), tokenizer=TOKENIZERS[kind])
    first = texts[0] if made.tokenizer.end_of_text is not None else "".join(texts) + "x" * 99
    assert made.opening(limit) == first[: min(limit, made.train.characters)]


def test_a_suggested_prompt_is_taken_from_one_document():
    texts = [f"Note {i} is short." for i in range(40)]
    assert first_words(prepare(documents(*texts), CorpusConfig(vocab_size=300))) == "Note 0 is short."
    assert first_words(prepare(documents("Hi", *texts), CorpusConfig(vocab_size=300))) == "Hi"


@pytest.mark.parametrize(
    ("text", "words"), [("--- \n- one two\n", "one two"), ("-5 degrees", "5 degrees"), ("- - -", "The")]
)
def test_a_suggested_prompt_does_not_begin_like_an_option(text, words):
    made = prepare(documents(text, *(story(40, seed) for seed in range(12))), CorpusConfig(vocab_size=300))
    assert first_words(made) == words


# The cache


@pytest.fixture
def no_tokenizing(monkeypatch):
    """Makes it an error to train or use a tokenizer from now on."""

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


def test_the_sources_are_the_files_of_the_call_not_of_the_cache():
    prepare(documents(story(500)), CorpusConfig())
    assert prepare(Documents.of((story(500),), ("moved.txt",)), CorpusConfig()).sources == ("moved.txt",)
    assert len(entries()) == 1


def test_every_setting_that_changes_the_ids_has_its_own_entry():
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
    "ids cut within an id": ("train.ids", slice(-1)),
    "ids cut": ("train.ids", slice(-2)),
    "ids doubled": ("val.ids", 2),
    "tokenizer deleted": ("tokenizer.json", None),
    "tokenizer cut": ("tokenizer.json", slice(-20)),
    "tokenizer not text": ("tokenizer.json", b"\xff\xfe"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_tokenized_again(name, no_tokenizing):
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


def test_a_cache_that_is_truncated_while_in_use_is_an_error_not_a_crash():
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
def test_a_named_pipe_in_the_cache_is_replaced(name):
    prepare(documents(story(500)), CorpusConfig())
    (entry,) = entries()
    (entry / name).unlink()
    os.mkfifo(entry / name)
    prepare(documents(story(500)), CorpusConfig())
    assert entries() == [entry]


def test_only_its_owner_can_read_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "deep" / "cache"))
    before = os.umask(0)
    try:
        prepare(documents(story(500)), CorpusConfig())
    finally:
        os.umask(before)
    folders = [tmp_path / "deep", *(path for path in (tmp_path / "deep").rglob("*") if path.is_dir())]
    assert len(folders) == 4
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def test_the_error_for_an_unwritable_cache_names_the_variable_that_moves_it(tmp_path, monkeypatch):
    write(tmp_path / "file", "in the way")
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutOfRoom, match="token cache") as caught:
        prepare(documents(story(100)), CorpusConfig())
    assert "ATTNCLI_CACHE" in caught.value.hint


def test_environment_variables_set_the_folder_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ATTNCLI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "attncli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "attncli"


def test_the_digest_depends_on_the_whole_text_and_on_the_split():
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


def test_the_error_for_a_full_disk_gives_the_needed_bytes_and_no_entry_is_left(monkeypatch):
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


def test_an_interrupted_call_leaves_no_entry(monkeypatch):
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
    """Returns ids that equal their positions."""
    return np.arange(length, dtype=np.uint16)


SHAPE = {"length": st.integers(9, 400), "context": st.integers(1, 8), "seed": st.integers(0, 2**63 - 1)}


@settings(deadline=None, max_examples=50)
@given(**SHAPE, step=st.integers(0, 1000), batch_size=st.integers(1, 9))
def test_every_row_of_a_batch_is_a_contiguous_range_of_the_ids(length, context, seed, step, batch_size):
    rows = batch(numbered(length), seed=seed, step=step, batch_size=batch_size, context=context)
    assert rows.shape == (batch_size, context + 1)
    assert rows.dtype == np.int64
    assert (rows == rows[:, :1] + np.arange(context + 1)).all()
    assert rows.min() >= 0
    assert rows.max() < length


@settings(deadline=None, max_examples=60)
@given(**SHAPE, steps=st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_batch_depends_only_on_its_arguments(length, context, seed, steps):
    def take(step):
        return batch(numbered(length), seed=seed, step=step, batch_size=5, context=context).tolist()

    forward = {step: take(step) for step in steps}
    for other in range(6):  # more epochs of another run than the cache of `_epoch` stores
        batch(numbered(300), seed=other, step=0, batch_size=1, context=2)
    assert {step: take(step) for step in reversed(steps)} == forward


@settings(deadline=None, max_examples=60)
@given(**SHAPE, epoch=st.integers(0, 5))
def test_an_epoch_visits_every_window_once(length, context, seed, epoch):
    """The windows of an epoch are adjacent, so only ids at both ends are left out, and no id is a target twice."""
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
def test_the_rows_of_all_ranks_are_the_rows_of_a_single_rank(length, context, seed, step, batch_size, ranks):
    ids = numbered(length)
    shared = [
        batch(ids, seed=seed, step=step, batch_size=batch_size, context=context, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    alone = batch(ids, seed=seed, step=step, batch_size=ranks * batch_size, context=context)
    assert np.concatenate(shared).tolist() == alone.tolist()


def test_every_seed_and_every_epoch_has_its_own_order():
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


def test_too_few_ids_for_the_context_are_refused():
    with pytest.raises(BadInput, match="8 tokens are too few for a context of 8"):
        batch(numbered(8), seed=0, step=0, batch_size=1, context=8)
    assert batch(numbered(9), seed=0, step=3, batch_size=1, context=8).tolist() == [list(range(9))]


def test_a_document_that_the_split_cuts_has_no_end_of_text_at_the_cut():
    texts = ("one two three four five. " * 40, "six seven eight nine ten. " * 40)
    corpus = prepare(Documents.of(texts), CorpusConfig(tokenizer="byte", val_fraction=0.25))
    end = corpus.tokenizer.end_of_text
    assert corpus.train.ids[:].tolist().count(end) == 1
    assert corpus.train.ids[:][len(texts[0].encode())] == end
    assert corpus.val.ids[:].tolist()[-1] == end


def test_a_split_between_two_documents_keeps_the_end_of_text_of_each():
    corpus = prepare(Documents.of(("a b c. " * 40,) * 2), CorpusConfig(tokenizer="byte", val_fraction=0.5))
    end = corpus.tokenizer.end_of_text
    assert [part.ids[:].tolist().count(end) for part in (corpus.train, corpus.val)] == [1, 1]
