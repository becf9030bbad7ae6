"""Writes the model card (README.md) of a run from the run's record, for readers and for the Hugging Face hub.

A card ends with a digest of its text. If the digest does not match, somebody has edited the card, and a save keeps it.
The card is built as plain text, because importing the hub's library would take longer than a save.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

RECORDED = ("corpus", "plan", "progress", "results")  # keys of the record that a card needs
_MARK = "<!-- attncli wrote this; edited, it is kept. sha256: "
_ENDS = " -->\n"
_MARKUP = frozenset("`<>|\\*[]\"'")


def model_card(name: str, family: str, run: dict[str, Any], context: int) -> bytes:
    """Returns the content of README.md for a model with this name and family. `run` is the content of `run.json`."""
    name, translates = _plain(name), learned_from_pairs(run["corpus"])
    does = "A model that translates, of" if translates else "A language model of"
    adapts = bool(run["plan"].get("lora"))
    if adapts:
        does = f"A LoRA adapter of {run['plan']['trained_parameters']:,} parameters for {_base(run)}, a model of"
    lines = [
        "---",
        f"library_name: {'peft' if adapts else 'transformers'}",
        f"pipeline_tag: {'translation' if translates else 'text-generation'}",
        "tags:",
        "- attncli",
        f"- {family}",
        "---",
        "",
        f"# {name}",
        "",
        f"{does} {run['plan']['parameters']:,} parameters with a context of {context:,} tokens.",
        "",
        *_training_table(run),
        "",
        *_usage(name, _base(run) if adapts else None, translates=translates),
    ]
    text = "\n".join(lines)
    return f"{text}{_MARK}{_digest(text.encode())}{_ENDS}".encode()


def _base(run: dict[str, Any]) -> str:
    """Returns the name of the model that a run adapted."""
    return _plain(Path(str(run["from"])).name)


def _usage(name: str, base: str | None, *, translates: bool) -> list[str]:
    """Returns the lines that show how to use a model, or an adapter of the model `base`."""
    auto = "AutoModelForSeq2SeqLM" if translates else "AutoModelForCausalLM"
    imports, model = f"from transformers import {auto}, AutoTokenizer", f"{auto}.from_pretrained(path)"
    if base is None:
        command = f"attncli generate -m {shlex.quote(name)}{' TEXT' if translates else ''}"
        before, paths = ["```sh", command, "```"], f'path = "{name}"  # this directory'
    else:
        before = ["```python", "import attncli", "", f'model = attncli.load("{base}", adapter="{name}")', "```"]
        imports, model = f"from peft import PeftModel\n{imports}", f"PeftModel.from_pretrained({model}, adapter)"
        paths = f'path, adapter = "{base}", "{name}"  # the model, and this directory'
    loads = f"model, tokenizer = {model}, AutoTokenizer.from_pretrained(path)"
    return [*before, "", "```python", imports, "", paths, loads, "```", ""]


def _training_table(run: dict[str, Any]) -> list[str]:
    """Returns the lines of a Markdown table about the training and the score of the model."""
    corpus, plan, progress, results = (run[key] for key in RECORDED)
    return [
        "| | |",
        "| --- | --- |",
        f"| trained on | {_sources(corpus)}, {_amount(corpus)} |",
        *([f"| continued from | {_plain(Path(str(run['from'])).name)} |"] if run.get("from") else []),
        f"| training | {progress['step']:,} steps in {progress['seconds']:,.0f} s on {plan['device']} |",
        f"| validation | {results['bits_per_byte']:.4f} bits per byte, {results['nats_per_token']:.4f} nats per "
        f"token, on {_scored(corpus, results)} |",
    ]


def _scored(corpus: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the scored part of the validation part in words. Earlier versions did not record the scored bytes."""
    what = f"held-out {'targets' if learned_from_pairs(corpus) else 'text'}"
    if results["validation"] == "whole":
        return f"all of {corpus['val_bytes']:,} bytes of {what}"
    scored = results.get("scored_bytes")
    return f"a sample of {what}" + ("" if scored is None else f": {scored:,.0f} bytes")


def _amount(corpus: dict[str, Any]) -> str:
    """Returns the size of the training part in words."""
    if learned_from_pairs(corpus):
        return f"{corpus['train_pairs']:,} pairs of sentences"
    return f"{corpus['train_bytes']:,} bytes of text"


def learned_from_pairs(corpus: dict[str, Any]) -> bool:
    """Whether a run's record of its corpus is about pairs. Earlier versions recorded no kind, and read only text."""
    return corpus.get("kind", "text") in ("pairs", "parallel")


def is_generated(card: bytes) -> bool:
    """Whether `model_card` wrote this card and nobody has edited it."""
    text, mark, digest = card.rpartition(_MARK.encode())
    return bool(mark) and digest == f"{_digest(text)}{_ENDS}".encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _sources(corpus: dict[str, Any]) -> str:
    """Returns the names of the text files without their folders. A repeated name is followed by its count."""
    names = Counter("standard input" if source == "-" else Path(source).name for source in corpus["sources"])
    return ", ".join(f"{_plain(name)}{'' if times == 1 else f' {times} times'}" for name, times in names.items())


def _plain(name: str) -> str:
    """Replaces each character that is unprintable or special in Markdown, HTML or a shell: 'a<b' -> 'a·b'."""
    return "".join(char if char.isprintable() and char not in _MARKUP else "·" for char in name)
