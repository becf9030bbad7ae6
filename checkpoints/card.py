"""Measures the model that ships, for its card: python checkpoints/card.py checkpoints/stories TEXTS

Writes what is between the lines "<!-- measured -->" and "<!-- end -->" of the model's README.md anew: its scores,
beside those of transformers and of the yardsticks, the best heads, and the first ten samples at the default settings
with what they copy. TEXTS holds the texts it was trained on, and stories.val.txt.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from attncli.config import CorpusConfig
from attncli.evaluation.memorization import Overlap, measure_overlap
from attncli.evaluation.ngram import NgramModel
from attncli.text.corpus import Corpus, prepare
from attncli.text.files import read_documents
from attncli.text.tokenizer import Tokenizer

TRAINED_ON = ("stories-simple.train.txt", "stories-novels.train.txt")
SAMPLES = 10
_REAL_TOKENS = 4096
_MEASURED = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- end -->)", re.DOTALL)


def told(*arguments: str) -> dict[str, Any]:
    """What `attncli ARGUMENTS --json` says."""
    command = [sys.executable, "-m", "attncli", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)


def by_transformers(model: Path, text: Path) -> float:
    """Bits per byte of a whole text, the lines that separate its documents included, in windows side by side."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    whole = text.read_bytes()
    ids = torch.tensor(AutoTokenizer.from_pretrained(model)(whole.decode(), add_special_tokens=False)["input_ids"])
    context, nats = network.config.max_position_embeddings, 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            nats += F.cross_entropy(network(window[None, :-1]).logits[0], window[1:], reduction="sum").item()
    return nats / math.log(2) / len(whole)


def scores(model: Path, texts: Path, corpus: Corpus) -> str:
    """The table of bits per byte."""
    val = texts / "stories.val.txt"
    files = [f"--train-file={texts / name}" for name in TRAINED_ON]
    ours = {dtype: told("eval", str(model), str(val), "--dtype", dtype, *files) for dtype in ("float32", "int8")}
    beside = ours["float32"]["yardsticks"]
    part, whole = f"the first {beside['scored_bytes'] / 1000:.0f} kB", f"all {corpus.val.bytes / 1000:.0f} kB"
    counted, given = (
        f"the last {beside['counted_bytes'] / 1e6:.1f} MB",
        f"the last {beside['given_bytes'] / 1e6:.1f} MB",
    )
    all_of_it = f"{whole}, given all {corpus.train.bytes / 1e6:.1f} MB of the training text"
    lines = (
        (f"this model, `attncli eval`, {beside['scored_of_bytes'] / 1000:.0f} kB", ours["float32"]["bits_per_byte"]),
        ("the same with weights of eight bits, `--dtype int8`", ours["int8"]["bits_per_byte"]),
        ("this model by transformers alone, which counts the lines between texts too", by_transformers(model, val)),
        (f"a 5-gram model of its tokens, {all_of_it}", counted_all(corpus)),
        (f"the same, {part}, given {counted} of it", beside["ngram_bits_per_byte"]),
        (f"xz -9, {part}, given {given} of it", beside["xz_bits_per_byte"]),
    )
    return "| bits per byte, less is better | |\n| --- | --- |\n" + "".join(
        f"| {what} | {bits:.4f} |\n" for what, bits in lines
    )


def counted_all(corpus: Corpus) -> float:
    """Bits per byte of the held-out text by a 5-gram model of the whole training text."""
    counted = NgramModel(corpus.train.ids, corpus.tokenizer.vocab_size)
    return -float(counted.log_probabilities(corpus.val.ids).sum()) / math.log(2) / corpus.val.bytes


def heads(model: Path) -> str:
    """The best heads of two kinds, by the command's own random texts."""
    kinds = told("heads", "-m", str(model), "--seed", "0")["kinds"]

    def best(kind: str) -> str:
        head = kinds[kind]["best"]
        chance = kinds[kind]["chance"][head["layer"]]
        return f"{head['layer']}.{head['head']} with {head['score']:.2f} (chance {chance:.2f})"

    return (
        f"Heads, `attncli heads -m stories --seed 0`: the best previous-token head is {best('previous')}, the best "
        f"induction head {best('induction')}.\n"
    )


def corpus_of(model: Path, texts: Path) -> Corpus:
    """The tokens of the training text and of what was held out."""
    documents = read_documents([str(texts / name) for name in TRAINED_ON])
    held_out = read_documents([str(texts / "stories.val.txt")])
    return prepare(documents, CorpusConfig(), held_out, Tokenizer.load(model))


def samples(model: Path, corpus: Corpus) -> str:
    """The texts of seeds 0 to 9, and what of them stands in the training text."""
    made = [told("generate", "-m", str(model), "--seed", str(seed))["samples"][0] for seed in range(SAMPLES)]
    found = [measure_overlap(np.asarray(one["ids"]), corpus.train.ids) for one in made]
    # The held-out text begins with a novel and ends with short stories.
    novel, stories = (
        measure_overlap(ids, corpus.train.ids)
        for ids in (corpus.val.ids[:_REAL_TOKENS], corpus.val.ids[-_REAL_TOKENS:])
    )
    return f"{_copied(found, novel, stories)}\n## All ten, nothing picked\n\n" + "\n".join(
        f"Seed {seed}:\n\n{_quoted(one['text'])}" for seed, one in enumerate(made)
    )


def _copied(found: list[Overlap], novel: Overlap, stories: Overlap) -> str:
    lengths, shares = [one.length for one in found], [one.new / max(one.windows, 1) for one in found]
    return (
        f"The {len(found)} texts below, at the default settings: the longest stretch that stands in the training text "
        f"has {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.1f} in the mean; of their windows "
        f"of 8 tokens {min(shares):.0%} to {max(shares):.0%} are new, and "
        f"{stories.new / stories.windows:.1%} of those of real short stories held out, "
        f"{novel.new / novel.windows:.1%} of those of the novel held out.\n"
    )


def _quoted(text: str) -> str:
    return "".join(f"> {line}".rstrip() + "\n" for line in text.strip().split("\n"))


def main() -> None:
    """Writes the card of the model named on the command line."""
    model, texts = Path(sys.argv[1]), Path(sys.argv[2])
    card = model / "README.md"
    page = card.read_text(encoding="utf-8")
    if len(_MEASURED.findall(page)) != 1:
        sys.exit(f"{card} has no place for what is measured: the lines <!-- measured --> and <!-- end -->.")
    corpus = corpus_of(model, texts)
    measured = "\n".join((scores(model, texts, corpus), heads(model), samples(model, corpus)))
    card.write_text(_MEASURED.sub(lambda _: f"\n{measured}\n", page), encoding="utf-8")


if __name__ == "__main__":
    main()
