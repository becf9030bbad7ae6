"""Checkpoints of a tiny model, as a training run writes them."""

import json
import os
import struct

import torch

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, State, write_checkpoint
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.models import ENCODER_DECODERS, tiny_model

CPU = torch.device("cpu")


def checkpoint(seed=0, step=0, state=True):
    model = tiny_model(seed, vocab_size=257)
    kept = State({"x": torch.full((3,), float(step))}, {"step": step}) if state else None
    run = {"step": step}
    return Checkpoint(
        model.config, model.state_dict(), byte_tokenizer(), 10, run, [{"kind": "step", "step": step}], kept
    )


def write_random_model(path, tokenizer, **switches):
    """Writes a tiny random model with the tokenizer's vocabulary to a model directory."""
    model = tiny_model(vocab_size=tokenizer.vocab_size, **switches)
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=1))


def write_random_translator(path, tokenizer, **switches):
    """Writes a tiny random encoder-decoder with the tokenizer's vocabulary to a model directory."""
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": tokenizer.vocab_size} | switches)
    ends = {"end_ids": frozenset({2}), "banned": frozenset({7}), "forced_end": 2}
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, 40, **ends))


def load(path):
    return load_model(path, CPU, torch.float32)


def without_manifest(path):
    (path / directory.MANIFEST).unlink()
    return path


def change_config(path, **changes):
    config = json.loads((path / directory.CONFIG).read_text())
    (without_manifest(path) / directory.CONFIG).write_text(json.dumps(config | changes))


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


def write_index(path, index):
    (path / directory.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}
