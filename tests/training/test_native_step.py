"""The passes in C compute what PyTorch's do, and steps in C are reproducible."""

import copy
from dataclasses import replace

import pytest
import torch

from attncli.model import kernels
from attncli.model.transformer import Transformer, initialize
from attncli.training.shapes import pair_shape, shape
from attncli.training.step import Trainee, steps_in_c
from attncli.training.tasks.pairs import PairTensors
from attncli.training.tasks.text import TextBatch

VOCABULARY, CONTEXT = 90, 24
PLAIN, PAIRS = shape(2, 32, VOCABULARY, CONTEXT), pair_shape(2, 32, VOCABULARY, CONTEXT)
SHAPES = {
    "the plan's": PLAIN,
    "grouped heads": replace(PLAIN, heads=4, kv_heads=2, head_width=8),
    "no norm of queries": replace(PLAIN, qk_norm=False),
    "a window": replace(PLAIN, window=5, window_from=1),
    "an untied head": replace(PLAIN, tied=False),
    "GPT-2": replace(
        PLAIN,
        norm="layer",
        norm_bias=True,
        positions="learned",
        position_offset=2,
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation="gelu_tanh",
        feed_forward_bias=True,
    ),
    "a gate with biases": replace(PLAIN, feed_forward_bias=True, activation="gelu_erf"),
    "scaled embeddings": replace(PLAIN, scaled_embedding=True, scaled_scores=False),
    "pairs": PAIRS,
    "pairs with a gate": replace(PAIRS, gated=True, norm="rms", norm_bias=False),
}


@pytest.fixture(scope="module", autouse=True)
def _library():
    if not kernels.available():
        pytest.skip("there is no C compiler")


def model_of(config, dropout=0.0):
    model = Transformer(config, dropout)
    initialize(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model.train()


def batch_of(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if not config.encoder_layers:
        return TextBatch(torch.randint(0, VOCABULARY, (4, CONTEXT - 3), generator=generator))
    ids, inputs = (torch.randint(0, VOCABULARY, (4, length), generator=generator) for length in (11, 14))
    labels = inputs.roll(-1, 1)
    labels[1, 9:] = labels[3, 1:] = -100
    mask = torch.arange(11) < torch.tensor([11, 1, 6, 11])[:, None]
    return PairTensors((ids, mask, inputs, labels), tuple((labels >= 0).sum(1).tolist()))


def stepped(config, *, native, dropout=0.0, parts=1, steps=1, lr=0.0, threads=None):
    """Returns the last loss and norm, the gradients of the last step, and the trainee."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        trainee = Trainee(model_of(config, dropout), "muon", 0.1, torch.float32, smoothing=0.1, native=native)
    finally:
        torch.set_num_threads(before)
    assert (trainee._native is not None) == native
    gradients, update = {}, trainee.optimizer.step

    def noting(*rates):
        gradients.update({name: one.grad.clone() for name, one in trainee.model.named_parameters()})
        return update(*rates)

    trainee.optimizer.step = noting
    for step in range(steps):
        loss, norm = trainee.step(batch_of(config, step), step=step, seed=3, lr=lr, adam_lr=lr / 10, parts=parts)
    return float(loss), float(norm), gradients, trainee


@pytest.mark.parametrize(("dropout", "parts"), [(0.0, 1), (0.1, 2)])
@pytest.mark.parametrize("name", SHAPES)
def test_loss_and_gradients_equal_those_of_autograd(name, dropout, parts):
    config = SHAPES[name]
    assert steps_in_c(config, torch.float32, torch.device("cpu"))
    ours, theirs = (stepped(config, native=native, dropout=dropout, parts=parts) for native in (True, False))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-4)
    for name, expected in theirs[2].items():
        largest = float(expected.abs().max())  # the gradient of a key bias is zero but for rounding
        torch.testing.assert_close(ours[2][name], expected, rtol=1e-4, atol=1e-5 * largest + 1e-6)


@pytest.mark.parametrize("config", [PLAIN, PAIRS], ids=["text", "pairs"])
def test_runs_by_both_have_the_same_losses(config):
    ours, theirs = (stepped(config, native=native, steps=30, lr=0.02, dropout=0.1) for native in (True, False))
    assert ours[0] == pytest.approx(theirs[0], abs=0.01)


def test_the_number_of_threads_does_not_change_a_bit():
    one, three = (stepped(PAIRS, native=True, steps=3, lr=0.02, dropout=0.1, threads=n)[3] for n in (1, 3))
    for a, b in zip(one.model.parameters(), three.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_depends_on_the_weights_the_seed_and_its_number_alone():
    """Another trainee that took other steps before, with the same weights and state, takes the same step."""
    trainee = stepped(PLAIN, native=True, steps=2, lr=0.02, dropout=0.1)[3]
    other = Trainee(copy.deepcopy(trainee.model), "muon", 0.1, torch.float32)
    other.step(batch_of(PLAIN, 7), step=7, seed=5, lr=0.02, adam_lr=0.02)
    with torch.no_grad():
        for mine, weight in zip(other.model.parameters(), trainee.model.parameters(), strict=True):
            mine.copy_(weight)
    other.optimizer.load({name: tensor.clone() for name, tensor in trainee.optimizer.tensors().items()})
    for one in (trainee, other):
        one.step(batch_of(PLAIN, 9), step=9, seed=3, lr=0.02, adam_lr=0.002)
    for mine, weight in zip(other.model.parameters(), trainee.model.parameters(), strict=True):
        assert torch.equal(mine, weight)


def test_a_stopped_step_changes_no_weight():
    trainee = Trainee(model_of(PLAIN), "muon", 0.1, torch.float32)
    before = [one.detach().clone() for one in trainee.model.parameters()]
    assert trainee.step(batch_of(PLAIN), step=0, seed=0, lr=1.0, adam_lr=1.0, parts=2, stop=lambda: True) is None
    assert all(torch.equal(a, b) for a, b in zip(before, trainee.model.parameters(), strict=True))
    assert all(one.grad is None for one in trainee.model.parameters())


@pytest.mark.parametrize(
    "config",
    [
        replace(PLAIN, unit_offset=True),
        replace(PLAIN, positions="relative"),
        replace(PLAIN, pre_norm=False),
        replace(PLAIN, segments=2),
        replace(PLAIN, head_bias=True),
    ],
)
def test_pytorch_trains_what_the_operations_in_c_lack(config):
    assert not steps_in_c(config, torch.float32, torch.device("cpu"))
    loss = stepped(config, native=False)[0]
    trainee = Trainee(model_of(config), "muon", 0.1, torch.float32)
    assert trainee._native is None
    outcome = trainee.step(batch_of(config), step=0, seed=3, lr=0.0, adam_lr=0.0)
    assert float(outcome[0]) == pytest.approx(loss, rel=1e-6)


def test_float64_bfloat16_and_recomputed_activations_are_for_pytorch():
    for dtype in (torch.float64, torch.bfloat16):
        assert not steps_in_c(PLAIN, dtype, torch.device("cpu"))
    model = model_of(PLAIN)
    model.checkpoint_activations = True
    assert Trainee(model, "muon", 0.1, torch.float32)._native is None
