"""The most probable next tokens at several temperatures."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.candidates import candidates
from attncli.generation.events import Candidate, Candidates
from attncli.generation.sampling import filtered
from attncli.model.distribution import distribution
from attncli.render.candidates import candidates_document, candidates_screen
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import tiny_model
from tests.support.screens import shown, widest
from tests.support.texts import story


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(400)], "bpe", 280)


def test_a_distribution_computed_by_hand():
    logits = torch.tensor([math.log(1.0), math.log(4.0), math.log(5.0)], dtype=torch.float64)
    assert distribution(logits, 1).tolist() == pytest.approx([0.1, 0.4, 0.5])
    assert distribution(logits, 0.5).tolist() == pytest.approx([1 / 42, 16 / 42, 25 / 42])
    assert distribution(logits, 0).tolist() == [0, 0, 1]
    assert distribution(torch.tensor([2.0, 7.0, 7.0]), 0).tolist() == [0, 1, 0]


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9), st.floats(0.05, 20))
def test_the_distribution_is_the_one_that_text_is_drawn_from(logits, temperature):
    given_logits = torch.tensor([logits], dtype=torch.float64)
    drawn_from = filtered(given_logits, SampleConfig(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)).softmax(
        -1
    )
    torch.testing.assert_close(distribution(given_logits[0], temperature), drawn_from[0])


@torch.no_grad()
def test_the_tokens_are_the_most_probable_of_the_model_and_the_rest_has_the_rest(tokenizer, family):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **family)
    ids = tokenizer.encode("The cat sat")
    found = candidates(model, tokenizer, ids, (0.0, 0.5, 1.0, 3.0), 7)
    logits = model(torch.tensor([ids]))[0, -1].double()
    order = logits.argsort(descending=True)[:7]
    assert [token.id for token in found.tokens] == order.tolist()
    assert [token.probabilities[0] for token in found.tokens] == [1, 0, 0, 0, 0, 0, 0]
    for at, temperature in enumerate((0.5, 1.0, 3.0), 1):
        expected = (logits / temperature).softmax(-1)[order]
        column = [token.probabilities[at] for token in found.tokens]
        assert column == pytest.approx(expected.tolist(), abs=1e-6)
        assert found.rest[at] == pytest.approx(1 - sum(column))


def test_among_equal_tokens_the_greedy_token_comes_first(tokenizer):
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.embedding.weight.zero_()
    found = candidates(model, tokenizer, tokenizer.encode("The"), (0.0, 1.0), 3)
    assert [token.probabilities[0] for token in found.tokens] == [1, 0, 0]
    assert [token.id for token in found.tokens] == [0, 1, 2]


def test_padding_rows_of_a_matrix_are_not_tokens(tokenizer):
    model = tiny_model(vocab_size=tokenizer.vocab_size + 40)
    found = candidates(model, tokenizer, tokenizer.encode("The"), (1.0,), 10**6)
    assert sorted(token.id for token in found.tokens) == list(range(tokenizer.vocab_size))
    assert sum(token.probabilities[0] for token in found.tokens) == pytest.approx(1)


def test_a_prompt_that_cannot_be_read_is_refused(tokenizer):
    model = tiny_model(vocab_size=tokenizer.vocab_size, context=8)
    with pytest.raises(BadInput, match="no tokens"):
        candidates(model, tokenizer, [], (1.0,), 3)
    with pytest.raises(BadInput, match="at most 8"):
        candidates(model, tokenizer, [1] * 9, (1.0,), 3)


FOUND = Candidates(
    (0.0, 0.5, 1.0, 2.0),
    (
        Candidate(5, " and", (1.0, 0.7, 0.41, 0.12)),
        Candidate(6, "\x1b[31m", (0.0, 0.2, 0.2, 0.1)),
        Candidate(7, "東京タワーの上で東京タワー", (0.0, 0.0001, 0.1, 0.08)),
        Candidate(8, "\N{REPLACEMENT CHARACTER}", (0.0, 0.05, 0.1, 0.08)),
    ),
)
PIECES = [Piece(1, "The", 3), Piece(2, " bank", 5)]


SCREEN = """\
stories · 2 tokens
The|␣bank

What may come next, by temperature
               T 0             T 0.5           T 1             T 2
␣and            100% ████████    70% █████▋      41% ███▎        12% █
␛[31m             0%             20% █▋          20% █▋          10% ▊
東京タワーの…     0%           <0.1%             10% ▊            8% ▋
� #8              0%              5% ▍           10% ▊            8% ▋
others            0%              5% ▍           19% █▌          62% █████
"""


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_a_screen_fits_and_shows_nothing_raw(width):
    drawn = shown(candidates_screen(FOUND, PIECES, "m\x1b[31m", width), width)
    assert "\x1b" not in drawn
    assert "#8" in drawn
    assert "others" in drawn
    assert widest(drawn) <= width
    assert ("T 2" in drawn) == (width >= 40)


def test_the_screen_at_80_columns():
    drawn = shown(candidates_screen(FOUND, PIECES, "stories", 80), 80)
    assert [line.rstrip() for line in drawn.splitlines()] == SCREEN.splitlines()


def test_json_has_every_figure_in_full_precision():
    document = json.loads(json.dumps(candidates_document(FOUND, "m", "The bank")))
    assert document["temperatures"] == [0.0, 0.5, 1.0, 2.0]
    assert document["tokens"][0] == {"id": 5, "text": " and", "probabilities": [1.0, 0.7, 0.41, 0.12]}
    assert document["others"] == pytest.approx([0, 0.0499, 0.19, 0.62])
