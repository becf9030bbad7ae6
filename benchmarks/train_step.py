"""Compares a training step in C with one by PyTorch's operations: tokens per second, in turns in one process.

usage: python benchmarks/train_step.py [--models 2x128 3x128 4x256 6x384 pairs] [--rounds 5] [--profile]
       python benchmarks/train_step.py --curves TEXT [--steps 1000]

Both sides take the same steps of the same model: 1,024 random tokens of a vocabulary of 1,024, in windows of 256.
`pairs` is an encoder-decoder of 3 + 3 layers of width 192; its tokens are those of both sides. The table shows medians
over all steps, and the median of the ratios of the rounds. Use an idle machine. With --profile, prints the time of each
operation in C.

With --curves TEXT, trains a model (2 x 128, dropout 0.1) on the bytes of a text by both sides, from the same weights on
the same windows, and prints the largest difference of their mean losses over 20 steps.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from attncli.model.kernels import Kernels
from attncli.model.transformer import Transformer, initialize
from attncli.training.shapes import pair_shape, shape
from attncli.training.step import Trainee
from attncli.training.tasks.base import Batch
from attncli.training.tasks.pairs import PairTensors
from attncli.training.tasks.text import TextBatch

VOCABULARY, CONTEXT, TOKENS = 1024, 256, 1024
PAIR_LAYERS, PAIR_WIDTH, PAIR_VOCABULARY, PAIRS, PAIR_LENGTH = 3, 192, 2048, 32, 32
WARM_UP, LEAST_SECONDS = 2, 1.0  # steps; of a turn
REPORT_STEPS = 20


def case(name: str) -> tuple[Transformer, Batch, int]:
    """Returns the model, its batch and the number of tokens of a step."""
    generator = torch.Generator().manual_seed(0)
    if name == "pairs":
        model = Transformer(pair_shape(PAIR_LAYERS, PAIR_WIDTH, PAIR_VOCABULARY, CONTEXT))
        sides = torch.randint(0, PAIR_VOCABULARY, (2, PAIRS, PAIR_LENGTH), generator=generator)
        batch: Batch = PairTensors((sides[0], None, sides[1], sides[1].roll(-1, 1)), (PAIR_LENGTH,) * PAIRS)
        tokens = 2 * PAIRS * PAIR_LENGTH
    else:
        layers, width = map(int, name.split("x"))
        model, tokens = Transformer(shape(layers, width, VOCABULARY, CONTEXT)), TOKENS
        batch = TextBatch(torch.randint(0, VOCABULARY, (TOKENS // CONTEXT, CONTEXT + 1), generator=generator))
    initialize(model, torch.Generator().manual_seed(0))
    return model.train(), batch, tokens


def turn(trainee: Trainee, batch: Batch) -> list[float]:
    """Returns the seconds of the steps of a turn."""
    times: list[float] = []
    while len(times) < WARM_UP + 3 or sum(times) < LEAST_SECONDS:
        began = time.perf_counter()
        trainee.step(batch, step=len(times), seed=0, lr=0.001, adam_lr=0.001)
        times.append(time.perf_counter() - began)
    return times[WARM_UP:]


def profile(trainee: Trainee, batch: Batch) -> None:
    """Prints the milliseconds of a step that each operation in C takes."""
    spent: dict[str, list[float]] = {}

    def timed(name, function):
        def call(*arguments, **named):
            began = time.perf_counter()
            result = function(*arguments, **named)
            spent.setdefault(name, []).append(time.perf_counter() - began)
            return result

        return call

    names = [name for name in vars(Kernels) if not name.startswith("_")]
    own = {name: getattr(Kernels, name) for name in names}
    for name, function in own.items():
        setattr(Kernels, name, timed(name, function))
    steps = 10
    began = time.perf_counter()
    for step in range(steps):
        trainee.step(batch, step=step, seed=0, lr=0.001, adam_lr=0.001)
    whole = (time.perf_counter() - began) / steps
    for name, times in sorted(spent.items(), key=lambda item: -sum(item[1])):
        print(f"  {name:<20} {1000 * sum(times) / steps:8.2f} ms in {len(times) // steps:4} calls")
    print(f"  {'outside of C':<20} {1000 * (whole - sum(map(sum, spent.values())) / steps):8.2f} ms")
    for name, function in own.items():
        setattr(Kernels, name, function)


def compare_curves(text: Path, steps: int) -> None:
    """Prints the largest difference of the losses of both sides, over reports of 20 steps."""
    ids = torch.frombuffer(bytearray(text.read_bytes()), dtype=torch.uint8).long()
    model = Transformer(shape(2, 128, 256, 128), 0.1)
    initialize(model, torch.Generator().manual_seed(0))
    sides = [
        Trainee(copy.deepcopy(model).train(), "muon", 0.1, torch.float32, context=128, native=native)
        for native in (False, True)
    ]
    sums, differences, means = [0.0, 0.0], [], [0.0, 0.0]
    for step in range(steps):
        starts = torch.randint(0, len(ids) - 128, (4,), generator=torch.Generator().manual_seed(step))
        batch = TextBatch(torch.stack([ids[at : at + 129] for at in starts.tolist()]))
        rate = 0.03 * (1 - step / steps)
        for side, trainee in enumerate(sides):
            outcome = trainee.step(batch, step=step, seed=0, lr=rate, adam_lr=rate / 10)
            assert outcome is not None
            sums[side] += outcome[0].item()
        if step % REPORT_STEPS == REPORT_STEPS - 1:
            means, sums = [total / REPORT_STEPS for total in sums], [0.0, 0.0]
            differences.append(abs(means[0] - means[1]))
    largest = max(differences, default=0.0)
    print(
        f"{len(differences)} reports, the last {means[0]:.4f} and {means[1]:.4f} nats: differ by at most {largest:.4f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["2x128", "3x128", "4x256", "6x384", "pairs"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args(arguments)
    if given.curves is not None:
        compare_curves(given.curves, given.steps)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in given.models:
        model, batch, tokens = case(name)
        ours = Trainee(copy.deepcopy(model), "muon", 0.1, torch.float32, context=CONTEXT)
        theirs = Trainee(model, "muon", 0.1, torch.float32, context=CONTEXT, native=False)
        turns = [(turn(theirs, batch), turn(ours, batch)) for _ in range(given.rounds)]
        before, after = (statistics.median(chain.from_iterable(one[side] for one in turns)) for side in (0, 1))
        ratio = statistics.median(statistics.median(a) / statistics.median(b) for a, b in turns)
        parameters = sum(one.numel() for one in model.parameters())
        work = 6 * parameters * tokens / (2 if name == "pairs" else 1)  # a token is read by one of the two stacks
        print(
            f"{name:>6}  {parameters / 1e6:5.2f} M  PyTorch {1000 * before:7.1f} ms {tokens / before:7.0f} tokens/s   "
            f"C {1000 * after:7.1f} ms {tokens / after:7.0f} tokens/s   {ratio:.2f} times   "
            f"{work / after / 1e9:.0f} GFLOP/s of 6 x parameters x tokens",
            flush=True,
        )
        if given.profile:
            profile(ours, batch)


if __name__ == "__main__":
    main()
