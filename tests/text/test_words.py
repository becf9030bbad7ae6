"""The word splitter: words and punctuation marks of a text, and their places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.text.words import split_words, word_spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll read it at 10:30.", ["I'll", "read", "it", "at", "10:30", "."]),
        ("Behalt’s!", ["Behalt’s", "!"]),
        ("„Ja“, sagte er.", ["„", "Ja", "“", ",", "sagte", "er", "."]),
        ("a down-to-earth man - or 3.50 $?", ["a", "down-to-earth", "man", "-", "or", "3.50", "$", "?"]),
        ("'Tom' won't... -- 25.", ["'", "Tom", "'", "won't", "...", "--", "25", "."]),
        ("der eu-haushalt , 1,5 %", ["der", "eu-haushalt", ",", "1,5", "%"]),
        ("cafe\u0301 नमस्ते", ["cafe\u0301", "नमस्ते"]),
        ("東京へ。行く", ["東", "京", "へ", "。", "行", "く"]),
        ("か\u3099", ["か\u3099"]),
        (" \t\n", []),
        ("", []),
    ],
)
def test_words_and_punctuation_marks_are_separated(text, words):
    assert split_words(text) == words


@given(st.text(st.sampled_from("aé1_ .,:'-’?\t\u3000\u0301東か\u200d\u00ad"), max_size=20) | st.text(max_size=20))
def test_words_cover_the_text_without_white_space_and_splitting_is_idempotent(text):
    words = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert all(words)
    assert [text[start:end] for start, end in word_spans(text)] == words
    assert split_words(" ".join(words)) == words
