"""Records in `run.json` where a model comes from: the text, the settings, the versions of the software."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import tokenizers
import torch

from attncli import __version__
from attncli.config import CorpusConfig, TrainConfig
from attncli.text.corpus import Corpus

STATE_FORMAT = 2  # the format of the plan and the state; a run with another format is not resumed
KEPT = ("format", "created", "versions", "corpus", "request", "from", "watch_heads")  # keys that a resumed run keeps


@dataclass(frozen=True)
class TextRecord:
    """The part of the record by which a resumed run finds its text."""

    sources: tuple[str, ...]
    val_file: str | None
    digest: str
    config: CorpusConfig


def provenance(corpus: Corpus, text: CorpusConfig, val_file: str | None, pinned: TrainConfig) -> dict[str, Any]:
    """Returns the facts for `run.json` at the start of a run: its text, its settings and the software's versions."""
    return {
        "format": STATE_FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "attncli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "corpus": {
            "sources": list(corpus.sources),
            "val_file": val_file,
            "digest": corpus.digest,
            "tokenizer": corpus.tokenizer.kind,
            "train_characters": corpus.train.characters,
            "train_left_out": corpus.train.left_out,
            "train_bytes": corpus.train.bytes,
            "train_tokens": len(corpus.train),
            "val_characters": corpus.val.characters,
            "val_left_out": corpus.val.left_out,
            "val_bytes": corpus.val.bytes,
            "val_tokens": len(corpus.val),
            "config": asdict(text),
        },
        "request": asdict(pinned),
    }
