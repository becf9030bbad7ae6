"""The JSON of log-probabilities: OpenAI's smallest number for a probability of 0, an error for what is no number."""

import json
import math

import pytest

from attncli.serve.openai.answers import CompletionAnswer, finite_logprob
from attncli.serve.openai.chat_answers import ChatAnswer
from attncli.serve.openai.choices import Delta
from attncli.serve.openai.scored import ScoredToken
from attncli.serve.refusal import Refusal

KINDS = [CompletionAnswer, ChatAnswer]


def document(kind, logprob, top):
    answer = kind("m", 1, lambda id_: bytes([97 + id_]), True)
    return answer.document([Delta(0, "a", (ScoredToken(0, logprob, ((0, logprob), (1, top)), 0),), "stop")], {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_probability_of_0_has_openais_smallest_logprob(kind):
    text = json.dumps(document(kind, -0.5, -math.inf), allow_nan=False)
    assert "-9999.0" in text
    assert "-0.5" in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [(math.nan, -1.0), (-1.0, math.nan)], ids=["own", "other"])
def test_a_probability_that_is_no_number_is_an_error(kind, values):
    with pytest.raises(Refusal, match="not numbers") as refused:
        document(kind, *values)
    assert refused.value.status == 422


def test_the_first_token_of_a_prompt_has_no_logprob():
    assert finite_logprob(None) is None
    assert (finite_logprob(0.0), finite_logprob(-1e300)) == (0.0, -9999.0)
