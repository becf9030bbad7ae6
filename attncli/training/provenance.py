"""Where a model comes from, as `run.json` records it: the text, the settings, the versions of the software."""

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

STATE_FORMAT = 2  # of the plan and the state; a run of another format is not resumed
KEPT = ("format", "created", "versions", "corpus", "request", "from", "watch_heads")  # when a run is resumed


@dataclass(frozen=True)
class TextRecord:
    """The part of the record that finds the text of a stopped run again."""

    sources: tuple[str, ...]
    val_file: str | None
    digest: str
    config: CorpusConfig


def provenance(corpus: Corpus, text: CorpusConfig, val_file: str | None, pinned: TrainConfig) -> dict[str, Any]:
    """What `run.json` says of the text, the settings and the versions that a run began with."""
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
