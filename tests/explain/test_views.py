"""The views lens, logit, steps, grid and rollout equal their definitions."""

import numpy as np
import pytest
import torch

from attncli.errors import UsageProblem
from attncli.explain.grid import grid
from attncli.explain.lens import lens
from attncli.explain.logit import logit_attribution
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.explain.rollout import rolled, rollout
from attncli.explain.steps import steps
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.explanations import contributions, in_stretches
from tests.support.models import Recorder, tiny_model
from tests.support.texts import story

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
PIECES = TOKENIZER.pieces("The small cat sat near the river and then it sang")
IDS = torch.tensor([[piece.id for piece in PIECES]])
FOCUS = Focus(token=8)


@pytest.fixture
def model(family):
    return tiny_model(dtype=torch.float64, **{"vocab_size": 300, **family})


def seen_by(model):
    seen = Recorder()
    with torch.no_grad():
        seen.logits = model(IDS, observe=seen)[0]
    return seen


# Lens


@torch.no_grad()
def test_the_last_row_of_the_lens_has_the_probabilities_of_the_model(model):
    found = lens(Reading.of(model, PIECES), TOKENIZER, FOCUS)
    own = model(IDS)[0, 8].softmax(-1)
    best, ids = own.topk(10)
    assert len(found.rows) == 4
    assert [token.id for token in found.rows[-1].top] == ids.tolist()
    np.testing.assert_allclose([token.probability for token in found.rows[-1].top], best, rtol=1e-9)
    assert found.rows[-1].rank == 1
    assert found.target.id == ids[0]


@torch.no_grad()
def test_a_row_of_the_lens_is_the_stream_after_the_final_norm_and_the_output_head(model):
    found = lens(Reading.of(model, PIECES), TOKENIZER, FOCUS)
    seen = seen_by(model)
    for row in found.rows:
        own = model.unembed(model.norm(seen.streams[row.layers_read][0, 8])).softmax(-1)
        assert row.probability == pytest.approx(float(own[found.target.id]), rel=1e-9)
        assert row.rank == 1 + int((own > own[found.target.id]).sum())
        assert row.top[0].id == int(own.argmax())


def test_the_lens_drops_ids_that_the_tokenizer_does_not_have():
    """Their rows pad the embedding matrix, here with the largest logits of all."""
    model = tiny_model(vocab_size=TOKENIZER.vocab_size + 20, tied=False)
    with torch.no_grad():
        expected = model(IDS)[0, 8, : TOKENIZER.vocab_size].softmax(-1)
        model.head.weight[TOKENIZER.vocab_size :] = 10 * model.head.weight[int(expected.argmax())]
    found = lens(Reading.of(model, PIECES), TOKENIZER, FOCUS)
    assert found.target.id == int(expected.argmax())
    assert found.rows[-1].probability == pytest.approx(float(expected.max()), rel=1e-5)
    assert found.rows[-1].rank == 1
    assert all(token.id < TOKENIZER.vocab_size for row in found.rows for token in row.top)


# LogitAttribution


@torch.no_grad()
@pytest.mark.parametrize(("target", "against"), [(None, None), ("#7", None), ("#7", "#9")])
def test_the_terms_of_a_logit_sum_to_the_logit(model, target, against):
    found = logit_attribution(Reading.of(model, PIECES), TOKENIZER, FOCUS, target=target, against=against)
    logits = model(IDS)[0, 8]
    base = logits.mean() if against is None else logits[9]
    assert found.logit == pytest.approx(float(logits[found.target.id] - base), abs=1e-9)
    assert abs(found.remainder) < 1e-9
    assert abs(found.logit) > 0.01
    assert found.total == pytest.approx(found.logit - found.remainder)


@torch.no_grad()
def test_a_term_equals_the_change_of_the_logit_without_it(model):
    """The scale of the norm is frozen: the stream without one part is divided by the same sigma."""
    found = logit_attribution(Reading.of(model, PIECES), TOKENIZER, FOCUS, target="#7")
    seen = seen_by(model)
    stream = seen.streams[3][0, 8]
    layered = isinstance(model.norm, torch.nn.LayerNorm)
    sigma = (stream.var(unbiased=False) if layered else stream.square().mean()).add(model.config.norm_eps).sqrt()
    gain = model.norm.weight + (1 if model.config.unit_offset else 0)

    def logit(part):
        logits = model.unembed((part - part.mean() if layered else part) / sigma * gain)
        return float(logits[7] - logits.mean())

    for layer in range(3):
        moved = contributions(model, seen.steps[layer], layer)  # (H, T, S, C)
        for head, source in [(0, 0), (1, 3), (3, 8)]:
            assert found.heads[layer, head, source] == pytest.approx(logit(moved[head, 8, source]), abs=1e-10)
        fed = seen.fed[layer][0, 8]
        bias = model.blocks[layer].feed_forward.down.bias
        assert found.feed_forward[layer] == pytest.approx(logit(fed - (0 if bias is None else bias)), abs=1e-10)
        assert (found.feed_forward_bias is None) == (bias is None)
    assert (found.heads[:, :, 9:] == 0).all()
    place = 0 if model.position is None else model.position.weight[8]
    assert found.embedding == pytest.approx(logit(seen.streams[0][0, 8] - place), abs=1e-10)
    assert (found.position is None) == (model.position is None)


def test_a_target_is_named_by_its_text_or_id():
    model = tiny_model(vocab_size=300)
    the = TOKENIZER.encode(" the")[0]
    assert logit_attribution(Reading.of(model, PIECES), TOKENIZER, FOCUS, target="␣the").target.id == the
    assert logit_attribution(Reading.of(model, PIECES), TOKENIZER, FOCUS, target=f"#{the}").target.text == " the"
    either = logit_attribution(Reading.of(model, PIECES), TOKENIZER, FOCUS, target="a").target
    spelled = [TOKENIZER.encode(text)[0] for text in ("a", " a") if len(TOKENIZER.encode(text)) == 1]
    logits = seen_by(model).logits[8]
    assert either.id == max(spelled, key=lambda i: float(logits[i]))


@pytest.mark.parametrize(("target", "message"), [("#300", "no token #300"), ("zebra zoo", "not one"), ("", "not one")])
def test_a_target_of_several_tokens_is_refused(target, message):
    with pytest.raises(UsageProblem, match=message):
        logit_attribution(Reading.of(tiny_model(vocab_size=300), PIECES), TOKENIZER, FOCUS, target=target)


# Long texts


@torch.no_grad()
def test_views_of_a_long_text_equal_a_full_observation(model, monkeypatch):
    pieces = TOKENIZER.pieces(story(60))[:90]
    whole = (
        lens(Reading.of(model, pieces), TOKENIZER, Focus(token=70)),
        logit_attribution(Reading.of(model, pieces), TOKENIZER, Focus(token=70)),
    )
    in_stretches(monkeypatch)
    formed, summed = (
        lens(Reading.of(model, pieces), TOKENIZER, Focus(token=70)),
        logit_attribution(Reading.of(model, pieces), TOKENIZER, Focus(token=70)),
    )
    for found, expected in zip(formed.rows, whole[0].rows, strict=True):
        assert (found.rank, found.probability) == (expected.rank, pytest.approx(expected.probability, rel=1e-9))
    np.testing.assert_allclose(summed.heads, whole[1].heads, atol=1e-10)
    np.testing.assert_allclose(summed.feed_forward, whole[1].feed_forward, atol=1e-10)
    assert summed.heads.shape == (3, 4, 90)
    assert summed.logit == pytest.approx(whole[1].logit, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("token", [70, 89])
def test_the_steps_of_a_long_text_equal_a_full_observation(model, monkeypatch, token):
    """Tokens after the first masked token are not read, so they are not compared."""
    pieces, focus = TOKENIZER.pieces(story(60))[:90], Focus(token=token, layer=1, head=2)
    whole = steps(Reading.of(model, pieces), TOKENIZER, focus)
    in_stretches(monkeypatch)
    found = steps(Reading.of(model, pieces), TOKENIZER, focus)
    known = min(token + 2, 90)
    for name in ("keys", "values", "products", "weights", "allowed"):
        assert len(getattr(found, name)) == known
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name)[:known], atol=1e-10)
    np.testing.assert_allclose(found.attention, whole.attention, atol=1e-10)
    assert found.difference == pytest.approx(0, abs=1e-10)


# Steps


@torch.no_grad()
def test_the_steps_equal_the_observed_forward_pass(model):
    found = steps(Reading.of(model, PIECES), TOKENIZER, Focus(token=8, layer=1, head=3))
    seen = seen_by(model).steps[1]
    np.testing.assert_allclose(found.weights, seen.weights[0, 3, 8], atol=1e-12)
    assert found.weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found.allowed, ~seen.scores[0, 3, 8].isneginf().numpy())
    np.testing.assert_allclose(found.scores[found.allowed], seen.scores[0, 3, 8].numpy()[found.allowed], atol=1e-12)
    np.testing.assert_allclose(found.products, found.keys @ found.query, atol=1e-10)
    np.testing.assert_allclose(found.products / np.sqrt(len(found.query)), found.scores)
    np.testing.assert_allclose(found.mixed, seen.mixed[0, 3, 8], atol=1e-12)
    np.testing.assert_allclose(found.mixed, found.weights @ found.values, atol=1e-12)
    np.testing.assert_allclose(found.attention, seen.output[0, 8], atol=1e-12)
    written = contributions(model, seen, 1)[3, 8].sum(0)
    np.testing.assert_allclose(found.written, written, atol=1e-12)
    assert found.difference < 1e-12
    assert (found.layer, found.head, found.asked_for) == (1, 3, True)


@torch.no_grad()
def test_the_difference_from_the_fast_path_is_measured(monkeypatch):
    model = tiny_model(vocab_size=300)
    assert 0 < steps(Reading.of(model, PIECES), TOKENIZER, FOCUS).difference < 1e-5
    kind = type(model.blocks[0].attention)
    fused = kind._fused
    monkeypatch.setattr(kind, "_fused", lambda self, *given: fused(self, *given) * 1.01)
    found = steps(Reading.of(model, PIECES), TOKENIZER, FOCUS)
    assert found.difference > 1e-4


# Grid and rollout


@torch.no_grad()
@pytest.mark.parametrize("cells", [32, 4])
def test_a_thumbnail_has_the_largest_weight_of_each_square(model, cells, monkeypatch):
    monkeypatch.setattr("attncli.explain.grid._MOST_CELLS", cells)
    found = grid(Reading.of(model, PIECES), FOCUS)
    seen = seen_by(model)
    size = -(-len(PIECES) // found.pool)
    assert found.weights.shape == (3, 4, size, size)
    assert size <= cells
    for layer, row, column in [(0, 0, 0), (1, size - 1, 0), (2, size - 1, size - 1), (1, 2, 1)]:
        square = seen.steps[layer].weights[0, :, row * found.pool :, column * found.pool :]
        largest = square[:, : found.pool, : found.pool].amax((1, 2))
        np.testing.assert_allclose(found.weights[layer, :, row, column], largest)


@torch.no_grad()
def test_rollout_is_the_product_of_the_mixed_attention_of_the_layers(model):
    found = rollout(Reading.of(model, PIECES), FOCUS)
    seen = seen_by(model)
    product = torch.eye(len(PIECES), dtype=torch.float64)
    for layer in range(3):
        product = (0.5 * seen.steps[layer].weights[0].mean(0) + 0.5 * torch.eye(len(PIECES))).double() @ product
    np.testing.assert_allclose(found.shares, product[8], atol=1e-6)
    assert found.shares.sum() == pytest.approx(1)
    assert found.even.sum() == pytest.approx(1)
    assert (found.shares[9:] == 0).all()


def test_rollout_of_the_identity_is_the_identity():
    product = None
    for _ in range(3):
        product = rolled(product, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(product, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize(("layers", "first"), [(4, 0.23), (12, 0.80)])
def test_rollout_of_uniform_causal_attention_concentrates_on_the_first_token(layers, first):
    even = torch.ones(16, 16).tril() / torch.arange(1, 17)[:, None]
    product = None
    for _ in range(layers):
        product = rolled(product, even)
    assert float(product[-1, 0]) == pytest.approx(first, abs=0.005)


def test_rollout_is_zero_beyond_the_windows_of_all_layers():
    model = tiny_model(vocab_size=300, window=2, layers=2)
    found = rollout(Reading.of(model, PIECES), FOCUS)
    assert (found.shares[:6] == 0).all()
    assert (found.even[:6] == 0).all()
    assert (found.shares[6:9] > 0).all()
