"""Measures training and decoding steps on a GPU, and its copy bandwidth and matrix product rate for comparison.

usage: python benchmarks/gpu.py [--device cuda] [--eager]

The percentage of a training step is its share of the matrix product rate, counting 6 operations for each parameter and
token, and 6 x layers x width x context for each token of causal attention. "Step" is a recorded decoding step alone.
"Read" is the same step with its token copied to the GPU and the most probable token copied back. Weights are random and
in bfloat16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from generate import PROMPT, prompt, tokenizer_of

from attncli.config import ModelConfig, SampleConfig
from attncli.generation.engine import EngineConfig, generate
from attncli.model.backend import Segment, TorchBackend
from attncli.model.transformer import Transformer, initialize
from attncli.training.shapes import shape
from attncli.training.step import Trainee
from attncli.training.tasks.text import TextBatch

# Layers, width, vocabulary, context, windows, dropout.
TRAINED = (
    (5, 256, 4096, 512, 32, 0.1),
    (5, 256, 4096, 512, 64, 0.1),
    (5, 256, 4096, 512, 128, 0.1),
    (8, 224, 4096, 512, 64, 0.1),
    (12, 768, 32000, 1024, 32, 0.0),
)
GENERATED = ((6, 384, 4096), (20, 2048, 32000))  # layers, width, vocabulary
NEW = 256


def seconds_of(work: Callable[[], object], repeated: int) -> float:
    for _ in range(3):
        work()
    synchronize()
    began = time.perf_counter()
    for _ in range(repeated):
        work()
    synchronize()
    return (time.perf_counter() - began) / repeated


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceilings(device: str) -> float:
    """Prints the copy bandwidth and the matrix product rate; returns the latter in operations per second."""
    side, size = (8192, 1 << 32) if device == "cuda" else (512, 1 << 26)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * side**3 / seconds_of(lambda: left @ right, 20)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / seconds_of(lambda: target.copy_(source), 20)
    print(f"a matrix product {rate / 1e12:.0f} TFLOP/s, a copy {copied / 1e12:.2f} TB/s", flush=True)
    return rate


def train(
    device: str, rate: float, eager: bool, layers: int, width: int, vocabulary: int, context: int, windows: int,
    dropout: float,
) -> None:  # fmt: skip
    config = shape(layers, width, vocabulary, context)
    for compiled in (False,) if eager else (False, True):
        model = Transformer(config, dropout)
        initialize(model, torch.Generator().manual_seed(0))
        trainee = Trainee(model.to(device).train(), "muon", 0.1, torch.bfloat16, compiled=compiled)
        rows = torch.randint(vocabulary, (windows, context + 1), device=device)
        began = time.perf_counter()
        trainee.step(TextBatch(rows), step=0, seed=0, lr=0.01, adam_lr=0.001)
        synchronize()
        first = time.perf_counter() - began

        def step(trainee: Trainee = trainee, rows: torch.Tensor = rows) -> object:
            return trainee.step(TextBatch(rows), step=1, seed=0, lr=0.01, adam_lr=0.001)

        seconds = seconds_of(step, 20)
        tokens, parameters = windows * context, sum(weight.numel() for weight in model.parameters())
        operations = 6 * tokens * (parameters + layers * width * context)
        print(
            f"{layers} x {width}, vocabulary {vocabulary}, {windows} windows of {context}"
            f"{', compiled' if compiled else ''}: {seconds * 1e3:.1f} ms, {tokens / seconds / 1e6:.2f} M tokens/s, "
            f"{operations / seconds / rate:.0%} of the matrix rate; the first {first:.0f} s",
            flush=True,
        )


def write(device: str, layers: int, width: int, vocabulary: int) -> None:
    config = ModelConfig(
        vocab_size=vocabulary, layers=layers, width=width, heads=width // 64, kv_heads=width // 64, head_width=64,
        feed_forward_width=(width * 8 // 3 + 31) // 32 * 32, context=1024, qk_norm=False,
    )  # fmt: skip
    with torch.device(device):
        model = Transformer(config).to(torch.bfloat16)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, 0.02)
    backend, tokenizer = TorchBackend(model), tokenizer_of(vocabulary)
    told = []
    for temperature in (0.0, 0.8):
        settings = SampleConfig(temperature=temperature, max_new_tokens=NEW)

        def made(settings: SampleConfig = settings) -> object:
            how = EngineConfig(lookup=False)
            given = [prompt(PROMPT, vocabulary)]
            return list(generate(backend, tokenizer, given, settings, frozenset(), how=how))

        told.append(f"{NEW / seconds_of(made, 3):.0f} tokens/s at {temperature}")
    cache = backend.new_cache(1)
    backend.read(cache, [Segment(0, 0, prompt(100, vocabulary))])
    read = seconds_of(lambda: backend.read(cache, [Segment(0, 100, [5])]).argmax(-1).tolist(), 100)
    told.append(f"read {read * 1e3:.2f} ms")
    if backend._recorded is not None:
        told.append(f"step {seconds_of(backend._recorded._graph.replay, 100) * 1e3:.2f} ms")
    weights = sum(weight.nbytes for weight in model.parameters())
    print(f"{layers} x {width}, {weights / 2e6:.0f} M parameters: {', '.join(told)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--eager", action="store_true", help="leaves torch.compile out")
    given = parser.parse_args(arguments)
    device = given.device
    torch.manual_seed(0)
    rate = ceilings(device)
    for written in GENERATED:
        write(device, *written)
    for trained in TRAINED:
        train(device, rate, given.eager, *trained)


if __name__ == "__main__":
    main()
