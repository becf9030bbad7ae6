"""Compares the speed of translation with transformers and CTranslate2 on the same weights, in float32.

usage: python benchmarks/translate.py --model DIR --pairs FILE [--count 1000] [--batch 32] [--beams 1] [--rounds 3]
       [--threads 2] [--only NAME …]

Translates the first sources of a file of pairs: tab-separated, the source first; .xz is read too. Each tool runs in its
own process, which waits while another tool is measured. The rounds alternate; the table shows medians. Sources are
sorted by length for every tool, because padding costs time only there. The last column is the share of texts whose ids
equal those of the first tool.
Needs transformers. CTranslate2 (`pip install ctranslate2`) is measured if it is installed; its converter reads the
model's directory.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

MOST = 100  # tokens of a translation
TOOLS = ("attncli C", "attncli PyTorch", "transformers", "CTranslate2")
Ids = list[list[int]]
Translate = Callable[[Ids], Ids]  # sources -> translations, without start and end tokens


def attncli(folder: Path, in_c: bool, batch: int, beams: int, threads: int) -> Translate:
    from attncli.cli.process import limit_spinning

    limit_spinning()  # as the command line does
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.config import EngineConfig, SampleConfig
    from attncli.generation.defaults import settings_for
    from attncli.generation.engine import generate
    from attncli.generation.samples import samples_of
    from attncli.model.backend import TorchBackend
    from attncli.model.native import NativeBackend

    torch.set_num_threads(threads)
    loaded = load_model(folder, torch.device("cpu"), torch.float32)
    backend = NativeBackend(loaded.model) if in_c else TorchBackend(loaded.model)
    config = settings_for(loaded, SampleConfig(beams=beams, max_new_tokens=MOST), ())
    how = EngineConfig(at_once=batch * beams, streamed=False)

    def translate(texts: Ids) -> Ids:
        prompts, sources = loaded.inputs(texts)
        samples = samples_of(
            generate(backend, loaded.tokenizer, prompts, config, loaded.end_ids, how=how, sources=sources)
        )
        return [[id_ for id_ in sample.ids if id_ not in loaded.end_ids] for sample in samples]

    return translate


def transformers(folder: Path, batch: int, beams: int, threads: int) -> Translate:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch.set_num_threads(threads)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    pad, end = model.config.pad_token_id, model.generation_config.eos_token_id

    @torch.inference_mode()
    def translate(texts: Ids) -> Ids:
        found: Ids = []
        for at in range(0, len(texts), batch):
            part = texts[at : at + batch]
            longest = max(map(len, part))
            ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in part])
            mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in part])
            rows = model.generate(ids, attention_mask=mask, num_beams=beams, do_sample=False, max_new_tokens=MOST)
            for row in rows[:, 1:].tolist():
                found.append(row[: row.index(end)] if end in row else [id_ for id_ in row if id_ != pad])
        return found

    return translate


def ctranslate2(folder: Path, batch: int, beams: int, threads: int) -> Translate:
    import ctranslate2 as library
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as target:
        TransformersConverter(str(folder)).convert(target, force=True)
        names = json.loads((Path(target) / "shared_vocabulary.json").read_text(encoding="utf-8"))
        model = library.Translator(target, compute_type="float32", intra_threads=threads)
    numbers = {name: id_ for id_, name in enumerate(names)}

    def translate(texts: Ids) -> Ids:
        results = model.translate_batch(
            [[names[id_] for id_ in text] for text in texts], max_batch_size=batch, beam_size=beams,
            max_decoding_length=MOST,
        )  # fmt: skip
        return [[numbers[name] for name in result.hypotheses[0]] for result in results]

    return translate


def tool_named(name: str, folder: Path, batch: int, beams: int, threads: int) -> Translate:
    if name.startswith("attncli"):
        return attncli(folder, name == "attncli C", batch, beams, threads)
    return {"transformers": transformers, "CTranslate2": ctranslate2}[name](folder, batch, beams, threads)


def sources(folder: Path, file: Path, count: int) -> Ids:
    """Returns the ids of the first sources of a file, the shortest first."""
    from attncli.checkpoint.directory import ModelFolder

    tokenizer = ModelFolder(folder).tokenizer()
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        texts = [line.split("\t")[0].rstrip("\n") for line, _ in zip(lines, range(count), strict=False)]
    return sorted(([*tokenizer.opening, *tokenizer.encode(text), *tokenizer.closing] for text in texts), key=len)


def work(name: str, given: argparse.Namespace) -> None:
    """Runs in the process of a tool: translates all sources for each line of standard input."""
    translate = tool_named(name, given.model, given.batch, given.beams, given.threads)
    texts = sources(given.model, given.pairs, given.count)
    translate(texts[: given.batch])
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        found = translate(texts)
        print(json.dumps({"seconds": time.perf_counter() - began, "ids": found}), flush=True)


def measure(names: Sequence[str], given: argparse.Namespace) -> None:
    command = [sys.executable, __file__, *sys.argv[1:], "--work"]
    started = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    }
    for tool in started.values():
        while tool.stdout.readline().strip() != "ready":
            if tool.poll() is not None:
                sys.exit(f"a tool failed: {tool.args[-1]}")
    rounds: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name, tool in started.items():
            print("once", file=tool.stdin, flush=True)
            rounds[name].append(json.loads(tool.stdout.readline()))
    for tool in started.values():
        tool.stdin.close()
        tool.wait()
    first = rounds[names[0]][0]["ids"]
    print(f"{len(first)} texts, batch {given.batch}, {given.beams} beams, {given.threads} threads, float32")
    print("| tool | seconds | each | texts a second | same ids |\n| --- | --- | --- | --- | --- |")
    for name, found in rounds.items():
        seconds = [one["seconds"] for one in found]
        same = sum(one == other for one, other in zip(first, found[0]["ids"], strict=True)) / len(first)
        each, middle = ", ".join(f"{one:.2f}" for one in seconds), statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {each} | {len(first) / middle:.1f} | {same:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    for name, default in (("count", 1000), ("batch", 32), ("beams", 1), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="+", choices=TOOLS)
    parser.add_argument("--work", choices=TOOLS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given)
    else:
        there = [name for name in TOOLS if name != "CTranslate2" or find_spec("ctranslate2")]
        measure(given.only or there, given)


if __name__ == "__main__":
    main()
