"""Records in `run.json` where a model comes from: the text, the settings, the versions of the software.

The record also tells whether a model was trained on a given text.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import tokenizers
import torch

from attncli import __version__
from attncli.checkpoint.directory import RUN
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import BadCheckpoint
from attncli.records import record_from_json
from attncli.text.corpus import digest_of
from attncli.text.pair_inputs import InputKind
from attncli.text.parts import Part, split_by_position
from attncli.training.tasks.base import Task

STATE_FORMAT = 2  # the format of the plan and the state; a run with another format is not resumed
# The keys that a resumed run keeps.
KEPT = ("format", "created", "versions", "corpus", "request", "from", "base", "watch_heads")


@dataclass(frozen=True)
class TextRecord:
    """The part of the record from which a resumed run reads its text again."""

    sources: tuple[str, ...]
    val_file: str | None
    digest: str  # of the text and its split
    config: CorpusConfig
    text_digest: str | None = None  # of the text alone; earlier versions did not record it
    kind: InputKind = "text"  # earlier versions did not record it


def provenance(
    task: Task, text: CorpusConfig, val_file: str | None, pinned: TrainConfig, kind: InputKind = "text"
) -> dict[str, Any]:
    """Returns the facts that a new run writes to `run.json`: its corpus, its settings and the software's versions.

    `kind` says how the files of the corpus are read.
    """
    return {
        "format": STATE_FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "attncli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "corpus": {**task.facts(), "kind": kind, "val_file": val_file, "config": asdict(text)},
        "request": asdict(pinned),
    }


def characters_trained_on(run: Mapping[str, Any], text: Part) -> int:
    """Returns the number of characters of a text that a model was trained on, or 0 if this is unknown.

    `run` is the content of the model's run.json, which has the digest of the training text. Only a text whose documents
    have this digest is recognized. Its characters count that are inside the training part.
    """
    try:
        known = record_from_json(TextRecord, run.get("corpus"), f"{RUN}: corpus", extra=True)
    except BadCheckpoint:  # the model is not from attncli
        return 0
    documents, (start, stop) = text.documents, text.passages[0]
    trained = documents.characters
    if known.val_file is None:
        trained = split_by_position(documents, known.config.val_fraction)[0].characters
    same = documents.digest == known.text_digest or digest_of(documents.digest, trained) == known.digest
    return max(min(stop, trained) - start, 0) if same else 0
