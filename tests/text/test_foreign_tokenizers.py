"""The tokenizers of BERT, T5 and BART: the tokens around a text, the pieces, and the mask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.text.tokenizer import MASK, Tokenizer
from tests.support.lazily import transformers
from tests.support.tokenizers import roberta, unigram, wordpiece

AROUND = {"wordpiece": ((2,), (3,), 0), "unigram": ((), (1,), 0), "roberta": ((0,), (2,), 1)}
THEIRS = {"wordpiece": wordpiece(), "unigram": unigram(), "roberta": roberta()}
OURS = {kind: Tokenizer.from_json(made.to_str()) for kind, made in THEIRS.items()}
TEXTS = ["The dog barked.", "Café 東京 runs", "  two  spaces ", "don't", "</s> [SEP]", ""]


@pytest.mark.parametrize("kind", THEIRS)
def test_ids_and_the_tokens_around_a_text_are_those_of_transformers(kind):
    ours, theirs = OURS[kind], transformers.PreTrainedTokenizerFast(tokenizer_object=THEIRS[kind])
    opening, closing, pad = AROUND[kind]
    assert (ours.opening, ours.closing, ours.pad, ours.end_of_text) == (opening, closing, pad, closing[0])
    for text in TEXTS:
        expected = theirs(text, split_special_tokens=True)["input_ids"]
        assert [*opening, *ours.encode(text), *closing] == expected
        assert [piece.id for piece in ours.pieces(text)] == ours.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text), clean_up_tokenization_spaces=False)


@given(
    text=st.lists(st.one_of(st.text(), st.sampled_from(["The dog", " barked", MASK, "##s", "é", "东"]))).map("".join)
)
def test_the_pieces_of_wordpiece_contain_the_white_space_before_them(text):
    pieces = OURS["wordpiece"].pieces(text)
    assert text.startswith("".join(piece.completed for piece in pieces).rstrip())
    assert sum(piece.bytes for piece in pieces) <= len(text.encode())
    assert sum(piece.text.endswith(MASK) for piece in pieces if piece.id == OURS["wordpiece"].mask) == text.count(MASK)


def test_the_pieces_and_the_names_of_tokens_begin_with_their_space():
    tokenizer = OURS["wordpiece"]
    pieces = tokenizer.pieces(f"The dogs {MASK} at the Café.")
    assert [piece.text for piece in pieces] == ["The", " dog", "s", f" {MASK}", " at", " the", " Café", "."]
    assert [tokenizer.name(piece.id) for piece in pieces] == [
        *(" the", " dog", "s", f" {MASK}", " at", " the", " cafe", ".")
    ]
    assert [piece.bytes for piece in pieces] == [3, 4, 1, 7, 3, 4, 6, 1]


def test_only_the_mask_is_recognized_in_a_text():
    tokenizer = OURS["wordpiece"]
    assert (tokenizer.mask, tokenizer.encode(MASK)) == (4, [4])
    assert 3 not in tokenizer.encode("[SEP]")
    assert 4 not in tokenizer.encode("[mask]")
    assert tokenizer.encode_batch([f"the {MASK}", "the"]) == [[*tokenizer.encode("the"), 4], tokenizer.encode("the")]
    assert OURS["roberta"].mask is None
