"""The model card of a run: what the Hugging Face hub and a reader are told of a model, from the record of its run.

A card ends with the digest of what is above: one that somebody has edited no longer has it, and is kept. Plain text,
since importing the hub's own library takes longer than a save.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

RECORDED = ("corpus", "plan", "progress", "results")  # what a record needs to have for a card
_MARK = "<!-- attncli wrote this; edited, it is kept. sha256: "
_ENDS = " -->\n"
_MARKUP = frozenset("`<>|\\*[]\"'")


def model_card(name: str, family: str, run: dict[str, Any], context: int) -> bytes:
    """The text of README.md for a model of this name and kind of config, with what `run.json` says of it."""
    corpus, plan, progress, results = (run[key] for key in RECORDED)
    name = _plain(name)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- attncli",
        f"- {family}",
        "---",
        "",
        f"# {name}",
        "",
        f"A language model of {plan['parameters']:,} parameters with a context of {context:,} tokens.",
        "",
        "| | |",
        "| --- | --- |",
        f"| trained on | {_sources(corpus)}, {corpus['train_bytes']:,} bytes of text |",
        *([f"| went on from | {_plain(Path(str(run['from'])).name)} |"] if run.get("from") else []),
        f"| training | {progress['step']:,} steps in {progress['seconds']:,.0f} s on {plan['device']} |",
    ]
    part = "all" if results["validation"] == "whole" else "a sample"
    lines += [
        f"| validation | {results['bits_per_byte']:.4f} bits per byte, {results['nats_per_token']:.4f} nats per "
        f"token, on {part} of {corpus['val_bytes']:,} bytes that were not trained on |"
    ]
    lines += [
        "",
        "```sh",
        f"attncli generate -m {shlex.quote(name)}",
        "```",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'path = "{name}"  # this directory',
        "model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)",
        "```",
        "",
    ]
    text = "\n".join(lines)
    return f"{text}{_MARK}{_digest(text.encode())}{_ENDS}".encode()


def is_generated(card: bytes) -> bool:
    """Whether a card is one that `model_card` wrote and nobody has edited."""
    text, mark, digest = card.rpartition(_MARK.encode())
    return bool(mark) and digest == f"{_digest(text)}{_ENDS}".encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _sources(corpus: dict[str, Any]) -> str:
    """The names of the files, without their places; one that was named several times says so."""
    names = Counter("standard input" if source == "-" else Path(source).name for source in corpus["sources"])
    return ", ".join(f"{_plain(name)}{'' if times == 1 else f' {times} times'}" for name, times in names.items())


def _plain(name: str) -> str:
    """A name without what a page or a shell would take for markup."""
    return "".join(char if char.isprintable() and char not in _MARKUP else "·" for char in name)
