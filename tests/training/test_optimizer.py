"""The optimizer: the update of Muon, the parameters that AdamW updates, and a state that is restored."""

import subprocess
import sys

import pytest
import torch

from attncli.training import recipe
from attncli.training.optimizer import AdamW, Muon, Optimizer, orthogonalized
from attncli.training.step import Trainee
from attncli.training.tasks.text import TextBatch
from tests.support.models import ids_of, tiny_model


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 24, 8), (2, 8, 24), (3, 16, 40), (2, 1, 5)])
def test_orthogonalization_keeps_singular_vectors_and_moves_singular_values_toward_one(shape):
    """The matrix products apply the polynomials of the recipe to each singular value."""
    matrices = gaussian(*shape).double()
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    expected = values / (1.02 * values.norm(dim=-1, keepdim=True) + 1e-7)
    for a, b, c in recipe.NEWTON_SCHULZ_STEPS:
        expected = a * expected + b * expected**3 + c * expected**5
    torch.testing.assert_close(orthogonalized(matrices), left @ torch.diag_embed(expected) @ right)
    assert expected.max() < 2
    assert expected[values > 0.1 * values.amax(-1, keepdim=True)].min() > 0.1


def test_orthogonalization_in_bfloat16_is_close_to_float32():
    matrices = gaussian(3, 16, 40)
    assert (orthogonalized(matrices.bfloat16()).float() - orthogonalized(matrices)).norm(dim=(1, 2)).max() < 0.2


def test_a_batched_update_of_matrices_equals_single_updates():
    weights = {name: torch.nn.Parameter(gaussian(6, 4, seed=seed)) for seed, name in enumerate("abc")}
    alone = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
    together, each = (
        Muon(weights, 0.1, torch.float32),
        [Muon({name: weight}, 0.1, torch.float32) for name, weight in alone.items()],
    )
    for step in range(3):
        for name in weights:
            weights[name].grad = alone[name].grad = gaussian(6, 4, seed=10 * step + ord(name))
        together.step(0.1)
        for one in each:
            one.step(0.1)
    for name in weights:
        torch.testing.assert_close(weights[name], alone[name])


def test_the_size_of_a_muon_step_depends_on_the_learning_rate_but_not_on_the_gradient():
    """Without decay, every direction moves by about lr x sqrt(rows / columns)."""
    for scale in (1e-4, 1e4):
        weight = torch.nn.Parameter(torch.zeros(32, 8))
        muon = Muon({"w": weight}, 0.0, torch.float32)
        weight.grad = gaussian(32, 8) * scale
        muon.step(0.01)
        values = torch.linalg.svdvals(weight.detach()) / (0.01 * 2)
        assert values.min() > 0.3
        assert values.max() < 2


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_all_other_parameters():
    model = tiny_model(tied=False).requires_grad_()
    parts = [name.partition(".")[::2] for name in Optimizer(model, "muon", 0.1).tensors()]
    muon = {name for part, name in parts if part == "muon"}
    assert muon == {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    assert "head.weight" not in muon
    assert not any(name.startswith("muon") for name in Optimizer(model, "adamw", 0.1).tensors())


def test_adamw_equals_pytorchs_adamw():
    ours, theirs = ([torch.nn.Parameter(gaussian(6, 4)), torch.nn.Parameter(gaussian(5, seed=1))] for _ in range(2))
    mine = AdamW({"matrix": ours[0], "vector": ours[1]}, 0.1)
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=recipe.ADAMW_BETAS)
    for step in range(20):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = b.grad = gaussian(*a.shape, seed=2 * step + number) * 10 ** -(step % 4)
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        mine.step(0.01 * (step + 1))
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_does_not_import_the_compiler():
    """The optimizers of PyTorch import the compiler, which takes longer than planning a short run."""
    code = (
        "import sys, torch; from tests.support.models import *; from attncli.training.step import Trainee;"
        "from attncli.training.tasks.text import TextBatch;"
        "Trainee(tiny_model().train().requires_grad_(), 'muon', 0.1, torch.bfloat16)"
        ".step(TextBatch(ids_of(9, 4)), step=0, seed=0, lr=0.1, adam_lr=0.1); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_is_updated_and_a_restored_state_continues_with_the_same_bits(kind):
    def trainee():
        return Trainee(tiny_model().train().requires_grad_(), kind, 0.1, torch.float32)

    def steps(trained, first, last):
        for step in range(first, last):
            trained.step(TextBatch(ids_of(9, 4, seed=step)), step=step, seed=0, lr=0.01, adam_lr=0.003)

    whole, before = trainee(), {n: p.detach().clone() for n, p in tiny_model().named_parameters()}
    steps(whole, 0, 4)
    for name, parameter in whole.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    first = trainee()
    steps(first, 0, 2)
    second = trainee()
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load({name: tensor.clone() for name, tensor in first.optimizer.tensors().items()})
    steps(second, 2, 4)
    for mine, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def gradient_of(parts, dtype=torch.float32, windows=6):
    """Returns the gradient that the optimizer gets in one step of `parts` micro-batches."""
    trained = Trainee(tiny_model().train().requires_grad_(), "adamw", 0.0, dtype)
    seen = {}
    trained.optimizer.step = lambda lr, adam_lr: (
        seen.update({name: p.grad.clone() for name, p in trained.model.named_parameters()}) or torch.tensor(0.0)
    )
    loss, _ = trained.step(TextBatch(ids_of(9, windows)), step=0, seed=0, lr=0.0, adam_lr=0.0, parts=parts)
    return loss, seen


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_micro_batches_give_the_gradient_of_the_whole_batch(parts):
    """Micro-batches may differ in size: a batch of six windows can have four micro-batches."""
    whole, part = gradient_of(1), gradient_of(parts)
    torch.testing.assert_close(part[0], whole[0])
    for name, gradient in whole[1].items():
        torch.testing.assert_close(part[1][name], gradient, msg=name)


def test_a_working_copy_in_bfloat16_gives_nearly_the_same_gradient():
    """bfloat16 has 8 bits of precision, so the directions agree to a few percent."""
    exact, rough = gradient_of(1)[1], gradient_of(1, torch.bfloat16)[1]
    for name, gradient in exact.items():
        assert rough[name].dtype == torch.float32
        cosine = torch.cosine_similarity(gradient.flatten(), rough[name].flatten(), 0)
        assert cosine > 0.97, name


def test_a_step_stopped_between_micro_batches_changes_nothing():
    trained = Trainee(tiny_model().train().requires_grad_(), "muon", 0.1, torch.bfloat16)
    before = [p.detach().clone() for p in trained.model.parameters()]
    assert (
        trained.step(TextBatch(ids_of(9, 4)), step=0, seed=0, lr=0.1, adam_lr=0.1, parts=4, stop=lambda: True) is None
    )
    for parameter, old in zip(trained.model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)
