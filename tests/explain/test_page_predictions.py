"""What every row predicts agrees with the lens, the first screen and the exact softmax at any temperature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.explain.first_screen import explain
from attncli.explain.lens import lens
from attncli.explain.page import predictions as module
from attncli.explain.page.predictions import Streams, largest, predictions, predictions_of
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.text.tokenizer import MASK, Piece
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.explanations import pieces_of
from tests.support.models import ENCODER_DECODERS, ENCODERS, tiny_model
from tests.support.texts import story
from tests.support.tokenizers import wordpiece
from tests.support.translations import TOKENIZER as OF_PAIRS
from tests.support.translations import translation

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
PIECES = tuple(TOKENIZER.pieces("The small cat sat near the river"))
ENCODED = (Piece(2, "[CLS]", 0), *pieces_of(*"abcdefg")[3:], Piece(3, "[SEP]", 0))


def decoder(**switches):
    return Reading.of(tiny_model(vocab_size=310, **switches), PIECES), TOKENIZER  # 10 ids that pad the matrix


def encoder(**switches):
    class Names:
        vocab_size = 90

        def name(self, token):
            return str(token)

    return Reading.of(tiny_model(**ENCODERS["bert"], **switches), ENCODED), Names()


def translating(**switches):
    model = tiny_model(vocab_size=OF_PAIRS.vocab_size, **ENCODER_DECODERS["m2m100"], **switches)
    return Reading.translated(model, translation()), OF_PAIRS


KINDS = {"decoder": decoder, "encoder": encoder, "encoder-decoder": translating}


@pytest.fixture(params=KINDS)
def read(request):
    return KINDS[request.param]()


@torch.no_grad()
def exact_logits(reading, tokenizer):
    """Returns the logits (T, V) of an independent pass over the whole text."""
    model, ids = reading.model, torch.tensor([[piece.id for piece in reading.pieces]])
    return model(ids, source=reading.source)[0, :, : tokenizer.vocab_size].double()


def recomputed(found, row, temperature):
    """Returns the probabilities of the kept tokens of a row, as the page computes them."""
    values = np.exp(found.logits[row].astype(float) / temperature)
    middle = -(np.arange(found.tail.shape[1]) + 0.5) * found.tail_width
    return values / (values.sum() + (found.tail[row] * np.exp(middle / temperature)).sum())


def exact(logits, temperature):
    return (logits / temperature).softmax(-1).numpy()


def test_the_largest_logits_are_those_of_an_independent_pass(read):
    reading, tokenizer = read
    rows = range(len(reading.axes.rows))
    found, logits = predictions(reading, tokenizer, rows, kept=7), exact_logits(reading, tokenizer)
    ids = logits.argsort(descending=True, stable=True)[:, :7].numpy()
    assert found.ids.tolist() == ids.tolist()
    offsets = np.take_along_axis(logits.numpy(), ids, 1) - logits.amax(-1, keepdim=True).numpy()
    np.testing.assert_allclose(found.logits, offsets, atol=2e-4)
    probabilities = exact(logits, 1)
    np.testing.assert_allclose(
        found.probability_of_kept, np.take_along_axis(probabilities, ids, 1).sum(1), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(found.entropy, -(probabilities * np.log(probabilities)).sum(1), rtol=2e-3, atol=1e-5)
    assert (found.tail.sum(1) == tokenizer.vocab_size - 7).all()
    assert found.rows == rows


def test_the_final_predictions_are_those_of_the_first_screen(read):
    reading, tokenizer = read
    found = predictions(reading, tokenizer, range(len(reading.axes.rows)))
    for row in range(2, len(reading.axes.rows)):
        screen = explain(reading, tokenizer, Focus(token=row), check=False, next_tokens=5).next_tokens
        assert found.ids[row, :5].tolist() == [token.id for token in screen]
        values = np.exp(found.logits[row].astype(float))
        mine = (values / values.sum() * found.probability_of_kept[row])[:5]  # exact at temperature 1
        assert mine == pytest.approx([token.probability for token in screen], rel=1e-4, abs=1e-7)


def test_the_lens_rows_are_those_of_the_lens(read):
    reading, tokenizer = read
    rows = range(1, len(reading.axes.rows))
    found = predictions(reading, tokenizer, rows)
    for at, row in enumerate(rows):
        expected = lens(Reading(reading.model, reading.pieces, reading.translation), tokenizer, Focus(row), top=5)
        if tokenizer.vocab_size == reading.model.config.vocab_size:
            np.testing.assert_allclose(found.lens.target[at], [x.probability for x in expected.rows], rtol=1e-3)
            assert found.lens.rank[at].tolist() == [layer.rank for layer in expected.rows]
        for layer, of_layer in enumerate(expected.rows):
            known = [token for token in of_layer.top if token.id < tokenizer.vocab_size]
            assert found.lens.ids[at, layer, : len(known)].tolist() == [token.id for token in known]
    np.testing.assert_array_equal(found.lens.ids[:, -1], found.ids[:, :5])
    assert (found.lens.rank[:, -1] == 1).all()
    np.testing.assert_array_equal(found.lens.target[:, -1], found.lens.probabilities[:, -1, 0])


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("kept", [1, 12, 100])
def test_a_distribution_at_any_temperature_is_recomputed_within_the_stated_bound(temperature, fine, kept, monkeypatch):
    reading, tokenizer = translating()
    if not fine:
        monkeypatch.setattr(module, "_FINE_ROWS", 1)
    found = predictions(reading, tokenizer, range(len(reading.pieces)), kept=kept)
    assert found.tail_width == (1 / 16 if fine else 1 / 4)
    probabilities = exact(exact_logits(reading, tokenizer), temperature)
    for row, ids in enumerate(found.ids):
        mine, theirs = recomputed(found, row, temperature), probabilities[row, ids]
        # Only the tail is approximate, and it is part of the sum by which all are divided.
        bound = (1 - theirs.sum()) * math.expm1(found.tail_width / 2 / temperature) + 1e-3
        assert np.abs(np.log(mine) - np.log(theirs)).max() <= bound


@settings(max_examples=40)
@given(
    st.lists(st.floats(-300, 300, width=32), min_size=8, max_size=60),
    st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    st.integers(1, 6),
)
def test_any_logits_are_recomputed_within_the_stated_bound(logits, temperature, kept):
    """The bins count every token that is not kept, however far its logit is from the largest."""
    row = torch.tensor([logits], dtype=torch.float64)
    found = module._final(row, row.logsumexp(-1), torch.tensor([-1]), kept, 1 / 16)
    ids, values, tail, mass = (found[name].numpy() for name in ("ids", "logits", "tail", "probability_of_kept"))
    assert tail.sum() == len(logits) - kept
    assert (tail >= 0).all()
    assert tail.shape[1] <= 128 * 16 + 1
    probabilities = exact(row[0], temperature)
    scaled = np.exp(values[0].astype(float) / temperature)
    middle = -(np.arange(tail.shape[1]) + 0.5) / 16
    mine = scaled / (scaled.sum() + (tail[0] * np.exp(middle / temperature)).sum())
    bound = math.expm1(1 / 32 / temperature)
    assert mine == pytest.approx(probabilities[ids[0]], rel=bound + 1e-4, abs=1e-12)
    assert mass[0] == pytest.approx(exact(row[0], 1)[ids[0]].sum(), rel=1e-9)


def test_the_surprise_is_that_of_the_token_that_follows():
    reading, tokenizer = decoder()
    logs = exact_logits(reading, tokenizer).log_softmax(-1)
    found = predictions(reading, tokenizer, range(len(PIECES)))
    expected = [float(logs[at, piece.id]) for at, piece in enumerate(PIECES[1:])]
    np.testing.assert_allclose(found.actual[:-1], expected, atol=1e-4)
    assert np.isnan(found.actual[-1])
    assert found.what == "next"


def test_the_surprise_of_a_translation_is_that_of_the_token_that_names_the_row():
    reading, tokenizer = translating()
    logs = exact_logits(reading, tokenizer).log_softmax(-1)
    found = predictions(reading, tokenizer, range(len(reading.pieces)))
    expected = [float(logs[at, piece.id]) for at, piece in enumerate(reading.translation.outputs)]
    np.testing.assert_allclose(found.actual, expected, atol=1e-4)
    assert found.what == "itself"


def test_a_masked_word_has_no_surprise():
    model = tiny_model(**ENCODERS["bert"])
    pieces = (Piece(2, "[CLS]", 0), Piece(9, "a", 1), Piece(4, MASK, len(MASK)), Piece(3, "[SEP]", 0))
    tokenizer = type("Names", (), {"vocab_size": 97})
    found = predictions(Reading.of(model, pieces), tokenizer, range(4))
    assert np.isnan(found.actual).tolist() == [False, False, True, False]
    assert found.what == "itself"


def test_an_encoder_without_a_head_predicts_nothing():
    bare = ENCODERS["bert"] | {"head_transform": False, "head_bias": False}
    assert predictions(Reading.of(tiny_model(**bare), ENCODED), wordpiece(), range(3)) is None
    model = tiny_model(vocab_size=OF_PAIRS.vocab_size, **ENCODER_DECODERS["t5"])
    assert predictions(Reading.translated(model, translation(), ["encoder"]), OF_PAIRS, range(3)) is None


def test_some_rows_are_a_slice_of_all_rows_in_any_chunks(read, monkeypatch):
    reading, tokenizer = read
    every = range(len(reading.axes.rows))
    whole = predictions(reading, tokenizer, every, kept=9)
    watch = Streams(reading, range(2, 5), every)
    reading.run(every, watch)
    monkeypatch.setattr(module, "_MOST_ELEMENTS", 1)  # one row at a time
    for found in (
        predictions(reading, tokenizer, range(2, 5), kept=9),
        predictions_of(reading, tokenizer, range(2, 5), watch.stacked, kept=9),
    ):
        np.testing.assert_array_equal(found.ids, whole.ids[2:5])
        np.testing.assert_allclose(found.logits, whole.logits[2:5], atol=1e-4)
        np.testing.assert_array_equal(found.lens.ids, whole.lens.ids[2:5])
        np.testing.assert_allclose(found.actual, whole.actual[2:5], atol=1e-4)
        assert (found.tail.sum(1) == whole.tail.sum(1)[2:5]).all()


def test_of_equal_logits_the_first_is_kept_first():
    values, ids = largest(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]]), 4)
    assert values.tolist() == [[3, 3, 2, 2]]
    assert ids.tolist() == [[1, 3, 2, 4]]


def test_logits_that_are_not_numbers_are_counted_and_crash_nothing():
    logits = torch.tensor([[math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [-math.inf, 1.0, 2.0]])
    found = module._final(logits, logits.logsumexp(-1), torch.tensor([-1, 1, 1]), 2, 1 / 16)
    assert found["tail"].sum(1).tolist() == [1, 1, 1]
