"""Compares attncli with llama.cpp on the same GGUF files, for models that are trained here on a text.

usage: python -m tests.campaign.llama --text FILE [--folder DIR] [--steps 60] [--only NAME …] [--time 60]

Every model is written as float32 and as q8_0. In float32, a greedy text of 128 tokens must have the same ids in
attncli, from the directory and from the file, and in llama.cpp, which reads the prompt with its own tokenizer. The
bits per byte of q8_0 must be within 0.01 of those of float32. `fresh` is a new model with a new vocabulary, trained
for --time seconds; the others have random weights of a family's shape, and are trained for --steps steps.

Then llama.cpp quantizes `fresh` to each of its types, and dequantizes the result again. attncli must read the same
weights from both files, to the last bit, and its greedy text is compared with that of llama.cpp, which also rounds the
inputs of every matrix and so may differ.
Needs llama-cpp-python. LLAMA_CPP_LIB_PATH may name the folder of its libraries.
"""

import argparse
import ctypes
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import llama_cpp
import torch

import attncli
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.main import run
from attncli.config import ModelConfig, RopeScaling
from attncli.errors import AttnError
from attncli.model.transformer import Transformer, initialize
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import FAMILIES

NEW, CONTEXT, ALLOWED = 128, 256, 0.01
PROMPT = "One day, the old man said:"
PLAIN = {"qk_norm": False}
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=64, low_frequency=1.5)
YARN = RopeScaling(kind="yarn", factor=4.0, original_context=64)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": PLAIN,
    "mistral-window": PLAIN | {"window": 192, "tied": False},
    "qwen2": PLAIN | {"qkv_bias": True},
    "gpt2": FAMILIES["gpt2"] | {"feed_forward_width": 1024},
    "gemma": FAMILIES["gemma"] | {"head_width": 64},
    "qwen3-untied-wide-heads": {"tied": False, "head_width": 128},
    "llama-narrow-heads": PLAIN | {"head_width": 32},
    "llama-biases": FAMILIES["llama-bias"],
    "llama-linear": PLAIN | {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "llama-llama3": PLAIN | {"rope_scaling": LLAMA3},
    "qwen3-yarn": {"rope_scaling": YARN},
    "qwen3-char": {},
    "qwen3-byte": {},
    "qwen3-extra-ids": {"vocab_size": 700},
    "qwen3-narrow": {"width": 48, "head_width": 16, "feed_forward_width": 80},  # no whole blocks: q8_0 is refused
}  # fmt: skip
QUANTIZED = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q8_0": 7, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_M": 17, "Q6_K": 18, "IQ3_XXS": 23, "IQ3_S": 26, "IQ4_NL": 25, "IQ4_XS": 30, "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip


def say(*words: object) -> None:
    print(*words, flush=True)


def write_random(path: Path, tokenizer: Tokenizer, switches: dict[str, Any]) -> None:
    """Writes a model with random weights."""
    shape = {
        "vocab_size": tokenizer.vocab_size, "layers": 2, "width": 256, "heads": 4, "kv_heads": 2, "head_width": 64,
        "feed_forward_width": 512, "context": CONTEXT,
    }  # fmt: skip
    config = ModelConfig(**{**shape, **switches})
    model, end = Transformer(config), tokenizer.end_of_text
    assert end is not None
    initialize(model, torch.Generator().manual_seed(1))
    ends = frozenset({end})
    write_checkpoint(path, Checkpoint(config, model.state_dict(), tokenizer, end, end_ids=ends))


def trained(name: str, folder: Path, text: Path, given: argparse.Namespace, tokenizers: dict[str, Tokenizer]) -> Path:
    """Returns the directory of a trained model, which an earlier call may have written."""
    path = folder / name
    if path.exists():
        return path
    settings: dict[str, Any] = {"seconds": given.time, "context": CONTEXT}
    if name != "fresh":
        kind = name.rpartition("-")[2]
        tokenizer = tokenizers.get(kind, tokenizers["bpe"])
        write_random(folder / f"{name}.start", tokenizer, SHAPES[name])
        settings = {
            "start": folder / f"{name}.start", "steps": given.steps, "batch_size": 8, "context": 64, "lr": 3e-3,
        }  # fmt: skip
    for _ in attncli.train([str(text)], out=path, dtype="float32", seed=1, **settings):
        pass
    return path


def exported(model: Path, dtype: str) -> Path:
    """Writes the GGUF file of a model; attncli asks llama.cpp whether it is right. Raises AttnError."""
    path = model.with_name(f"{model.name}.{dtype}.gguf")
    with redirect_stdout(io.StringIO()):
        code = run(["export", str(model), "--gguf", str(path), "--dtype", dtype, "--force", "--json"])
    if code:
        raise AttnError(f"attncli export refuses {model.name} as {dtype}")
    return path


def greedy_of_attncli(path: Path) -> list[int]:
    """Returns the ids of a greedy text, without the token that ends it."""
    sample = attncli.load(path, dtype="float32").generate_all(PROMPT, temperature=0, max_new_tokens=NEW, seed=1)[0]
    return list(sample.ids)


def greedy_of_llama(path: Path, text: str = PROMPT) -> list[int]:
    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_batch=CONTEXT, n_threads=1, n_threads_batch=1, verbose=False, type_k=0, type_v=0
    )
    ids: list[int] = []
    model.eval(model.tokenize(text.encode(), add_bos=True, special=False))
    while len(ids) < NEW:
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        best = int(torch.frombuffer((ctypes.c_float * model.n_vocab()).from_address(
            ctypes.addressof(logits.contents)), dtype=torch.float32).argmax())  # fmt: skip
        if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(model.model), best):
            break
        ids.append(best)
        model.eval([best])
    return ids


def common(one: list[int], other: list[int]) -> int:
    """Returns the number of equal tokens at the beginning of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (first, second) in pairs if first != second), min(len(one), len(other)))


def compare(model: Path, held_out: str) -> Iterator[str]:
    """Compares a model with its files and with llama.cpp. Yields what is wrong."""
    whole = exported(model, "float32")
    texts = greedy_of_attncli(model), greedy_of_attncli(whole), greedy_of_llama(whole)
    equal = [common(texts[0], other) for other in texts[1:]]
    say(f"{model.name:<26} {len(texts[0])} tokens, equal: {equal[0]} from the file, {equal[1]} in llama.cpp")
    if not texts[0] == texts[1] == texts[2]:
        yield f"{model.name}: other greedy texts"
    config = load_model(model, torch.device("cpu"), None).model.config
    if config.width % 32:
        say(f"{'':<26} q8_0 is refused: {run(['export', str(model), '--gguf', 'x.gguf', '--dtype', 'q8_0']) == 2}")
        return
    small = exported(model, "q8_0")
    bits = [attncli.load(path, dtype="float32").score(held_out).bits_per_byte for path in (model, whole, small)]
    say(f"{'':<26} bits per byte {bits[0]:.4f}, float32 {bits[1]:.4f}, q8_0 {bits[2] - bits[1]:+.6f}")
    shorter = config.window is not None  # the context of the file is the window
    if (bits[0] != bits[1] and not shorter) or abs(bits[2] - bits[1]) > ALLOWED:
        yield f"{model.name}: bits per byte {bits}"


def quantize(source: Path, target: Path, kind: int) -> bool:
    """Has llama.cpp write another type. Returns whether it does."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.allow_requantize = kind, 1, True
    return llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)) == 0


def compare_quantized(whole: Path, name: str, kind: int, held_out: str) -> Iterator[str]:
    """Compares the weights that attncli and llama.cpp dequantize. Yields what is wrong."""
    small, again = whole.with_name(f"{name}.gguf"), whole.with_name(f"{name}.again.gguf")
    if not quantize(whole, small, kind):
        say(f"{name:<10} llama.cpp does not write it, without a matrix of importances")
        return
    assert quantize(small, again, 0)
    ours, theirs = (load_model(path, torch.device("cpu"), torch.float32).model.state_dict() for path in (small, again))
    exact = sum(torch.equal(ours[part], theirs[part]) for part in ours)
    texts = greedy_of_attncli(small), greedy_of_llama(small)
    bits = attncli.load(small, dtype="float32").score(held_out).bits_per_byte
    say(
        f"{name:<10} {small.stat().st_size / 1e6:6.2f} MB, {exact} of {len(ours)} tensors equal, "
        f"bits per byte {bits:.4f}, {common(*texts)} of {len(texts[0])} greedy tokens as in llama.cpp"
    )
    again.unlink()
    if exact < len(ours):
        yield f"{name}: other weights than llama.cpp's"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--time", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=["fresh", *SHAPES, *QUANTIZED])
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    text = given.text.read_text(encoding="utf-8")
    held_out, train = text[-6000:], folder / "train.txt"
    train.write_text(text[:-6000])
    excerpt = text[:100_000]
    sizes = {"bpe": 512, "char": None, "byte": None}
    tokenizers = {kind: train_tokenizer([excerpt], kind, size) for kind, size in sizes.items()}
    wrong: list[str] = []

    def check(work: Callable[[], Iterator[str]], name: str) -> None:
        try:
            wrong.extend(work())
        except Exception as problem:  # a campaign goes on after a failure
            wrong.append(f"{name}: {problem}")
            traceback.print_exc()

    for name in (name for name in ("fresh", *SHAPES) if name in given.only):
        check(lambda name=name: compare(trained(name, folder, train, given, tokenizers), held_out), name)
    for name in (name for name in QUANTIZED if name in given.only):
        whole = exported(trained("fresh", folder, train, given, tokenizers), "float32")
        check(lambda name=name, whole=whole: compare_quantized(whole, name, QUANTIZED[name], held_out), name)
    say(json.dumps({"wrong": wrong}, indent=2))
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
