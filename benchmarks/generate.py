"""Compares generation with transformers and llama.cpp on the same random weights: medians of alternating rounds.

usage: python benchmarks/generate.py [--device cpu] [--shapes 6x384x4096 12x768x32000] [--rounds 5] [--threads 2]
       [--only NAME …]

Each tool runs in its own process, which waits while another tool is measured. Batch 1 generates 256 tokens greedily
after a prompt of 32 tokens. Batch 16 samples 128 tokens for each of 16 sequences at temperature 1. The third
measurement is the prefill of a prompt of 512. Prompt lookup is off, because random weights repeat themselves, which
would make it look too good. llama.cpp's batches are not measured. With --device cuda the tools are attncli and
transformers, and the table has the bandwidth: the bytes of the weights times the tokens per second of batch 1, as a
share of the bytes that a copy reads and writes per second.
Needs the `bench` extra: transformers, llama-cpp-python.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer

PROMPT, NEW, BATCH, BATCH_NEW, LONG = 32, 256, 16, 128, 512
TOOLS = (
    "attncli float32",
    "attncli bfloat16",
    "attncli int8",
    "attncli PyTorch",
    "transformers float32",
    "transformers bfloat16",
    "llama.cpp float32",
    "llama.cpp bfloat16",
)
CPU_SHAPES = ("6x384x4096", "12x768x32000")
CUDA_TOOLS = ("attncli bfloat16", "attncli float32", "transformers bfloat16", "transformers float32")
CUDA_SHAPES = ("6x384x4096", "20x2048x32000")
Measure = Callable[[], float]  # runs once and returns tokens per second


def prompt(length: int, vocabulary: int) -> list[int]:
    return [(i * 7919 + 13) % min(vocabulary, 4096) for i in range(length)]


def per_second(tokens: int, work: Callable[[], object]) -> Measure:
    def once() -> float:
        began = time.perf_counter()
        work()
        return tokens / (time.perf_counter() - began)

    return once


def attncli(folder: Path, kind: str, threads: int, device: str) -> tuple[dict[str, Measure], list[int]]:
    from attncli.cli.process import limit_spinning

    limit_spinning()  # as the command line does
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.config import SampleConfig
    from attncli.generation.engine import EngineConfig, generate
    from attncli.generation.events import Finished
    from attncli.model.backend import Segment, TorchBackend
    from attncli.model.native import NativeBackend

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    loaded = load_model(folder, torch.device(device), dtype)
    in_c = device == "cpu" and kind != "PyTorch"
    made = NativeBackend(loaded.model, int8=kind == "int8") if in_c else TorchBackend(loaded.model)
    vocabulary = made.config.vocab_size

    def ids(length: int, new: int, samples: int, temperature: float) -> list[tuple[int, ...]]:
        config = SampleConfig(temperature=temperature, min_p=0, max_new_tokens=new, num_samples=samples)
        events = generate(
            made, loaded.tokenizer, [prompt(length, vocabulary)], config, frozenset(), how=EngineConfig(lookup=False)
        )
        return [event.ids for event in events if isinstance(event, Finished)]

    def read() -> None:
        made.read(made.new_cache(1), [Segment(0, 0, prompt(LONG, vocabulary))])[0, 0].item()

    measures = {
        "batch 1": per_second(NEW, lambda: ids(PROMPT, NEW, 1, 0)),
        "batch 16": per_second(BATCH * BATCH_NEW, lambda: ids(PROMPT, BATCH_NEW, BATCH, 1)),
        "prompt": per_second(LONG, read),
    }
    return measures, list(ids(PROMPT, NEW, 1, 0)[0])


def transformers(folder: Path, kind: str, threads: int, device: str) -> tuple[dict[str, Measure], list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, kind)).eval().to(device)
    vocabulary = model.config.vocab_size
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def ids(length: int, new: int, samples: int, sample: bool) -> torch.Tensor:
        given = torch.tensor([prompt(length, vocabulary)] * samples, device=device)
        mask = torch.ones_like(given)
        more = {"temperature": 1.0, "top_k": 0} if sample else {}
        return model.generate(
            given, attention_mask=mask, do_sample=sample, max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **more
        )[:, length:].cpu()

    @torch.inference_mode()
    def read() -> None:
        given = torch.tensor([prompt(LONG, vocabulary)], device=device)
        model(given, use_cache=True, logits_to_keep=1).logits[0, 0, 0].item()

    measures = {
        "batch 1": per_second(NEW, lambda: ids(PROMPT, NEW, 1, False)),
        "batch 16": per_second(BATCH * BATCH_NEW, lambda: ids(PROMPT, BATCH_NEW, BATCH, True)),
        "prompt": per_second(LONG, read),
    }
    return measures, ids(PROMPT, NEW, 1, False)[0].tolist()


def llama(folder: Path, kind: str, threads: int, device: str) -> tuple[dict[str, Measure], list[int]]:
    import numpy as np
    from llama_cpp import Llama

    model = Llama(
        str(gguf(folder, kind)), n_ctx=1024, n_batch=LONG, n_ubatch=LONG, n_threads=threads, n_threads_batch=threads,
        verbose=False,
    )  # fmt: skip
    vocabulary = model.n_vocab()

    def logits() -> np.ndarray:
        return np.ctypeslib.as_array(model._ctx.get_logits_ith(-1), shape=(vocabulary,))

    def ids() -> list[int]:
        model.reset()
        model.eval(prompt(PROMPT, vocabulary))
        made = [int(logits().argmax())]
        while len(made) < NEW:
            model.eval(made[-1:])
            made.append(int(logits().argmax()))
        return made

    def read() -> None:
        model.reset()
        model.eval(prompt(LONG, vocabulary))

    return {"batch 1": per_second(NEW, ids), "prompt": per_second(LONG, read)}, ids()


def gguf(folder: Path, kind: str) -> Path:
    """Writes the model as a GGUF file, as `attncli export` does, and returns its path."""
    import torch

    from attncli.checkpoint.gguf.export import plan_export, write_export
    from attncli.checkpoint.load import load_model

    path = folder / f"{kind}.gguf"
    loaded = load_model(folder, torch.device("cpu"), torch.float32)
    with path.open("wb") as file:
        write_export(file, plan_export(loaded, kind), loaded.model.state_dict())
    return path


def copied_per_second() -> float:
    """Returns the bytes that a large copy on the GPU reads and writes per second."""
    import torch

    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for _ in range(20):
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return 2 * source.nbytes / statistics.median(seconds)


def work(tool: str, folder: Path, threads: int, device: str) -> None:
    """Runs in the process of a tool: makes one measurement for each line of standard input."""
    name, kind = tool.split()
    tools = {"attncli": attncli, "transformers": transformers, "llama.cpp": llama}
    measures, ids = tools[name](folder, kind, threads, device)
    for measure in measures.values():
        measure()
    print(json.dumps({"measures": list(measures), "ids": ids}), flush=True)
    for line in sys.stdin:
        print(measures[line.strip()](), flush=True)


def tokenizer_of(vocabulary: int) -> Tokenizer:
    """Returns a tokenizer of this vocabulary size: all bytes, and tokens of three letters."""
    made = json.loads(byte_tokenizer().to_json())
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    words = ("".join(word) for word in itertools.product(letters, repeat=3))
    made["model"]["vocab"] |= {word: 257 + i for i, word in zip(range(vocabulary - 257), words, strict=False)}
    return Tokenizer.from_json(json.dumps(made))


def write_model(folder: Path, shape: str) -> tuple[float, int]:
    """Writes random Llama weights. Returns the parameters in millions, and the bytes of bfloat16 weights per token."""
    import torch

    from attncli.checkpoint.save import Checkpoint, write_checkpoint
    from attncli.config import ModelConfig
    from attncli.model.transformer import Transformer, initialize

    layers, width, vocabulary = map(int, shape.split("x"))
    config = ModelConfig(
        vocab_size=vocabulary, layers=layers, width=width, heads=width // 64, kv_heads=width // 64, head_width=64,
        feed_forward_width=(width * 8 // 3 + 31) // 32 * 32, context=1024, qk_norm=False,
    )  # fmt: skip
    model = Transformer(config)
    initialize(model, torch.Generator().manual_seed(0))
    write_checkpoint(folder, Checkpoint(config, model.state_dict(), tokenizer_of(vocabulary), 256))
    count = sum(tensor.numel() for tensor in model.parameters())
    return count / 1e6, 2 * count


def compare(shape: str, tools: list[str], rounds: int, threads: int, device: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        millions, weights = write_model(folder, shape)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        workers, told = {}, {}
        for tool in tools:
            command = (
                sys.executable, __file__, "--work", tool, "--folder", str(folder), "--threads", str(threads),
                "--device", device,
            )  # fmt: skip
            workers[tool] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment,
            )  # fmt: skip
            told[tool] = json.loads(workers[tool].stdout.readline())
        speeds: dict[str, dict[str, list[float]]] = {tool: {} for tool in tools}
        for _ in range(rounds):
            for name in ("batch 1", "batch 16", "prompt"):
                for tool, worker in workers.items():
                    if name in told[tool]["measures"]:
                        print(name, file=worker.stdin, flush=True)
                        speeds[tool].setdefault(name, []).append(float(worker.stdout.readline()))
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    where = f"{threads} threads" if device == "cpu" else device
    print(f"\n{shape}: {millions:.1f} M parameters, {where}, medians of {rounds}, tokens per second")
    print(f"{'':<24}{'batch 1':>10}{'batch 16':>10}{'prompt 512':>12}   the same {NEW} tokens as the first row")
    first = told[tools[0]]["ids"]
    for tool in tools:
        row = "".join(
            f"{statistics.median(speeds[tool][name]):>{width},.0f}" if name in speeds[tool] else " " * width
            for name, width in (("batch 1", 10), ("batch 16", 10), ("prompt", 12))
        )
        same = next((i for i, (a, b) in enumerate(zip(first, told[tool]["ids"], strict=True)) if a != b), NEW)
        print(f"{tool:<24}{row}   {same}", flush=True)
    if device == "cuda" and "attncli bfloat16" in speeds:
        moved, copied = statistics.median(speeds["attncli bfloat16"]["batch 1"]) * weights, copied_per_second()
        print(f"attncli bfloat16 reads {moved / 1e12:.2f} TB/s; a copy moves {copied / 1e12:.2f}: {moved / copied:.0%}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--work")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.work, given.folder, given.threads, given.device)
        return
    tools, shapes = (TOOLS, CPU_SHAPES) if given.device == "cpu" else (CUDA_TOOLS, CUDA_SHAPES)
    for shape in given.shapes or shapes:
        compare(shape, given.only or list(tools), given.rounds, given.threads, given.device)


if __name__ == "__main__":
    main()
