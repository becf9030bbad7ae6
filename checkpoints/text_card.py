"""The measured part of the model card of the stories, written by `card.py`.

It consists of the scores by attncli, transformers and the baselines; the best heads; and ten samples at the default
settings, with the share of copied text. The folder of the texts contains the training texts and stories.val.txt.
"""

import json
import math
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


def measured(model: Path, texts: Path) -> str:
    """Returns the measured part of the card of a model that was trained on the texts of a folder."""
    corpus = corpus_of(model, texts)
    return "\n".join((scores(model, texts, corpus), heads(model), samples(model, corpus)))


def told(*arguments: str) -> dict[str, Any]:
    """Returns the document that `attncli ARGUMENTS --json` prints."""
    command = [sys.executable, "-m", "attncli", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)


def by_transformers(model: Path, text: Path) -> float:
    """Returns the bits per byte of a text by transformers, in adjacent windows, with the lines between documents."""
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
    """Returns the table of bits per byte."""
    val = texts / "stories.val.txt"
    files = [f"--train-file={texts / name}" for name in TRAINED_ON]
    ours = {dtype: told("eval", str(model), str(val), "--dtype", dtype, *files) for dtype in ("float32", "int8")}
    beside = ours["float32"]["yardsticks"]
    part, whole = f"the first {beside['scored_bytes'] / 1000:.0f} kB", f"all {corpus.val.bytes / 1000:.0f} kB"
    counted, given = (
        f"the last {beside['counted_bytes'] / 1e6:.1f} MB",
        f"the last {beside['given_bytes'] / 1e6:.1f} MB",
    )
    all_of_it = f"on {whole}, given all {corpus.train.bytes / 1e6:.1f} MB of the training text"
    lines = (
        (
            f"this model, by `attncli eval`, on {beside['scored_of_bytes'] / 1000:.0f} kB",
            ours["float32"]["bits_per_byte"],
        ),
        ("this model with 8-bit weights, `--dtype int8`", ours["int8"]["bits_per_byte"]),
        ("this model, by transformers, which also counts the lines between texts", by_transformers(model, val)),
        (f"a 5-gram model of the same tokens, {all_of_it}", counted_all(corpus)),
        (f"a 5-gram model, on {part}, given {counted} of the training text", beside["ngram_bits_per_byte"]),
        (f"xz -9, on {part}, given {given} of the training text", beside["xz_bits_per_byte"]),
    )
    return "| bits per byte, lower is better | |\n| --- | --- |\n" + "".join(
        f"| {what} | {bits:.4f} |\n" for what, bits in lines
    )


def counted_all(corpus: Corpus) -> float:
    """Returns the bits per byte of the held-out text by a 5-gram model of the whole training text."""
    counted = NgramModel(corpus.train.ids, corpus.tokenizer.vocab_size)
    return -float(counted.log_probabilities(corpus.val.ids).sum()) / math.log(2) / corpus.val.bytes


def heads(model: Path) -> str:
    """Returns a sentence about the best heads of two kinds, measured by `attncli heads`."""
    kinds = told("heads", "-m", str(model), "--seed", "0")["kinds"]

    def best(kind: str, of: str = "") -> str:
        head = kinds[kind]["best"]
        chance = kinds[kind]["chance"][head["layer"]]
        return f"{head['layer']}.{head['head']} with {of}{head['score']:.2f} (chance {chance:.2f})"

    return (
        f"By `attncli heads -m stories --seed 0`, the best previous-token head is {best('previous', 'a score of ')}, "
        f"and the best induction head is {best('induction')}.\n"
    )


def corpus_of(model: Path, texts: Path) -> Corpus:
    """Returns the tokens of the training text and of the held-out text."""
    documents = read_documents([str(texts / name) for name in TRAINED_ON])
    held_out = read_documents([str(texts / "stories.val.txt")])
    return prepare(documents, CorpusConfig(), held_out, Tokenizer.load(model))


def samples(model: Path, corpus: Corpus) -> str:
    """Returns the samples of seeds 0 to 9, after the share of them that occurs in the training text."""
    made = [told("generate", "-m", str(model), "--seed", str(seed))["samples"][0] for seed in range(SAMPLES)]
    found = [measure_overlap(np.asarray(one["ids"]), corpus.train.ids) for one in made]
    # The held-out text begins with a novel and ends with short stories.
    novel, stories = (
        measure_overlap(ids, corpus.train.ids)
        for ids in (corpus.val.ids[:_REAL_TOKENS], corpus.val.ids[-_REAL_TOKENS:])
    )
    return f"{_copied(found, novel, stories)}\n## All ten samples, none selected\n\n" + "\n".join(
        f"Seed {seed}:\n\n{_quoted(one['text'])}" for seed, one in enumerate(made)
    )


def _copied(found: list[Overlap], novel: Overlap, stories: Overlap) -> str:
    lengths, shares = [one.length for one in found], [one.new / max(one.windows, 1) for one in found]
    return (
        f"The {len(found)} texts below were sampled at the default settings. The longest passage of a text that also "
        f"occurs in the training text has {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.1f} "
        f"on average. {min(shares):.0%} to {max(shares):.0%} of the 8-token windows of a text do not occur in the "
        f"training text. For held-out real text, the share is {stories.new / stories.windows:.1%} in short stories "
        f"and {novel.new / novel.windows:.1%} in the novel.\n"
    )


def _quoted(text: str) -> str:
    return "".join(f"> {line}".rstrip() + "\n" for line in text.strip().split("\n"))
