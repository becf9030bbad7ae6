"""Compares a training step on pairs with a step of a decoder that has as many parameters: tokens per CPU second.

usage: python benchmarks/train_pairs.py PAIRS.tsv [--size 2x128] [--rounds 3] [--steps 2] [--dtype float32]

A token of a pair is a token of either side, without padding: the encoder or the decoder reads it. The decoder gets
windows of the same length as the mean sentence and of 256 tokens. All steps run on one thread, and the CPU time of the
process is counted, so that other programs do not change the figures. The rounds alternate; the table shows medians.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from attncli.config import CorpusConfig, ModelConfig, parse_size
from attncli.model.count import count_parameters
from attncli.model.device import DTYPES
from attncli.model.transformer import Transformer, initialize
from attncli.text.pair_corpus import prepare_pairs
from attncli.text.pairs import read_pairs
from attncli.training.shapes import pair_shape, shape
from attncli.training.step import Trainee
from attncli.training.tasks.base import Batch
from attncli.training.tasks.pairs import PairTask
from attncli.training.tasks.registry import task_of
from attncli.training.tasks.text import TextBatch

_BATCH = 2048  # padded tokens
_PAIRS = 5000  # the first pairs of the file


def size_of(config: ModelConfig) -> int:
    return sum(count_parameters(config).values())


def decoder_like(config: ModelConfig) -> ModelConfig:
    """Returns the decoder of the same width whose number of parameters is nearest."""
    shapes = (shape(layers, config.width, config.vocab_size, 256) for layers in range(1, 40))
    return min(shapes, key=lambda one: abs(size_of(one) - size_of(config)))


def seconds_of(trainee: Trainee, batches: list[Batch]) -> float:
    began = time.process_time()
    for step, batch in enumerate(batches):
        trainee.step(batch, step=step, seed=0, lr=0.0, adam_lr=0.0)
    return time.process_time() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--size", default="2x128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = read_pairs([given.pairs])
    corpus = prepare_pairs(pairs.take(np.arange(min(_PAIRS, len(pairs)))), CorpusConfig(vocab_size=2048))
    task = task_of(corpus)
    assert isinstance(task, PairTask)
    config = pair_shape(*parse_size(given.size), corpus.tokenizer.vocab_size, 256)
    decoder = decoder_like(config)
    batches = [task.batch(step, 0, 256, _BATCH) for step in range(given.steps)]
    tokens = sum(int((batch.tensors[0] != 1).sum()) + sum(batch.counts) for batch in batches)
    rows: dict[str, tuple[Trainee, list[Batch], int]] = {}

    def add(name: str, config: ModelConfig, batches: list[Batch], tokens: int) -> None:
        model = Transformer(config, dropout=0.1)
        initialize(model, torch.Generator().manual_seed(0))
        trainee = Trainee(model.train(), "muon", 0.1, DTYPES[given.dtype], smoothing=0.1, context=256)
        seconds_of(trainee, batches[:1])
        rows[f"{name}, {size_of(config):,} parameters"] = trainee, batches, tokens

    add("encoder-decoder", config, list(batches), tokens)
    mean = max(round(tokens / (2 * sum(len(batch.counts) for batch in batches))), 2)
    for length in (mean, 256):
        windows = [TextBatch(torch.randint(config.vocab_size, (_BATCH // length, length + 1))) for _ in batches]
        add(f"decoder, windows of {length}", decoder, list(windows), len(batches) * (_BATCH // length) * length)
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(given.rounds):
        for name, (trainee, made, count) in rows.items():
            found[name].append(count / seconds_of(trainee, made))
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):,.0f} tokens per CPU second")


if __name__ == "__main__":
    main()
