"""What is in a model directory short of its weights: where it is, its JSON files, its digests.

Owns the file names, finding a model by name, and reading JSON that may be hostile. No torch, so that listing models and
tokenizing start at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attncli.errors import BadCheckpoint

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
RUN = "run.json"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"
STATE_TENSORS = "state/state.safetensors"
STATE_FACTS = "state/state.json"

MODELS_FOLDER = Path("checkpoints")
TRAIN_FIRST = "Train one first: attncli train FILE"
_LARGEST_JSON = 4 << 20  # bytes
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelEntry:
    """A model directory as `attncli models` lists it. `run` is empty for a model that attncli did not train."""

    name: str
    path: Path
    bytes: int
    modified: float  # seconds since the epoch
    config: dict[str, Any]
    run: dict[str, Any]


def find_model(name: str | None) -> Path:
    """The directory meant by `-m NAME`: a path, a name under ./checkpoints, else ATTNCLI_MODEL, else the newest there.

    Raises BadCheckpoint, naming what there is, when nothing is meant.
    """
    name = name or os.environ.get("ATTNCLI_MODEL") or None
    if name is None:
        newest = max(list_models(), key=lambda entry: entry.modified, default=None)
        if newest is None:
            raise BadCheckpoint(f"There is no model in ./{MODELS_FOLDER} yet.", TRAIN_FIRST)
        return newest.path
    for path in (Path(name), MODELS_FOLDER / name):
        if (found := present(path)) is not None:
            return found
    if Path(name).is_file():
        raise BadCheckpoint(
            f"{name} is a file; a model is a directory with {CONFIG} and {WEIGHTS}.", "Give the directory."
        )
    known = ", ".join(entry.name for entry in list_models())
    raise BadCheckpoint(
        f"There is no model {name!r}: no such directory, nor one in ./{MODELS_FOLDER}.",
        f"There is: {known}." if known else TRAIN_FIRST,
    )


def previous_of(target: Path) -> Path:
    """Where the save before the last one is kept while a run goes on."""
    return target.parent / f".{target.name}.previous"


def present(path: Path) -> Path | None:
    """The directory, or what the save before left when it is missing for the moment in which it is replaced."""
    if path.is_dir():
        return path
    previous = previous_of(path)
    return previous if path.name and not path.exists() and previous.is_dir() else None


def list_models(folder: Path = MODELS_FOLDER) -> list[ModelEntry]:
    """Every directory of `folder` with a readable config, by name."""
    return sorted(_entries(folder), key=lambda entry: entry.name) if folder.is_dir() else []


def _entries(folder: Path) -> Iterator[ModelEntry]:
    for path in folder.iterdir():
        if path.name.startswith(".") or not (path / CONFIG).is_file():
            continue
        try:
            config = read_json(path / CONFIG)
            run = read_json(path / RUN) if (path / RUN).is_file() else {}
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            yield ModelEntry(path.name, path, size, (path / CONFIG).stat().st_mtime, config, run)
        except (BadCheckpoint, OSError):
            continue


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be hostile. Raises BadCheckpoint."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise BadCheckpoint(f"{path} is larger than {_LARGEST_JSON >> 20} MB, too large for what it should hold.")
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BadCheckpoint(f"{path.parent} is not a model: it holds no {path.name}.", _hint_for(path.parent)) from None
    except OSError as problem:
        raise BadCheckpoint(f"{path} cannot be read: {problem.strerror}.", "Check its permissions.") from None
    except (ValueError, RecursionError) as problem:
        reason = "nested too deep" if isinstance(problem, RecursionError) else str(problem)[:120]
        raise BadCheckpoint(f"{path} is not valid JSON: {reason}.", "Copy it again from its source.") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds no JSON object.", "Copy it again from its source.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _hint_for(folder: Path) -> str:
    pickles = [file.name for file in folder.glob("*") if file.suffix in _PICKLES]
    if pickles:
        return f"It holds {pickles[0]}: pickled weights can run code, so they are never read. Save it as safetensors."
    return TRAIN_FIRST


def require_weights(folder: Path) -> Path:
    """The path of the weights. Raises BadCheckpoint when there are none, with what stands in their place."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise BadCheckpoint(f"{folder} holds no {WEIGHTS}.", _hint_for(folder))
    return path


def read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 of every file, by its name; empty when the directory has no manifest (attncli did not write it)."""
    if not (folder / MANIFEST).is_file():
        return {}
    files = read_json(folder / MANIFEST).get("sha256")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise BadCheckpoint(f"{folder / MANIFEST} lists no digests.", "Copy the directory again from its source.")
    return files


def verified_bytes(folder: Path, name: str, manifest: dict[str, str]) -> bytes:
    """The content of a file, held to its digest when the manifest has one. Raises BadCheckpoint."""
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise BadCheckpoint(f"{folder} holds no {name}.", _hint_for(folder)) from None
    except OSError as problem:
        raise BadCheckpoint(f"{folder / name} cannot be read: {problem.strerror}.", "Check its permissions.") from None
    check_digest(folder / name, hashlib.sha256(data).hexdigest(), manifest.get(name))
    return data


def check_digest(path: Path, found: str, expected: str | None) -> None:
    """Raises BadCheckpoint when a digest is expected and another was found."""
    if expected is not None and found != expected:
        raise BadCheckpoint(
            f"{path} is damaged: its sha256 is {found[:12]}…, and {MANIFEST} says {expected[:12]}….",
            "Copy it again, or train again.",
        )
