"""TOKEN=BIAS: the token that the text names, and the errors for a text of no token or several."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.config.values import parse_bias
from attncli.errors import UsageProblem
from attncli.generation.bias import with_token_ids
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.texts import story

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)


def looked_up(token, tokenizer=TOKENIZER):
    """Returns the id that a logit bias looks up for this token."""
    ((id_, bias),) = with_token_ids(SampleConfig(logit_bias=((token, 1.0),)), tokenizer).logit_bias
    assert bias == 1.0
    return id_


@pytest.mark.parametrize(
    ("text", "token", "bias"),
    [
        (" cat=2.5", " cat", 2.5),
        ("cat=-inf", "cat", -math.inf),
        ("==1", "=", 1.0),
        ("a=b=-1e3", "a=b", -1000.0),
        ("\n=0", "\n", 0.0),
        ("#12=3", 12, 3.0),
    ],
)
def test_a_token_and_a_number_around_the_last_equals_sign(text, token, bias):
    assert parse_bias(text) == (token, bias)


@pytest.mark.parametrize("text", ["", "=", "cat", "cat=", "=3", "cat=three", "cat 3"])
def test_a_bias_that_is_not_a_token_and_a_number_is_refused(text):
    with pytest.raises(ValueError, match="not a token, an equals sign and a number"):
        parse_bias(text)


@given(st.integers(0, 299))
def test_an_id_and_its_text_name_the_same_token(id_):
    assert looked_up(id_) == id_
    text = TOKENIZER.decode([id_])
    if TOKENIZER.encode(text) == [id_]:
        assert looked_up(text) == id_


def test_the_end_of_a_document_has_a_name():
    assert looked_up("<|endoftext|>") == TOKENIZER.end_of_text


def test_an_id_that_no_token_has_is_refused():
    for id_ in (300, 999999999999999999):
        with pytest.raises(UsageProblem, match=f"no token #{id_}; this model has #0 to #299"):
            looked_up(id_)


def test_a_text_of_several_tokens_says_which():
    with pytest.raises(UsageProblem, match=r"'ab' is 2 tokens: 'a' #97, 'b' #98\."):
        looked_up("ab", byte_tokenizer())
    with pytest.raises(UsageProblem, match=r"is 20 tokens: .* #97, …\."):
        looked_up("a" * 20, byte_tokenizer())
    with pytest.raises(UsageProblem, match="is 2 tokens"):
        looked_up("#x", byte_tokenizer())
