"""The page's attention: its shares are those of the views, and the rows of a long text are those of the whole."""

import numpy as np
import pytest
import torch

from attncli.explain.defaults import PARTS
from attncli.explain.first_screen import explain
from attncli.explain.page import attention
from attncli.explain.page.attention import page_attention
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.explain.rollout import rollout
from attncli.text.tokenizer import Piece
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.translations import TOKENIZER, translation

FAMILIES = {"decoder": {}, "window": {"window": 4, "window_from": 1}, "encoder": {"causal": False}}
DRAWN = torch.randint(3, 250, (14,), generator=torch.Generator().manual_seed(0))
PIECES = tuple(Piece(id_, f" {id_}", 0) for id_ in DRAWN.tolist())


@pytest.fixture(scope="module", params=FAMILIES)
def reading(request):
    return Reading.of(tiny_model(vocab_size=300, dtype=torch.float64, **FAMILIES[request.param]), PIECES)


@pytest.fixture(scope="module")
def whole(reading):
    return page_attention(reading, range(len(PIECES)), len(PIECES) - 1, vectors=10**6)


def test_rollout_is_that_of_the_view(reading, whole):
    for row in range(len(PIECES)):
        found = rollout(reading, Focus(row))
        np.testing.assert_allclose(whole.rollout[row], found.shares, atol=1e-6)
        np.testing.assert_allclose(whole.even[row], found.even, atol=1e-6)


def of_a_translation(name, part):
    model = tiny_model(dtype=torch.float64, **ENCODER_DECODERS[name] | {"vocab_size": 300})
    return Reading.translated(model, translation(), [part])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_shares_of_a_translation_are_those_of_the_views(name, part):
    """Includes relative positions, grouped heads and post-norm models."""
    same_as_the_views(of_a_translation(name, part))


def test_shares_are_those_of_the_views(reading):
    same_as_the_views(reading)


def same_as_the_views(reading):
    count = len(reading.axes.rows)
    found = page_attention(reading, range(count), count - 1)
    for row in (0, count // 2, count - 1):
        for layer, head in ((None, None), (1, None), (1, 2)):
            for measure in ("norm", "raw"):
                focus = Focus(row, layer, head, measure)
                shares = explain(reading, TOKENIZER, focus, check=False, aligning=False).sources.shares
                if head is not None:
                    mine = getattr(found, measure)[layer, head, row]
                elif measure == "norm":
                    mine = found.layer_shares[slice(layer, layer and layer + 1), row].mean(0)
                else:
                    mine = found.raw[slice(layer, layer and layer + 1), :, row].mean((0, 1))
                np.testing.assert_allclose(mine, shares, atol=2e-6)


@pytest.mark.parametrize("rows", [range(5, 9), range(9, 14), range(1)])
def test_the_rows_of_a_long_text_are_those_of_the_whole(reading, whole, rows):
    part = page_attention(reading, rows, rows[-1], vectors=10**6)
    at, seen = slice(rows.start, rows.stop), part.raw.shape[-1]
    assert seen == (rows.stop if reading.causal else len(PIECES))
    for name in ("raw", "norm"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[:, :, at, :seen], atol=1e-6)
    np.testing.assert_allclose(part.layer_shares, whole.layer_shares[:, at, :seen], atol=1e-6)
    np.testing.assert_allclose(part.rollout, whole.rollout[at], atol=1e-6)
    np.testing.assert_allclose(part.even, whole.even[at], atol=1e-6)
    for name in ("query", "scores", "written"):
        expected = getattr(whole.vectors, name)[:, at]
        expected = expected[..., :seen] if name == "scores" else expected
        np.testing.assert_allclose(getattr(part.vectors, name), expected, atol=1e-5)
    assert part.busiest == page_attention(reading, range(len(PIECES)), rows[-1]).busiest
    assert part.thumbnails.weights.shape[:2] == part.shape


def test_a_rollout_that_needs_too_much_memory_is_left_out(reading, monkeypatch):
    monkeypatch.setattr(attention, "_PASS_BYTES", 4 * reading.heads * len(PIECES) ** 2)
    monkeypatch.setattr(type(reading), "layers", property(lambda self: 1 + self.heads))
    part = attention._long_pass(reading, "decoder", range(2))
    assert part[:2] == (None, None)
    assert part[2].pool == 1


@pytest.mark.parametrize("at_once", [1, 4 * 32, 5 * 4 * 32, 10**9])
def test_the_vectors_of_a_few_sources_at_a_time_give_the_norms_of_all(at_once, monkeypatch):
    """In a reference, all vectors a_hij f_h(x_j) are formed at once."""
    torch.manual_seed(0)
    weights = torch.rand(4, 6, 11, dtype=torch.float64)
    value = torch.randn(4, 11, 8, dtype=torch.float64)
    matrix = torch.randn(32, 4, 8, dtype=torch.float64)
    vectors = torch.einsum("hij,chd,hjd->hijc", weights, matrix, value)
    monkeypatch.setattr(attention, "_MOST_WRITTEN", at_once)
    sizes, einsum = [], torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *given: sizes.append(made := einsum(*given)) or made)
    lengths, together = attention._norms(weights, value, matrix)
    torch.testing.assert_close(weights * lengths[:, None], vectors.norm(dim=-1))
    torch.testing.assert_close(together, vectors.sum(0).norm(dim=-1))
    assert max(map(torch.numel, sizes)) <= max(at_once, 4 * 32)
