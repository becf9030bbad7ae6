"""The word cache: cached words have the ids of the whole text, encoded at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.text import encode as encode_module
from attncli.text.encode import Encoder, batches, stretched
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer
from attncli.text.tokenizer_training import stretches, train_tokenizer
from tests.support.corpora import TOKENIZERS, joined
from tests.support.texts import story

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


@settings(deadline=None, max_examples=80)
@given(
    texts=st.lists(st.tuples(WORDS_AND_SPACES, st.booleans()), max_size=4), ends=st.booleans(), most=st.integers(1, 40)
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_cached_words_give_the_ids_of_the_whole_text(kind, texts, ends, most):
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
def test_a_repeated_word_is_tokenized_only_once(kind, monkeypatch):
    encoder = Encoder(TOKENIZERS[kind], False)
    text = story(300)
    first = encoder.encode([(text, False)]).tolist()
    monkeypatch.setattr(Tokenizer, "encode_batch", None)
    assert encoder.encode([(text, False)] * 2).tolist() == first * 2


def test_ids_above_65535_are_stored_in_a_larger_type():
    large = train_tokenizer(
        [" ".join(map(chr, range(0x4E00, 0x4E00 + 20_000))), "".join(map(chr, range(0xAC00, 0xD7A3)))], "char"
    )
    assert large.vocab_size < 1 << 16
    assert Encoder(large, True).encode([("一", True)]).dtype == np.uint16
    huge = train_tokenizer(["".join(map(chr, range(0x20000, 0x32000)))], "char")
    assert huge.vocab_size > 1 << 16
    assert Encoder(huge, True).encode([(chr(0x31FFF), True)]).tolist() == [*huge.encode(chr(0x31FFF)), huge.end_of_text]


@settings(deadline=None, max_examples=80)
@given(
    texts=st.lists(st.text("ab \n\t", min_size=1, max_size=90), max_size=3),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    length=st.integers(1, 20),
)
def test_chunks_of_any_size_are_cut_at_the_same_places_as_whole_documents(texts, cuts, length):
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
