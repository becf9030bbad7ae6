"""Compares timed training with nanoGPT: wall clock of the command, and nats per character of the validation part.

usage: python benchmarks/train.py TEXT [--times 8s 1m 3m] [--rounds 3] [--nanogpt CHECKOUT]

The first nine tenths of the text are the training text. The whole last tenth is scored, in non-overlapping windows of
the model's context. transformers scores attncli's models from the saved directory. nanoGPT's own network scores its
model, which is trained with the CPU recipe of its README. The runs alternate; the table shows medians.
"""

import argparse
import math
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

RECIPE = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)


def wall_clock(*command: str, cwd: Path | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def nats(logits_of, ids: torch.Tensor, context: int) -> float:
    """Returns the negative log-probability in nats, summed over all tokens except the first."""
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            total += F.cross_entropy(logits_of(window[None, :-1]), window[1:], reduction="sum").item()
    return total


def ours(text: Path, length: str, folder: Path) -> tuple[float, float]:
    """Returns the seconds of `attncli train`, and the nats per character by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = folder / "model"
    seconds = wall_clock(
        sys.executable, "-m", "attncli", "train", str(text), "--time", length, "--out", str(model), "--force"
    )
    whole = text.read_bytes().decode()
    held_out = whole[len(whole) - round(len(whole) * 0.1) :]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = torch.tensor(AutoTokenizer.from_pretrained(model)(held_out, add_special_tokens=False)["input_ids"])
    context = network.config.max_position_embeddings
    return seconds, nats(lambda rows: network(rows).logits[0], ids, context) / len(held_out)


def nanogpt(text: Path, checkout: Path) -> tuple[float, float]:
    """Returns the seconds of nanoGPT, without preparing its character files, and its nats per character."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    whole = text.read_bytes().decode()
    characters = sorted(set(whole))
    ids = np.array([characters.index(c) for c in whole], np.uint16)
    split = len(ids) - round(len(ids) * 0.1)
    data = checkout / "data" / "shakespeare_char"
    ids[:split].tofile(data / "train.bin")
    ids[split:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(characters)}))  # else nanoGPT uses GPT-2's tokens
    seconds = wall_clock(sys.executable, "train.py", *RECIPE.split(), cwd=checkout)
    saved = torch.load(checkout / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    network = GPT(GPTConfig(**saved["model_args"])).eval()
    network.load_state_dict(saved["model"])
    held_out = torch.from_numpy(ids[split:].astype(np.int64))
    everything = torch.zeros(1, 1, dtype=torch.long)  # given targets, nanoGPT returns the logits of every position
    score = nats(lambda rows: network(rows, everything.expand_as(rows))[0][0], held_out, network.config.block_size)
    return seconds, score / len(held_out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--times", nargs="+", default=["8s", "1m", "3m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nanogpt", type=Path)
    given = parser.parse_args(arguments)
    results: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, result: tuple[float, float]) -> None:
        results.setdefault(name, []).append(result)
        print(f"{name}: {result[0]:.1f} s, {result[1]:.4f}", flush=True)

    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for length in given.times:
                note(f"attncli train --time {length}", ours(given.text, length, Path(folder)))
        if given.nanogpt is not None:
            note("nanoGPT, its CPU recipe", nanogpt(given.text, given.nanogpt))
    for name, rows in results.items():
        seconds, score = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:<28} {seconds:6.1f} s   {score:.4f} nats/character   {score / math.log(2):.3f} bits/character")


if __name__ == "__main__":
    main()
