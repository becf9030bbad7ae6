"""Each operation of training.c and its gradient equal PyTorch's in float64, for any shape and number of threads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from attncli.model import kernels
from attncli.model.attention import Rotary
from attncli.model.fused import Drawn
from attncli.model.kernels import AdamParameter, AttentionShape, Kernels, MuonMatrix, Sides
from attncli.training import recipe
from attncli.training.optimizer import AdamW, Muon

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # of float32 sums of at most a few thousand numbers of size 1


@pytest.fixture(scope="module", autouse=True)
def _library():
    if not kernels.available():
        pytest.skip("there is no C compiler")


@pytest.fixture(scope="module", params=[1, 3])
def c(request):
    return Kernels(request.param)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wide(*tensors):
    """Returns copies in float64 that need a gradient."""
    return [tensor.double().requires_grad_() for tensor in tensors]


def equal(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs.detach().double(), **TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 150),
    depth=st.integers(1, 600),
    turned=st.tuples(st.booleans(), st.booleans()),
    start=st.sampled_from(["none", "matrix", "row", "itself"]),
)
def test_a_product_with_any_shape_layout_and_start(c, rows, columns, depth, turned, start):
    a = numbers(depth, rows).T if turned[0] else numbers(rows, depth)
    b = numbers(columns, depth, seed=1).T if turned[1] else numbers(depth, columns, seed=1)
    out = numbers(rows, columns, seed=2)
    added = {"none": None, "matrix": numbers(rows, columns), "row": numbers(columns), "itself": out}[start]
    expected = a.double() @ b.double() + (0 if added is None else added.double())
    c.product(out, a, b, added)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5 * math.sqrt(depth))


def test_a_product_of_views_writes_nothing_else(c):
    x, weight = numbers(70, 96), numbers(40, 32, seed=1)
    out = torch.zeros(70, 64)
    c.product(out[:, 8:48], x[:, 32:64], weight.T)
    equal(out[:, 8:48], x[:, 32:64] @ weight.T)
    assert not out[:, :8].any()
    assert not out[:, 48:].any()


@pytest.mark.parametrize("width", [16, 37, 128])
@pytest.mark.parametrize("kind", ["rms", "layer", "layer without bias"])
def test_norms(c, kind, width):
    x, weight, bias = numbers(150, width) + 0.3, numbers(width, seed=1), numbers(width, seed=2)
    bias = bias if kind == "layer" else None
    subtracts, gradient = kind != "rms", numbers(150, width, seed=3)
    out = torch.empty_like(x)
    c.norm(out, x, weight, bias, 1e-5, subtracts_mean=subtracts)
    inputs = wide(x, weight, *([] if bias is None else [bias]))
    if subtracts:
        expected = F.layer_norm(inputs[0], (width,), *inputs[1:], eps=1e-5)
    else:
        expected = F.rms_norm(inputs[0], (width,), inputs[1], 1e-5)
    equal(out, expected)
    expected.backward(gradient.double())
    before = numbers(150, width, seed=4)
    to_x, to_weight = before.clone(), torch.zeros(width)
    to_bias = None if bias is None else torch.zeros(width)
    c.norm_backward(to_x, to_weight, to_bias, gradient, x, weight, 1e-5, subtracts_mean=subtracts)
    equal(to_x - before, inputs[0].grad)
    equal(to_weight, inputs[1].grad)
    if to_bias is not None:
        equal(to_bias, inputs[2].grad)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
def test_rotated_heads(c, normed, rotated):
    batch, length, heads, kv_heads, width = 3, 30, 4, 2, 12
    shape = AttentionShape(batch, length, length, heads, kv_heads, width, True, None, 1.0)
    columns = (heads + kv_heads) * width
    x = numbers(batch * length, columns + 5)
    gains = (numbers(width, seed=1), numbers(width, seed=2)) if normed else None
    table = Rotary.table(torch.arange(length), width, 100.0)
    rotation = (table.cos, table.sin) if rotated else None
    out = torch.empty(batch * length, columns)
    c.rotate(out, x, gains, rotation, shape, 1e-6)

    (input,) = wide(x)
    gain = wide(*gains) if gains else []
    sides = input[:, :columns].view(batch, length, heads + kv_heads, width).transpose(1, 2)
    parts = sides.split([heads, kv_heads], 1)
    if normed:
        parts = [F.rms_norm(part, (width,), one, 1e-6) for part, one in zip(parts, gain, strict=True)]
    if rotated:
        parts = [Rotary(table.cos.double(), table.sin.double()).apply(part) for part in parts]
    expected = torch.cat(list(parts), 1).transpose(1, 2).reshape(batch * length, columns)
    equal(out, expected)
    gradient, to_gains = numbers(batch * length, columns, seed=3), torch.zeros(2, width) if normed else None
    expected.backward(gradient.double())
    c.rotate_backward(gradient, to_gains, x, gains, rotation, shape, 1e-6)
    equal(gradient, input.grad[:, :columns])
    if to_gains is not None:
        equal(to_gains, torch.stack([one.grad for one in gain]))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 130),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    width=st.sampled_from([4, 12, 32, 64]),
    kind=st.sampled_from(["causal", "window", "padding", "all"]),
    scaled=st.booleans(),
)
def test_attention(c, batch, queries, kv_heads, group, width, kind, scaled):
    causal, heads = kind in ("causal", "window"), kv_heads * group
    keys = queries if causal else queries // 2 + 3
    scale = 1 / math.sqrt(width) if scaled else 0.3
    lengths = torch.arange(batch, dtype=torch.int32) % keys + 1 if kind == "padding" else None
    window = 7 if kind == "window" else None
    shape = AttentionShape(batch, queries, keys, heads, kv_heads, width, causal, window, scale, lengths)
    query, key, value = (
        numbers(batch * rows, count * width, seed=seed)
        for seed, (rows, count) in enumerate([(queries, heads), (keys, kv_heads), (keys, kv_heads)])
    )
    output, logs = torch.empty(batch * queries, heads * width), torch.empty(batch * queries, heads)
    c.attend(output, logs, Sides(query, key, value), shape)

    inputs = wide(query, key, value)
    q, k, v = (one.view(batch, len(one) // batch, -1, width).transpose(1, 2) for one in inputs)
    k, v = (one.repeat_interleave(group, 1) for one in (k, v))
    allowed = torch.ones(batch, 1, queries, keys, dtype=torch.bool)
    if causal:
        allowed &= torch.ones(queries, keys).tril().bool()
    if window:
        allowed &= torch.ones(queries, keys).triu(1 - window).bool()
    if lengths is not None:
        allowed &= torch.arange(keys) < lengths[:, None, None, None]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    expected = expected.transpose(1, 2).reshape(batch * queries, -1)
    equal(output, expected)
    gradient = numbers(*output.shape, seed=5)
    expected.backward(gradient.double())
    to = Sides(torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    c.attend_backward(to, gradient, output, logs, Sides(query, key, value), shape)
    for ours, theirs in zip(to, inputs, strict=True):
        equal(ours, theirs.grad)


@pytest.mark.parametrize("width", [32, 45])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    ("activation", "plain"),
    [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")), ("gelu_erf", F.gelu), ("relu", F.relu)],
)
def test_activations(c, activation, plain, gated, width):
    x, gradient = 2 * numbers(40, (1 + gated) * width), numbers(40, width, seed=1)
    out, to_x = torch.empty(40, width), torch.empty_like(x)
    c.activate(out, x, activation, gated=gated)
    (input,) = wide(x)
    gate, up = (input[:, :width], input[:, width:]) if gated else (input, 1)
    expected = plain(gate) * up
    equal(out, expected)
    expected.backward(gradient.double())
    c.activate_backward(to_x, gradient, x, activation, gated=gated)
    equal(to_x, input.grad)


def test_residual_sums_and_dropout(c):
    x, start = numbers(300, 70), numbers(300, 70, seed=1)
    out = torch.empty_like(x)
    c.add(out, start, x)
    equal(out, start + x)
    bytes = torch.randint(0, 256, (x.numel(),), dtype=torch.uint8)
    c.add(out, None, x, Drawn(bytes, 64, 256 / 192))
    equal(out, x * (bytes >= 64).view(x.shape) * (256 / 192))
    c.add(x, start, x, Drawn(bytes, 64, 256 / 192))
    equal(x, start + out)


def test_the_embedding(c):
    table, positions, ids = numbers(20, 40), numbers(9, 40, seed=1), torch.randint(0, 20, (5, 9))
    out = torch.empty(45, 40)
    c.embed(out, table, ids, positions, 3.0)
    (input,) = wide(table)
    expected = (3 * input[ids] + positions).view(45, 40)
    equal(out, expected)
    gradient, to_table = numbers(45, 40, seed=2), torch.zeros(20, 40)
    expected.backward(gradient.double())
    c.embed_backward(to_table, gradient, ids, 3.0)
    equal(to_table, input.grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("vocabulary", [64, 77])
def test_the_loss_and_its_gradient(c, vocabulary, smoothing):
    logits, targets = 5 * numbers(33, vocabulary), torch.randint(0, vocabulary, (33,))
    targets[5] = targets[32] = -100
    (input,) = wide(logits)
    expected = F.cross_entropy(input, targets, reduction="sum")
    smoothed = (1 - smoothing) * expected - smoothing * input.log_softmax(-1)[targets >= 0].mean(-1).sum()
    (0.25 * smoothed).backward()
    nats = c.cross_entropy(logits, targets, 0.25, smoothing, torch.empty(33, dtype=torch.float64))
    assert nats == pytest.approx(expected.item(), rel=1e-5)
    equal(logits, input.grad)


def test_a_loss_of_numbers_that_are_not_finite_is_not_finite(c):
    for bad in (math.nan, math.inf):
        logits = torch.full((1, 32), bad)
        assert not math.isfinite(c.cross_entropy(logits, torch.tensor([3]), 1.0, 0.0, torch.empty(1).double()))
        assert not math.isfinite(c.sum_of_squares(torch.full((5,), bad)))


def test_sums_of_rows_and_of_squares(c):
    x, out = numbers(200, 30), numbers(30, seed=1)
    expected = out + x.sum(0)
    c.add_row_sum(out, x)
    equal(out, expected)
    many = numbers(50_001)
    assert c.sum_of_squares(many) == pytest.approx(many.double().square().sum().item(), rel=1e-5)


def test_the_updates_of_the_optimizer_equal_those_of_pytorch(c):
    """Gradients of one size: Adam divides by them."""
    shapes = {"a": (24, 24), "b": (40, 16), "c": (16, 56), "d": (40, 16)}
    ours, theirs = (
        {name: torch.nn.Parameter(numbers(*shape, seed=len(name))) for name, shape in shapes.items()} for _ in range(2)
    )
    for kind in (Muon, AdamW):
        one = kind(ours, 0.1, torch.float32) if kind is Muon else kind(ours, 0.1)
        other = kind(theirs, 0.1, torch.float32) if kind is Muon else kind(theirs, 0.1)
        for step in range(3):
            for name, shape in shapes.items():
                ours[name].grad = numbers(*shape, seed=10 * step + ord(name)).sign() * 2
                theirs[name].grad = ours[name].grad / 2
            one.step_in_c(c, 0.05, 0.5)
            other.step(0.05)
        for name in shapes:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
        for name, tensor in one.tensors().items():
            torch.testing.assert_close(tensor, other.tensors()[name], rtol=1e-5, atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits():
    one, many = Kernels(1), Kernels(4)
    a, b = numbers(300, 700), numbers(700, 130, seed=1)
    outs = []
    for c in (one, many):
        out, to_weight = torch.empty(300, 130), torch.zeros(700)
        c.product(out, a, b)
        c.norm_backward(torch.zeros_like(a), to_weight, None, a, a, a[0].clone(), 1e-5, subtracts_mean=True)
        outs.append((out, to_weight, c.sum_of_squares(a)))
    assert torch.equal(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])
    assert outs[0][2] == outs[1][2]


def test_the_polynomials_of_muon_on_nearly_singular_matrices(c):
    """Products of polynomials of S = x x^T, in float32, are as precise as PyTorch's steps."""
    from attncli.training.optimizer import orthogonalized

    left, _, right = torch.linalg.svd(numbers(48, 80), full_matrices=False)
    x = left * torch.logspace(0, -6, 48) @ right
    weight, momentum = torch.zeros_like(x), torch.zeros_like(x)
    steps, margin = recipe.NEWTON_SCHULZ_STEPS, recipe.NEWTON_SCHULZ_MARGIN
    c.update_muon([MuonMatrix(weight, x.clone(), momentum)], 1.0, 0.95, steps, margin, 1.0, -1.0)
    exact = orthogonalized(x[None].double())[0]
    assert torch.linalg.matrix_norm(weight - exact, 2) < 1e-4


def test_parameters_without_decay_are_not_decayed(c):
    weight = torch.ones(5)
    zeros = torch.zeros(5)
    c.update_adam(
        [AdamParameter(weight, zeros, zeros.clone(), zeros.clone(), False)], 1.0, 0.5, (0.9, 0.95), 1.0, 1e-8, 0.1
    )
    assert torch.equal(weight, torch.ones(5))
