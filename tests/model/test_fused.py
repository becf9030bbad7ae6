"""Each operation of `fused` and its gradient equal PyTorch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from attncli.model import fused
from attncli.model.attention import Rotary
from attncli.model.mask import causal_mask
from tests.support.models import ids_of, tiny_model


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradients(output, *inputs):
    return torch.autograd.grad(output.square().sum() + output.sum(), inputs)


def test_rms_norm_equals_pytorch_and_its_gradient_the_numerical_gradient():
    x, weight = doubles(3, 4, 6), doubles(6, seed=1)
    ours, theirs = fused.rms_norm(x, weight, 1e-6), F.rms_norm(x, (6,), weight, 1e-6)
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda a, b: fused.rms_norm(a, b, 1e-6), (x, weight))


def test_normalized_and_rotated_heads_and_their_gradient_equal_the_plain_network():
    batch, length, heads, width = 2, 5, 3, 4
    rotary = Rotary.table(torch.arange(length), width, 100.0).at(slice(length), torch.float64)
    sides, weight = doubles(batch, length, 3 * heads * width), doubles(2, width, seed=1)

    def plain(sides, weight):
        query, key, value = (part.transpose(1, 2) for part in sides.view(batch, length, 3, heads, width).unbind(2))
        query, key = (rotary.apply(F.rms_norm(x, (width,), w, 1e-6)) for x, w in zip((query, key), weight, strict=True))
        return query, key, value

    def ours(sides, weight):
        return fused.rotated_heads(sides, weight, rotary.cos, rotary.sin, heads, 1e-6)

    for mine, other in zip(ours(sides, weight), plain(sides, weight), strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.autograd.gradcheck(ours, (sides, weight))


@pytest.mark.parametrize(
    ("activation", "plain"),
    [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")), ("gelu_erf", F.gelu), ("relu", F.relu)],
)
def test_the_gated_product_and_its_gradient(activation, plain):
    sides = doubles(2, 3, 8)
    gate, up = sides.chunk(2, -1)
    torch.testing.assert_close(fused.gated_product(sides, activation), plain(gate) * up)
    assert torch.autograd.gradcheck(lambda x: fused.gated_product(x, activation), (sides,))


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), kv_heads=st.integers(1, 2), groups=st.integers(1, 3), queries=st.integers(1, 9),
    before=st.integers(0, 4), window=st.none() | st.integers(1, 6), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_equals_pytorch_for_every_mask_and_layout(batch, kv_heads, groups, queries, before, window, seed):
    query = doubles(batch, kv_heads * groups, queries, 4, seed=seed)
    key, value = (doubles(batch, kv_heads, queries + before, 4, seed=seed + i) for i in (1, 2))
    mask = causal_mask(queries, queries + before, window, torch.device("cpu"))
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    ours = fused.attend(query, key, value, fused.causal_bias(window, query, key))
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, query, key, value), gradients(theirs, query, key, value), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20], ids=["a row at a time", "some rows", "all rows"])
def test_the_loss_is_the_cross_entropy_for_every_chunk_size(monkeypatch, at_once):
    monkeypatch.setitem(fused._LOGITS_AT_ONCE, "cpu", at_once)
    hidden, weight, targets = doubles(2, 5, 4), doubles(11, 4, seed=1), torch.arange(10).view(2, 5)
    ours = fused.head_loss(hidden, weight, targets)
    theirs = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, hidden, weight), gradients(theirs, hidden, weight), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_loss_of_impossible_tokens_stays_finite():
    hidden, weight = torch.full((1, 4), 100.0, requires_grad=True), torch.eye(4)
    loss = fused.head_loss(hidden * torch.tensor([1.0, -1, -1, -1]), weight, torch.tensor([1]))
    assert loss.item() == pytest.approx(200.0)
    loss.backward()
    assert hidden.grad.isfinite().all()


def test_dropout_zeroes_its_share_keeps_the_mean_and_follows_the_seed():
    dropout, x = fused.Dropout(0.25), torch.ones(1000, 1003)
    torch.manual_seed(0)
    once = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(once, dropout(x))
    assert not torch.equal(once, dropout(x))
    # A million draws: five standard deviations are 0.0022. A false alarm occurs once in two million runs.
    assert (once == 0).float().mean().item() == pytest.approx(0.25, abs=0.0022)
    assert set(once.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert dropout.eval()(x) is x
    assert fused.Dropout(0.0)(x) is x


def test_a_step_has_the_gradient_of_the_plain_network(monkeypatch, family):
    model = tiny_model(dtype=torch.float64, **family | {"kv_heads": 4}).train().requires_grad_()
    rows, parameters = ids_of(9, batch=3), list(model.parameters())
    ours = torch.autograd.grad(model.loss(rows), parameters)
    monkeypatch.setattr(fused, "worth_it", lambda x: False)
    for mine, plain in zip(ours, torch.autograd.grad(model.loss(rows), parameters), strict=True):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("changes", [{}, {"scaled_scores": False, "kv_heads": 4}], ids=["scaled", "unscaled"])
def test_training_and_using_a_model_compute_the_same(family, changes):
    """With gradients, the operations of `fused` run; without gradients, PyTorch's."""
    model = tiny_model(**family | changes).train().requires_grad_()
    rows = ids_of(9, batch=3)
    loss = model.loss(rows)
    with torch.no_grad():
        logits = model(rows[:, :-1])
    assert loss.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item(), rel=1e-5)
    kept = torch.autograd.grad(loss, list(model.parameters()))
    model.checkpoint_activations = True
    for mine, other in zip(torch.autograd.grad(model.loss(rows), list(model.parameters())), kept, strict=True):
        torch.testing.assert_close(mine, other)
