"""Text to ids and back, for the three kinds of tokenizer: lossless, without special tokens, in whole characters."""

import json
import os
import random
import select
import subprocess
import sys
import unicodedata
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from functools import partial, reduce
from itertools import chain, islice
from operator import getitem

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from attncli.config import TOKENIZER_KINDS, CorpusConfig, SampleConfig
from attncli.errors import BadCheckpoint, BadInput, UsageProblem
from attncli.evaluation.excerpt import first_of
from attncli.generation.ending import SampleText
from attncli.generation.events import Sample, Text
from attncli.generation.verify import Original
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.text.panics import held_back
from attncli.text.parts import Part
from attncli.text.tokenizer import END_OF_TEXT, Piece, Tokenizer
from attncli.text.tokenizer_checks import refuse_hostile
from attncli.text.tokenizer_training import byte_tokenizer, stretches, train_tokenizer
from attncli.text.tokens import tokens_of
from tests.support.texts import story

LEARNED = (
    "The lamp was lit and the lamp was low; the boats were tied, the boats were slow.\n"
    "Who lit the lamp? 'I did,' she said, 'it's late, and we'll be home by eight.'\r\n"
    "\tnaïve café: 10 für 20 – 京 東京 東京 🎉🎉\n"
) * 4
HARD = (
    "",
    " ",
    "\0",
    "\r\n\r\n \t",
    "a\u0301e\u0308",
    "東京都",
    "🎉👩‍👩‍👧‍👦",
    "\x1b[31mred\x1b[0m\x7f\x85",
    "\ufeff\ufffd\u202e\u2028",
    "<0x41><0xE6>",
    f"a{END_OF_TEXT}b",
    "  two  spaces  ",
    "\U0010ffff\ue000",
)
HALF = "\N{REPLACEMENT CHARACTER}"  # the decoding of half a character
WORDS = st.sampled_from(["lamp", "boats", "it's", "we'll", "LATE", "10,000", "x", "—", "(see", "東京", "café.", "'"])


def texts():
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module", params=TOKENIZER_KINDS)
def tokenizer(request):
    return train_tokenizer([LEARNED], request.param, 400 if request.param == "bpe" else None)


def arbitrary_ids(tokenizer):
    """Draws ids as a model may generate them: single ids, and runs from the beginning, middle or end of a text."""
    spelled = st.builds(lambda text, cut: tokenizer.encode(text)[cut:], texts().filter(bool), st.integers(-3, 2))
    single = st.integers(0, tokenizer.vocab_size - 1).map(lambda i: [i])
    return st.lists(single | spelled, max_size=12).map(lambda runs: list(chain(*runs)))


def streamed(tokenizer, ids):
    stream = tokenizer.stream()
    return [stream.push(i) for i in ids], stream.flush()


def with_examples(test):
    for text in HARD:
        test = example(text=text)(test)
    return test


@with_examples
@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_any_text_is_decoded_from_its_ids(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_saved_and_loaded_tokenizer_is_unchanged(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.to_json() == tokenizer.to_json()
        assert loaded.kind == tokenizer.kind
        for text in (LEARNED, *HARD):
            assert loaded.encode(text) == tokenizer.encode(text)


@settings(deadline=None, max_examples=60)
@given(before=texts(), after=texts())
def test_the_end_of_text_string_in_a_text_is_plain_text(tokenizer, before, after):
    text = before + END_OF_TEXT + after
    for read in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        ids = read.encode(text)
        assert read.end_of_text not in ids
        assert read.decode(ids) == text
        assert [piece.id for piece in read.pieces(text)] == ids


def test_the_end_of_text_id_decodes_to_its_string(tokenizer):
    assert tokenizer.decode([tokenizer.end_of_text]) == END_OF_TEXT
    assert 0 <= tokenizer.end_of_text < tokenizer.vocab_size


@settings(deadline=None, max_examples=60)
@given(several=st.lists(texts(), max_size=6))
def test_a_batch_of_texts_is_encoded_like_each_text_alone(tokenizer, several):
    assert tokenizer.encode_batch(several) == [tokenizer.encode(text) for text in several]


@pytest.mark.parametrize("wrong", [-1, "vocab_size", 2**31])
def test_an_id_outside_the_vocabulary_is_named(tokenizer, wrong):
    wrong = tokenizer.vocab_size if wrong == "vocab_size" else wrong
    with pytest.raises(BadInput, match=f"no token {wrong}: .* 0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([0, wrong])


# Streams


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_chunks_of_a_stream_of_any_ids_join_to_their_decoding(tokenizer, data):
    ids = data.draw(arbitrary_ids(tokenizer))
    chunks, rest = streamed(tokenizer, ids)
    assert "".join(chunks) + rest == tokenizer.decode(ids)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_no_chunk_of_a_stream_ends_within_a_character(tokenizer, data):
    chunks, _ = streamed(tokenizer, data.draw(arbitrary_ids(tokenizer)))
    assert [chunk for chunk in chunks if chunk.endswith(HALF)] == []


@with_examples
@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_a_stream_returns_each_character_as_soon_as_it_is_complete(tokenizer, text):
    """The stream has returned every character whose bytes are complete. Only U+FFFD is returned with the next id."""
    stream, shown, taken = tokenizer.stream(), "", 0
    for piece in tokenizer.pieces(text):
        shown += stream.push(piece.id)
        taken += piece.bytes
        whole = text.encode()[:taken].decode(errors="ignore")
        assert shown == whole or (whole.endswith(HALF) and whole.startswith(shown))
    assert shown + stream.flush() == text


def test_a_stream_can_be_used_again_after_a_flush():
    tokenizer = byte_tokenizer()
    stream = tokenizer.stream()
    assert [stream.push(i) for i in "é東".encode()[:-1]] == ["", "é", "", ""]
    assert stream.flush() == HALF
    assert stream.flush() == ""
    assert [stream.push(i) for i in b"ok"] == ["o", "k"]


def test_a_replacement_character_of_the_text_is_returned_too(tokenizer):
    text = f"{HALF}{HALF} a {HALF}"
    chunks, rest = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(chunks) + rest == text


# Pieces: the tokens of a text with the bytes that each of them covers


@with_examples
@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_pieces_have_the_ids_of_the_text_and_cover_every_byte(tokenizer, text):
    pieces = tokenizer.pieces(text)
    assert [piece.id for piece in pieces] == tokenizer.encode(text)
    assert sum(piece.bytes for piece in pieces) == len(text.encode())
    assert all(piece.bytes >= 1 for piece in pieces)
    assert all(1 <= piece.part[0] <= piece.part[1] for piece in pieces)


@with_examples
@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_pieces_of_a_text_and_of_its_ids_are_equal(tokenizer, text):
    assert tokenizer.pieces_of(tokenizer.encode(text)) == tokenizer.pieces(text)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(0, 30))
def test_the_texts_of_the_pieces_of_any_ids_join_to_their_decoding(tokenizer, seed, length):
    ids = random.Random(seed).choices(range(tokenizer.vocab_size), k=length)
    pieces = tokenizer.pieces_of(ids)
    assert [piece.id for piece in pieces] == ids
    text = ""
    for piece in pieces:  # a character that the previous token began is not repeated
        began = text[-1:] if piece.part[0] > 1 else ""
        text += piece.text.removeprefix(began)
    assert text == tokenizer.decode(ids)


@settings(deadline=None, max_examples=50)
@given(text=texts())
@example(text="東京は")
def test_the_parts_of_a_split_character_are_numbered(tokenizer, text):
    """If each token is part of one character, the pieces of a character are 1/n to n/n, and each has its text."""
    pieces = [piece for piece in tokenizer.pieces(text) if piece.part != (1, 1)]
    while pieces and all(len(piece.text) == 1 for piece in pieces):
        of = pieces[0].part[1]
        assert [piece.part for piece in pieces[:of]] == [(i + 1, of) for i in range(of)]
        assert len({piece.text for piece in pieces[:of]}) == 1
        assert sum(piece.bytes for piece in pieces[:of]) == len(pieces[0].text.encode())
        pieces = pieces[of:]


@pytest.mark.parametrize(
    ("char", "parts"),
    [
        ("a", [(1, 1)]),
        ("é", [(1, 2), (2, 2)]),
        ("東", [(1, 3), (2, 3), (3, 3)]),
        ("🎉", [(i, 4) for i in (1, 2, 3, 4)]),
    ],
)
def test_a_byte_tokenizer_splits_a_character_into_its_bytes(char, parts):
    pieces = byte_tokenizer().pieces(char)
    assert [piece.part for piece in pieces] == parts
    assert [(piece.text, piece.bytes) for piece in pieces] == [(char, 1)] * len(parts)


def test_a_token_of_whole_characters_has_their_text():
    tokenizer = train_tokenizer([LEARNED], "bpe", 400)
    pieces = tokenizer.pieces(" the lamp was lit")
    assert [piece.text for piece in pieces] == [" the", " lamp", " was", " lit"]
    assert [(piece.bytes, piece.part) for piece in pieces] == [(n, (1, 1)) for n in (4, 5, 4, 4)]


@with_examples
@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_a_piece_is_unfinished_if_its_bytes_end_within_a_character(tokenizer, text):
    taken = 0
    for piece in tokenizer.pieces(text):
        taken += piece.bytes
        so_far = text.encode()[:taken]
        assert piece.unfinished == (so_far.decode(errors="ignore").encode() != so_far)


# Kinds


@settings(deadline=None, max_examples=50)
@given(text=texts())
def test_the_ids_of_the_byte_kind_are_the_bytes(text):
    assert byte_tokenizer().encode(text) == list(text.encode())


def test_the_byte_kind_has_257_ids_for_any_training_text():
    made = train_tokenizer([LEARNED], "byte")
    assert (made.vocab_size, made.end_of_text, made.kind) == (257, 256, "byte")
    assert train_tokenizer([], "byte", 257).to_json() == made.to_json() == byte_tokenizer().to_json()


def test_the_char_kind_has_an_id_for_every_character_of_its_training_text():
    made = train_tokenizer([LEARNED], "char")
    assert (made.vocab_size, made.kind) == (257 + len(set(LEARNED)), "char")
    assert len(made.encode(LEARNED)) == len(LEARNED)
    assert len(set(made.encode("".join(set(LEARNED))))) == len(set(LEARNED))


def test_the_char_kind_encodes_an_unseen_character_as_bytes():
    made = train_tokenizer(["abc"], "char")
    pieces = made.pieces("a東z")
    assert [(piece.text, piece.bytes, piece.part) for piece in pieces] == [
        ("a", 1, (1, 1)),
        ("東", 1, (1, 3)),
        ("東", 1, (2, 3)),
        ("東", 1, (3, 3)),
        ("z", 1, (1, 1)),
    ]
    assert made.decode([piece.id for piece in pieces]) == "a東z"


def test_the_char_kind_keeps_the_most_frequent_characters_that_fit():
    # The vocabulary has room for two characters. a occurs three times, b and é twice, and b occurs first.
    made = train_tokenizer(["dcbaéaaéb"], "char", 259)
    assert made.vocab_size == 259
    assert [len(made.encode(char)) for char in "abé"] == [1, 1, 2]
    assert made.decode([made.encode("a")[0], made.encode("b")[0]]) == "ab"
    assert len({*made.encode("a"), *made.encode("b"), *made.encode("c")}) == 3


def test_the_bpe_kind_has_the_requested_vocabulary_size_and_compresses_its_text():
    made = train_tokenizer([LEARNED], "bpe", 300)
    assert (made.vocab_size, made.kind) == (300, "bpe")
    assert len(made.encode(LEARNED)) < len(LEARNED.encode()) * 0.7


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_two_trainings_on_the_same_text_give_the_same_tokenizer(kind):
    first, second = (train_tokenizer([LEARNED, "and more"], kind).to_json() for _ in range(2))
    assert first == second


# Mistakes


@pytest.mark.parametrize("text", ["\udc80", "ab\ud800c", "\udfff" * 3])
def test_a_lone_surrogate_is_refused_at_its_character(tokenizer, text):
    at = next(i for i, char in enumerate(text) if unicodedata.category(char) == "Cs")
    for call in (tokenizer.encode, tokenizer.pieces):
        with pytest.raises(BadInput, match=f"at character {at}"):
            call(text)
    for kind in ("bpe", "char"):
        with pytest.raises(BadInput, match=f"at character {at}"):
            train_tokenizer([text], kind)


@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("size", [-1, 0, 256, 1_048_577])
def test_an_impossible_vocabulary_size_is_refused_with_its_limits(kind, size):
    with pytest.raises(UsageProblem, match=f"vocab_size is {size}, .* 257 to 1,048,576"):
        train_tokenizer([LEARNED], kind, size)


def test_a_vocabulary_for_the_byte_kind_is_refused():
    with pytest.raises(UsageProblem, match="257 ids"):
        train_tokenizer([LEARNED], "byte", 300)


def test_an_unknown_kind_is_refused_with_a_list_of_the_kinds():
    with pytest.raises(UsageProblem, match="'word'") as caught:
        train_tokenizer([LEARNED], "word")
    assert all(kind in caught.value.hint for kind in TOKENIZER_KINDS)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "7", "{", "not JSON", '{"model": null}', "[" * 100_000, '{"version": "9"}', "\0"]
)
def test_a_file_that_is_not_a_tokenizer_is_a_bad_checkpoint(text):
    with pytest.raises(BadCheckpoint, match=r"here\.json"):
        Tokenizer.from_json(text, "here.json")


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_tokenizer_is_a_bad_checkpoint(share):
    whole = byte_tokenizer().to_json()
    with pytest.raises(BadCheckpoint):
        Tokenizer.from_json(whole[: int(share * (len(whole) - 1))])


def test_a_missing_tokenizer_and_one_that_is_not_utf8_are_bad_checkpoints(tmp_path):
    with pytest.raises(BadCheckpoint, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b'{"\xff"}')
    with pytest.raises(BadCheckpoint, match="not UTF-8"):
        Tokenizer.load(tmp_path)


def _replace(char, content):
    return {"type": "Replace", "pattern": {"String": char}, "content": content}


SPECIAL = {"SpecialToken": {"id": "x", "type_id": 0}}


def template(single, ids):
    token = {"id": "x", "ids": ids, "tokens": ["x"] * len(ids)}
    return {
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {"x": token}}
    }


HOSTILE = {
    "an exploding normalizer": {
        "normalizer": {"type": "Sequence", "normalizers": [_replace("a", "a" * 3000)] * 3},
    },
    "a pathological pattern": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False,
        },
    },
    "a huge padding": {
        "padding": {
            "strategy": {"Fixed": 4 * 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a",
        },
    },
    "a vocabulary that is not of bytes": {
        "model": {**json.loads(byte_tokenizer().to_json())["model"], "vocab": {"a": 0, "b": 1, "東": 2, "\u0120京": 3}},
    },
    "a vocabulary with an id far away": {
        "model": {**json.loads(byte_tokenizer().to_json())["model"], "vocab": {"a": 0, "b": 2**31}},
    },
    "an exploding decoder": {"decoder": {"type": "Sequence", "decoders": [_replace("a", "a" * 3000)] * 3}},
    "bytes of bytes of bytes": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
            ] * 50,
        },
    },
    "a sequence that is none": {"normalizer": {"type": "Sequence", "normalizers": True}},
    "many steps": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 200}},
    "many prefixes": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x"}] * 200}},
    "a template of many tokens": template([SPECIAL] * 1000, [256] * 1000),
    "a template of a second text": template([{"Sequence": {"id": "B", "type_id": 0}}], [256]),
    "a template of the text many times": template([{"Sequence": {"id": "A", "type_id": 0}}] * 1000, [256]),
    "a table that is no table": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a table that lies about its length": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAAAAA=="},
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a replacement of nothing": {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "xx"}},
    "a decoder out of its bounds": {"decoder": {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}},
}  # fmt: skip
IN_A_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from attncli.errors import AttnError
from attncli.text.tokenizer import Tokenizer
try:
    tokenizer = Tokenizer.from_json(sys.stdin.read())
    tokenizer.decode(tokenizer.encode("a" * 40 + "b"))
    tokenizer.decode(range(min(tokenizer.vocab_size, 300)))
    tokenizer.pieces("ab"), tokenizer.opening
    print("works")
except AttnError as problem:
    print(type(problem).__name__)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_or_harmless(name):
    """Runs in a child process, since the library may abort it. A refusal takes at most 5 seconds of CPU time."""
    document = {**json.loads(byte_tokenizer().to_json()), **HOSTILE[name]}
    child = [sys.executable, "-c", IN_A_CHILD]
    done = subprocess.run(child, input=json.dumps(document), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() in ("works", "BadCheckpoint"), done.stderr[-500:]
    assert (done.returncode, done.stderr) == (0, "")


def test_captured_standard_error_is_discarded_only_if_the_library_panics(capfd):
    with held_back():
        os.write(2, b"kept\n")
        assert capfd.readouterr().err == ""
    with suppress(ValueError), held_back():
        os.write(2, b"a panic\n")
        raise ValueError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "kept\nafter\n"


@pytest.mark.parametrize(
    ("parts", "may_panic"),
    [
        ({}, False),
        ({"normalizer": {"type": "NFC"}}, False),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, False),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}},
            True,
        ),
        ({"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 0}}, True),
        ({"model": {"type": "Unigram", "vocab": []}}, True),
    ],
)
def test_standard_error_is_captured_only_for_tokenizers_that_may_panic(parts, may_panic):
    assert refuse_hostile(json.dumps({**json.loads(byte_tokenizer().to_json()), **parts}), "x") == may_panic


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_a_tokenizer_that_attncli_trained_never_panics(kind):
    assert not refuse_hostile(train_tokenizer([LEARNED], kind).to_json(), "x")


def every_kind():
    """Returns the JSON of a tokenizer of each kind that published models have. Every optional part occurs in one."""
    trained = [train_tokenizer([LEARNED], kind).to_json() for kind in TOKENIZER_KINDS]
    unigram = Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("▁a", -1.5)], 0, False))
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Prepend("▁")]
    unigram.normalizer = normalizers.Sequence(steps)
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing("<unk> $A", special_tokens=[("<unk>", 0)])
    pieces = Backend(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "[CLS]": 3, "[SEP]": 4}, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    pieces.decoder = decoders.WordPiece()
    merged = Backend(models.BPE({"a": 0, "b": 1, "ab": 2, "▁": 3, "<0x41>": 4}, [("a", "b")], byte_fallback=True))
    words = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\s+(?!\S)|\s+"), "isolated")
    parts = [words, pre_tokenizers.ByteLevel(False, True, False), pre_tokenizers.Digits(True)]
    merged.pre_tokenizer = pre_tokenizers.Sequence(parts)
    after = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    merged.decoder = decoders.Sequence(after)
    merged.post_processor = processors.ByteLevel(trim_offsets=False)
    merged.enable_truncation(8)
    merged.enable_padding(length=9)
    return [json.loads(text) for text in (*trained, *(made.to_str() for made in (unigram, pieces, merged)))]


PARTS = ("normalizer", "pre_tokenizer", "decoder", "post_processor", "model", "padding", "truncation", "added_tokens")
VALUES = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**32,
        2**63,
        2**64,
        1e300,
        4e9,
        "",
        "a",
        "a" * 5000,
        "東",
        "\0",
        [],
        {},
        [["a", "b"]],
    ),
    *("(a+)+$", "(a|aa)+$", "(a*)*b", "(?=(a+))*b", "[", "\\", "(?<=a)*"),
]


def places(document, path=()):
    """Yields the path of every value in a document, but only of the first few values of long lists and objects."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in islice(inner, 12):
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(documents, generator):
    """Returns one of the documents, changed in a few places."""
    document = deepcopy(generator.choice(documents))
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        *path, last = generator.choice(list(places(document)))
        owner = reduce(getitem, path, document)
        old, way = owner[last], generator.random()
        if way < 0.5:
            owner[last] = deepcopy(generator.choice(VALUES))
        elif way < 0.6:
            del owner[last]
        elif way < 0.8:
            part = generator.choice(PARTS)
            document[part] = deepcopy(generator.choice(documents)[part])
        elif isinstance(old, list):
            owner[last] = old * generator.choice([2, 3, 50])
        else:
            names = ("normalizers", "pretokenizers", "decoders", "processors")
            owner[last] = {"type": "Sequence", **{name: [old] * 3 for name in names}}
    return document


CHANGED_IN_A_CHILD = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from attncli.errors import AttnError
from attncli.text.tokenizer import Tokenizer
for line in sys.stdin:
    signal.setitimer(signal.ITIMER_PROF, 5)  # ends a process that takes 5 seconds of a processor for one of them
    try:
        tokenizer = Tokenizer.from_json(line)
        tokenizer.decode(tokenizer.encode("a" * 40 + "b the lamp 123  \\n東é<unk>"))
        tokenizer.opening, tokenizer.kind
        tokenizer.decode(range(min(tokenizer.vocab_size, 300)))
        tokenizer.pieces("ab a")
        print("works", flush=True)
    except AttnError as problem:
        print(type(problem).__name__, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_tokenizer_that_was_changed_is_refused_or_harmless(seed):
    """A child process loads several hundred tokenizers without a crash or abort, each within 5 seconds of CPU time."""
    generator, documents = random.Random(seed), every_kind()
    child = subprocess.Popen(
        [sys.executable, "-c", CHANGED_IN_A_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # a line on standard error fails the test, as it is not a valid answer
        text=True,
    )
    answers = Counter()
    with child:
        for _ in range(400):
            line = json.dumps(mutated(documents, generator))
            child.stdin.write(line + "\n")
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], 60)
            answer = child.stdout.readline().strip() if ready else "hangs"
            if answer not in ("works", "BadCheckpoint", "BadInput"):
                child.kill()
                pytest.fail(f"{answer or 'dies'}: {line[:2000]}")
            answers[answer] += 1
        child.stdin.close()
    assert answers["works"] > 50
    assert answers["BadCheckpoint"] > 50


# Stretches


@settings(deadline=None, max_examples=50)
@given(text=texts(), length=st.integers(1, 20))
def test_stretches_join_to_the_text(text, length):
    cut = list(stretches(text, length))
    assert "".join(cut) == text
    assert all(cut)
    assert all(len(stretch) <= 2 * length for stretch in cut)


@settings(deadline=None, max_examples=50)
@given(
    parts=st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", "\n", "\n\n", " \n ", ". "]))),
    length=st.integers(16, 40),
)
def test_stretches_are_tokenized_like_the_whole_text(tokenizer, parts, length):
    """A word and the space after it are shorter than 16 characters, so a stretch can always end at a word."""
    text = "".join(word + space for word, space in parts)
    cut = list(stretches(text, length))
    assert list(chain(*tokenizer.encode_batch(cut))) == tokenizer.encode(text)


def test_a_stretch_is_cut_before_a_space():
    assert list(stretches("ab cd ef", 2)) == ["ab", " cd", " ef"]
    assert list(stretches("ab\ncd  ef", 2)) == ["ab", "\ncd", "  ef"]
    assert list(stretches("short", 100)) == ["short"]
    assert list(stretches("", 100)) == []


def test_a_tokenizer_with_unused_ids_can_tokenize_a_corpus_and_decode():
    document = json.loads(train_tokenizer([story(300)], "bpe", 300).to_json())
    document["model"]["vocab"] = {
        name: id_ if id_ < 290 else id_ + 40 for name, id_ in document["model"]["vocab"].items()
    }
    tokenizer = Tokenizer.from_json(json.dumps(document))
    assert tokenizer.vocab_size == 340
    corpus = prepare(Documents.of((story(1500),)), CorpusConfig(), tokenizer=tokenizer)
    ids = corpus.train.ids[: len(corpus.train)].tolist()
    assert max(ids) >= 330
    assert story(1500).startswith(tokenizer.decode(ids))
    assert tokenizer.decode([300, 65]) == tokenizer.decode([65])


# Tokenizers of SentencePiece: '▁' is added before a text, and the decoder drops a space at its beginning


@pytest.fixture(scope="module", params=["prepend", "metaspace"])
def sentencepiece(request):
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁onupxa", "▁o", "▁on", "▁u", "▁up"]
    merges = [("▁", "o"), ("▁o", "n"), ("▁", "u"), ("▁u", "p")]
    backend = Backend(
        models.BPE({name: id_ for id_, name in enumerate(names)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    if request.param == "prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    after = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(after)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def of_transformers(sentencepiece, tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "tokenizer.json").write_text(sentencepiece.to_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


SPACED = st.text("onupxa Ü東é", max_size=12)


@settings(deadline=None, max_examples=80)
@example(prompt="on", text="on up")
@example(prompt="", text="on up")
@example(prompt="東", text="東")
@example(prompt=" ", text=" on")
@given(prompt=SPACED, text=SPACED)
def test_a_continuation_is_decoded_as_in_transformers(sentencepiece, of_transformers, prompt, text):
    before, new = [*sentencepiece.opening, *sentencepiece.encode(prompt)], sentencepiece.encode(text)
    decode = partial(of_transformers.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    expected = decode([*before, *new]).removeprefix(decode(before))
    assert sentencepiece.decode(new, before) == expected
    stream = sentencepiece.stream(before)
    assert "".join(stream.push(id_) for id_ in new) + stream.flush() == expected


def test_a_stream_needs_only_the_last_tokens_of_a_long_prompt(sentencepiece):
    before = sentencepiece.encode("on up " * 1000)
    assert len(sentencepiece.context(before)) <= 2
    assert sentencepiece.context([*before, *sentencepiece.encode("東")][-4:]) == sentencepiece.encode("東")[-4:]


def test_the_name_of_a_token_equals_the_text_of_its_piece(sentencepiece):
    text = "x on up a"
    pieces = sentencepiece.pieces(text)[1:]  # '▁x' is '▁' and 'x'
    assert [sentencepiece.name(piece.id) for piece in pieces] == [piece.text for piece in pieces]
    assert " on" in [piece.text for piece in pieces]
    assert sentencepiece.name(1) == "<s>"
    assert sentencepiece.opening_pieces == (Piece(1, "<s>", 0),)
    assert [piece.text for piece in sentencepiece.pieces_within(" on")] == [" on"]


@settings(deadline=None, max_examples=80)
@example(text="Ü x")
@example(text=" Ü")
@example(text=" on")
@given(text=SPACED)
def test_pieces_of_sentencepiece_have_the_bytes_of_the_text(sentencepiece, text):
    pieces = sentencepiece.pieces(text)
    assert [piece.id for piece in pieces] == sentencepiece.encode(text)
    assert sum(piece.bytes for piece in pieces) == len(text.encode())
    assert "".join(piece.completed for piece in pieces) == text


def test_the_sentencepiece_prefix_counts_no_bytes_of_the_text(sentencepiece):
    prefix, *umlaut = sentencepiece.pieces("Ü")
    assert (prefix.text, prefix.bytes, prefix.of_text, prefix.completed) == ("▁", 0, False, "")
    assert [(piece.text, piece.bytes, piece.part) for piece in umlaut] == [("Ü", 1, (1, 2)), ("Ü", 1, (2, 2))]


def test_documents_are_decoded_exactly_although_each_has_its_own_prefix(sentencepiece):
    documents = ["on up", "Ü x", "on"]
    tokens = tokens_of(Part.whole(Documents.of(documents), True), sentencepiece)
    assert first_of(tokens, sentencepiece).data.decode() == "".join(documents)
    opened = tokens.opened(sentencepiece.opening)
    assert [at - 1 for at in opened.begins] == list(tokens.begins)


def test_a_generated_text_keeps_the_space_after_its_prompt(sentencepiece):
    id_ = sentencepiece.encode("on")[0]
    for prompt, expected in (("on", " on"), ("", "on")):
        sample = SampleText(0, sentencepiece, SampleConfig(), frozenset({2}), [1, *sentencepiece.encode(prompt)])
        events = [*sample.settle(sample.push(id_)), *sample.settle(sample.push(2))]
        assert events[0] == Text(0, expected)
        config = SampleConfig(num_samples=1)
        prompts = [[1, *sentencepiece.encode(prompt)]]
        made = Original(sentencepiece, prompts, config, frozenset({2}), [Sample((id_, 2), "")])
        assert made.redecode() == [Sample((id_, 2), expected)]
