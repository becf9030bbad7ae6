"""Explanations counted in words: which tokens form a word, and sums and means over them."""

import csv
import io
import json

import numpy as np
import pytest
import torch

from attncli.explain.first_screen import explain
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.explain.units import Spans
from attncli.explain.words import joined, words
from attncli.render.export import sources_csv
from attncli.render.first_screen import explanation_document
from attncli.render.plain import explanation_sentences
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.explanations import CutEdges, in_stretches, pieces_of, view_text
from tests.support.models import tiny_model
from tests.support.texts import story

TOKENIZER = train_tokenizer([story(400)], "bpe", 270)
PIECES = TOKENIZER.pieces("The small cat's friend sat near the river, never late")
SPANS = words(PIECES)


def spelled(*texts):
    return [piece.text for piece in joined(pieces_of(*texts), words(pieces_of(*texts)))]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("The", " c", "at", " s", "at", "."), ["The", " cat", " sat", "."]),
        ((" ri", "ver", "'", "s", " bank"), [" river's", " bank"]),
        ((" don", "’t", " '", "so", "'"), [" don’t", " '", "so", "'"]),
        (("na", "i\u0308", "ve", " हि", "न", "्दी"), ["nai\u0308ve", " हिन्दी"]),
        (("4", "2", " ", "km", "\n", "\n"), ["42", " km", "\n", "\n"]),
        (("a", " ", " ", " b", ".", " ", "\n", " ", "c", " ", " "), ["a", "   b", ".", " \n", " c  "]),
        ((" ", " "), ["  "]),
        (("", "a"), ["", "a"]),  # the token that the tokenizer puts before every text
        (("東京", "は", " 日本"), ["東京", "は", " 日本"]),
        ((), []),
    ],
)
def test_adjacent_letters_form_a_word(texts, expected):
    assert spelled(*texts) == expected


def test_the_tokens_of_one_character_are_one_word():
    pieces = byte_tokenizer().pieces("a 東é日")
    assert words(pieces) == [range(1), range(1, 5), range(5, 7), range(7, 10)]
    assert [piece.text for piece in joined(pieces, words(pieces))] == ["a", " 東", "é", "日"]


def test_a_word_of_more_than_64_tokens_is_split():
    assert [len(span) for span in words(pieces_of(*["a"] * 130))] == [64, 64, 2]


def test_words_cover_the_text_and_some_have_several_tokens():
    assert len(SPANS) < len(PIECES) - 3
    assert [at for span in SPANS for at in span] == list(range(len(PIECES)))


@pytest.mark.parametrize("measure", ["norm", "raw"])
def test_a_word_sums_the_columns_of_its_tokens_and_averages_their_rows(family, measure):
    model = tiny_model(vocab_size=270, dtype=torch.float64, **family)
    at = next(at for at, span in enumerate(SPANS) if len(span) > 1 and at > 3)
    found = explain(
        Reading.of(model, PIECES),
        TOKENIZER,
        Focus(token=at, layer=1, head=2, weights=measure),
        words=Spans(SPANS, SPANS),
    )
    rows = [
        explain(Reading.of(model, PIECES), TOKENIZER, Focus(query, 1, 2, measure), check=False) for query in SPANS[at]
    ]
    shares = np.mean([row.sources.shares for row in rows], 0)
    np.testing.assert_allclose(found.sources.shares, [shares[[*span]].sum() for span in SPANS], atol=1e-7)
    assert found.sources.shares.sum() == pytest.approx(1)
    assert (found.sources.shares[at + 1 :] == 0).all()
    table = rows[0].map.weights
    expected = [[table[np.ix_([*query], [*source])].sum(1).mean() for source in SPANS] for query in SPANS]
    np.testing.assert_allclose(found.map.weights, expected, atol=1e-7)
    np.testing.assert_allclose(found.map.weights.sum(1), 1, atol=1e-7)
    assert found.map.previous_token == pytest.approx(np.diag(expected, -1).mean())
    last = rows[-1].next_tokens
    assert [token.id for token in found.next_tokens] == [token.id for token in last]


@torch.no_grad()
def test_a_cut_of_a_word_cuts_all_its_tokens(family):
    model = tiny_model(vocab_size=270, dtype=torch.float64, **family)
    at = next(at for at, span in enumerate(SPANS) if len(span) > 1 and at > 3)
    checks = explain(Reading.of(model, PIECES), TOKENIZER, Focus(token=at), words=Spans(SPANS, SPANS)).checks
    ids = torch.tensor([[piece.id for piece in PIECES[: SPANS[at].stop]]])
    assert sorted(checks.sources) == list(range(at + 1))
    for word, probability in zip(checks.sources, checks.probabilities, strict=True):
        if word < at:
            edges = [(query, source) for query in SPANS[at] for source in SPANS[word]]
            whole = model(ids, observe=CutEdges(*edges))[0, -1].softmax(-1)[checks.token.id]
            assert probability == pytest.approx(float(whole), rel=1e-5)


def test_words_of_one_token_give_the_explanation_of_the_tokens():
    model = tiny_model(vocab_size=270)
    single = [range(at, at + 1) for at in range(len(PIECES))]
    found, plain = (
        explain(Reading.of(model, PIECES), TOKENIZER, Focus(), words=spans and Spans(spans, spans))
        for spans in (single, None)
    )
    np.testing.assert_array_equal(found.sources.shares, plain.sources.shares)
    np.testing.assert_array_equal(found.map.weights, plain.map.weights)
    assert found.checks == plain.checks


@pytest.mark.parametrize("at", [-1, 45, 3])
def test_words_of_a_long_text_equal_a_full_observation(family, at, monkeypatch):
    model = tiny_model(vocab_size=270, dtype=torch.float64, context=400, **family)
    pieces = TOKENIZER.pieces(story(80))[:250]
    spans = words(pieces)
    focus = Focus(token=range(len(spans))[at])
    whole = explain(Reading.of(model, pieces), TOKENIZER, focus, words=spans and Spans(spans, spans))
    in_stretches(monkeypatch)
    found = explain(Reading.of(model, pieces), TOKENIZER, focus, words=spans and Spans(spans, spans))
    np.testing.assert_allclose(found.sources.shares, whole.sources.shares, rtol=1e-5, atol=1e-7)
    first = found.map.first_row
    assert len(found.map.weights) == 40 < len(whole.map.weights)
    np.testing.assert_allclose(found.map.weights, whole.map.weights[first : first + 40], rtol=1e-5, atol=1e-7)
    assert found.checks.probabilities == pytest.approx(whole.checks.probabilities, rel=1e-5)


def test_every_output_says_that_it_counts_words():
    found = explain(Reading.of(tiny_model(vocab_size=270), PIECES), TOKENIZER, Focus(), words=Spans(SPANS, SPANS))
    shown = view_text("first", found, 120)
    assert f"{len(SPANS)} words of {len(PIECES)} tokens" in shown
    assert "first word" in shown
    assert "the word before" in shown
    said = "\n".join(explanation_sentences(found, "m"))
    assert f"{len(PIECES)} tokens, {len(SPANS)} words:" in said
    assert f"Where does word {len(SPANS) - 1}, " in said
    document = json.loads(json.dumps(explanation_document(found, "m"), allow_nan=False))
    assert len(document["tokens"]) == len(PIECES)
    assert [word["tokens"] for word in document["words"]] == [[span[0], span[-1]] for span in SPANS]
    assert document["words"][2]["text"] == " cat's"
    assert len(document["sources"]["shares"]) == len(document["map"]["weights"]) == len(SPANS)
    header, *rows = csv.reader(io.StringIO(sources_csv(found)))
    assert header[:5] == ["index", "word", "first_token", "last_token", "share"]
    assert [row[1] for row in rows] == [piece.text for piece in found.pieces]
