"""A small model that learns an artificial language: its words are renamed, and their order is reversed."""

from functools import cache

import torch

from attncli.model.transformer import Transformer, initialize
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.models import ENCODER_DECODERS, tiny_config

WORDS = ("dog", "cat", "man", "bird", "fish", "tree", "house", "river", "stone", "cloud", "road", "king")
RENAMED = ("hund", "katze", "mann", "vogel", "fisch", "baum", "haus", "fluss", "stein", "wolke", "weg", "könig")


def artificial_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Returns sentences of 3 to 6 different words, with their translations: word i is word -1 - i of the target."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        length = int(torch.randint(3, 7, (1,), generator=generator))
        chosen = torch.randperm(len(WORDS), generator=generator)[:length].tolist()
        pairs.append((" ".join(WORDS[at] for at in chosen), " ".join(RENAMED[at] for at in reversed(chosen))))
    return pairs


@cache
def artificial_tokenizer() -> Tokenizer:
    return train_pair_tokenizer([" ".join(pair) for pair in artificial_pairs(200)], "bpe", 320)


@cache
def trained_model(steps: int = 120) -> Transformer:
    """Returns a model of two encoder and two decoder layers that has learned the artificial language."""
    tokenizer = artificial_tokenizer()
    shape = {"vocab_size": tokenizer.vocab_size, "layers": 2, "context": 40, "feed_forward_width": 64}
    model = Transformer(tiny_config(**{**ENCODER_DECODERS["m2m100"], **shape}))
    initialize(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    pairs = [(tokenizer.encode(one), tokenizer.encode(other)) for one, other in artificial_pairs(4000, 1)]
    for step in range(steps):
        batch = [pairs[(32 * step + row) % len(pairs)] for row in range(32)]
        ids = padded([[*source, 2] for source, _ in batch], 1)
        labels = padded([[*target, 2] for _, target in batch], -1)
        inputs = padded([[2, *target] for _, target in batch], 1)
        loss = model.translation_loss(ids, ids != 1, inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def padded(rows, filler):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
