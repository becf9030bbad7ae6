"""Checkpoints of a tiny model, as a training run writes them."""

import torch

from attncli.checkpoint.save import Checkpoint, State, write_checkpoint
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.models import tiny_model

CPU = torch.device("cpu")


def checkpoint(seed=0, step=0, state=True):
    model = tiny_model(seed, vocab_size=257)
    kept = State({"x": torch.full((3,), float(step))}, {"step": step}) if state else None
    run = {"step": step}
    return Checkpoint(
        model.config, model.state_dict(), byte_tokenizer(), 10, run, [{"kind": "step", "step": step}], kept
    )


def write_random_model(path, tokenizer, **switches):
    """Writes a tiny random model of that tokenizer's vocabulary to a model directory."""
    model = tiny_model(vocab_size=tokenizer.vocab_size, **switches)
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=1))
