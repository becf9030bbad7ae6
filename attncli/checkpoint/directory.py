"""What is in a model directory short of its weights: where it is, its JSON files, its digests.

Owns the file names, finding a model by name, and reading JSON that may be hostile. No torch, so that listing models and
tokenizing start at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attncli.checkpoint.lock import is_held
from attncli.errors import BadCheckpoint
from attncli.folders import models_folder
from attncli.paths import is_file, is_folder, look, read_regular, real, resolved, unreadable, unwritable
from attncli.text.tokenizer import Tokenizer

CONFIG = "config.json"
GENERATION = "generation_config.json"
CARD = "README.md"  # written by people, and read by the hub
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in shards
RUN = "run.json"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"
STATE_TENSORS = "state/state.safetensors"
STATE_FACTS = "state/state.json"

MODELS_FOLDER = Path("checkpoints")
SHIPPED = "stories"  # the model that comes with attncli
TRAIN_FIRST = "Train one first: attncli train FILE"
_HERE = Path(__file__).resolve().parent.parent
_SHIPPED_PLACES = (_HERE / MODELS_FOLDER / SHIPPED, _HERE.parent / MODELS_FOLDER / SHIPPED)  # installed; a checkout
_ADAPTER = "adapter_config.json"  # of peft
_ORIGINAL = f"Give the directory it was made from: {CONFIG}, {TOKENIZER} and {WEIGHTS}, as on the hub."
_PREVIOUS = ".previous"
LARGEST_CARD = 1 << 20  # bytes
_OF_HUB = "models--"  # how directories of models are called in the cache of the hub
_LARGEST_JSON = 4 << 20  # bytes
_LARGEST_TOKENIZER = 64 << 20
_LARGEST_LINES = 256 << 20  # of reports: a million of them
_MOST_SHARDS = 512  # each is a file held open
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class ModelEntry:
    """A model directory as `attncli models` lists it. `run` is empty for a model that attncli did not train.

    `path` is where it lies now: under another name than its own when a kill fell into the moment of its replacement.
    """

    name: str
    path: Path
    bytes: int
    modified: float  # seconds since the epoch
    status: str
    config: dict[str, Any]
    run: dict[str, Any]


def find_model(name: str | None) -> Path:
    """The directory meant by `-m NAME`: a path, or a name in ./checkpoints, in the user's folder, or that ships.

    Without a name it is what ATTNCLI_MODEL says, else the newest in the first of these places that has one.

    Raises BadCheckpoint, naming what there is, when nothing is meant.
    """
    name = name or os.environ.get("ATTNCLI_MODEL") or None
    if name is None:
        if (newest := newest_model()) is not None:
            return newest.path
        if (shipped := shipped_model()) is not None:
            return shipped
        raise BadCheckpoint(f"There is no model in ./{MODELS_FOLDER} yet.", TRAIN_FIRST)
    found, problem = _at_places(name)
    if found is not None:
        return found
    if is_file(name):
        if name.lower().endswith(".gguf"):
            raise BadCheckpoint(f"{name} is a GGUF file, which is not read.", _ORIGINAL)
        raise BadCheckpoint(
            f"{name} is a file; a model is a directory with {CONFIG} and {WEIGHTS}.", "Give the directory."
        )
    if problem is not None:
        raise problem
    if name == SHIPPED and (shipped := shipped_model()) is not None:
        return shipped
    known = ", ".join(entry.name for entry in known_models())
    raise BadCheckpoint(
        f"There is no model {name!r}: no such directory, nor one in ./{MODELS_FOLDER}{_or_users_folder()}.",
        f"There is: {known}." if known else TRAIN_FIRST,
    )


def _at_places(name: str) -> tuple[Path | None, BadCheckpoint | None]:
    """The directory of a name, and why a place could not be looked at; one that holds a config comes first.

    A folder of text may have the name of the model made from it.
    """
    found, problem, users = None, None, models_folder()
    for folder in (Path(), MODELS_FOLDER, *(() if users is None else (users,))):
        try:
            place = present(folder / name)
            if place is not None and is_model(place):
                return place, None
            found = found or place
        except BadCheckpoint as unknown:
            problem = problem or (None if folder is users else unknown)
    return found, problem


def _or_users_folder() -> str:
    folder = models_folder()
    return f" or {folder}" if folder is not None and is_folder(folder) else ""


def is_model(path: Path) -> bool:
    """Whether a directory holds a config. Raises BadCheckpoint when that cannot be known."""
    return _look(path / CONFIG) is not None


def _look(path: Path) -> os.stat_result | None:
    try:
        return look(path)
    except OSError as problem:
        raise unreadable(path, problem) from None


def shipped_model() -> Path | None:
    """The directory of the model that comes with attncli, if it does."""
    return next((place for place in _SHIPPED_PLACES if is_file(place / CONFIG)), None)


def newest_model() -> ModelEntry | None:
    """The model written last: of those in ./checkpoints, else of those in the user's folder."""
    return max(list_models() or _users_models(), key=lambda entry: entry.modified, default=None)


def known_models() -> list[ModelEntry]:
    """The models in ./checkpoints, in the user's folder, and the one that ships; of equal names only the first."""
    entries = {entry.name: entry for entry in list_models()}
    for entry in _users_models():
        entries.setdefault(entry.name, entry)
    if SHIPPED not in entries and (shipped := shipped_model()) is not None:
        entries |= {entry.name: entry for entry in list_models(shipped.parent) if entry.name == SHIPPED}
    return list(entries.values())


def _users_models() -> list[ModelEntry]:
    """The models in the user's folder; none where it cannot be read, as in the home of somebody else."""
    folder = models_folder()
    with suppress(BadCheckpoint):
        return [] if folder is None else list_models(folder)
    return []


def name_of(path: Path) -> str:
    """What a model directory is called: its name, and in the hub's cache owner/name."""
    path = real(path)
    cache = path.parent.parent.name
    if path.parent.name == "snapshots" and cache.startswith(_OF_HUB):
        return cache.removeprefix(_OF_HUB).replace("--", "/", 1)
    return path.name


def previous_of(target: Path) -> Path:
    """Where the save before the last one is kept while a run goes on."""
    target = resolved(target)
    return target.parent / f".{target.name}{_PREVIOUS}"


def aside_of(target: Path, what: str) -> Path:
    """Beside a directory, a place for what is no whole save; the next save removes what a kill leaves there."""
    return target.parent / f".{target.name}.writing-{what}"


def settle(target: Path) -> None:
    """Puts the save before the last one in its place, when a kill fell between the two renames. The lock is held.

    Raises OutOfRoom when the folder cannot be written.
    """
    target = resolved(target)
    previous = previous_of(target)
    try:
        if look(target) is None and is_save(previous):
            previous.rename(target)
    except OSError as problem:
        raise unwritable(target, problem) from None


def _belongs_to(path: Path) -> str:
    """The name of a model whose directory, or whose save before the last one, this would be."""
    kept = path.name.startswith(".") and path.name.endswith(_PREVIOUS)
    return path.name[1 : -len(_PREVIOUS)] if kept else path.name


def present(path: Path) -> Path | None:
    """The directory, or what the save before left when it is missing for the moment in which it is replaced.

    Raises BadCheckpoint when it cannot be known what is there.
    """
    found = _look(path)
    if found is not None:
        return path if stat.S_ISDIR(found.st_mode) else None
    previous = previous_of(path)
    return previous if path.name and is_save(previous) else None


def is_save(path: Path) -> bool:
    """Whether this is a directory that a save of attncli wrote, and not somebody else's of the same name."""
    return is_folder(path) and all(is_file(path / name) for name in (MANIFEST, CONFIG))


def list_models(folder: Path = MODELS_FOLDER) -> list[ModelEntry]:
    """Every directory of `folder` with a readable config, by name; also one of which only the save before is there.

    Raises BadCheckpoint when the folder itself cannot be read.
    """
    found = _look(folder)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return []
    try:
        names = {_belongs_to(path) for path in folder.iterdir()}
    except OSError as problem:
        raise unreadable(folder, problem) from None
    entries = (_entry(folder, name) for name in sorted(names) if not name.startswith("."))
    return [entry for entry in entries if entry is not None]


def _entry(folder: Path, name: str) -> ModelEntry | None:
    """The entry of the model of that name; None for a directory that is no model or cannot be read."""
    try:
        path = present(folder / name)
        if path is None or not is_model(path):
            return None
        config = read_json(path / CONFIG)
        run = read_json(path / RUN) if _look(path / RUN) is not None else {}
        files = [found for file in path.rglob("*") if (found := look(file, follow=False)) is not None]
        size = sum(found.st_size for found in files if stat.S_ISREG(found.st_mode))
        modified = (path / CONFIG).stat().st_mtime
        return ModelEntry(name, path, size, modified, status_of(folder / name, run), config, run)
    except (BadCheckpoint, OSError):
        return None


def status_of(path: Path, run: dict[str, Any]) -> str:
    """'running', 'stopped', 'finished'; 'interrupted' when a run ended without a word; 'elsewhere' for no run."""
    status = str(run.get("status", "elsewhere"))
    return "interrupted" if status == "running" and not is_held(path) else status


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be hostile. Raises BadCheckpoint."""
    return _parse_json(_read(path, _LARGEST_JSON), path)


def _read(path: Path, largest: int) -> bytes:
    try:
        return read_regular(path, largest)
    except (FileNotFoundError, NotADirectoryError):
        raise _without(path) from None
    except OSError as problem:
        raise unreadable(path, problem) from None


def _parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        reason = "nested too deep" if isinstance(problem, RecursionError) else str(problem)[:120]
        raise BadCheckpoint(f"{path} is not valid JSON: {reason}.", "Copy it again from its source.") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds no JSON object.", "Copy it again from its source.")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of reports that may be hostile, one a line. Raises BadCheckpoint."""
    return _parse_json_lines(_read(path, _LARGEST_LINES), path)


def _parse_json_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; an unfinished last line is one that is being written.

    Raises BadCheckpoint.
    """
    lines = []
    rows = data.split(b"\n")
    for number, row in enumerate(rows, 1):
        try:
            line = json.loads(row) if row.strip() else {}
        except (ValueError, RecursionError):
            if number == len(rows):
                break
            line = None
        if not isinstance(line, dict):
            raise BadCheckpoint(f"{path}: line {number} is no JSON object.", "Give the metrics.jsonl of a run.")
        lines.append(line)
    return lines


def shards(index: dict[str, Any], where: Path) -> dict[str, str]:
    """Which shard holds each tensor, by an index, whose shards are files beside it and nothing else.

    Raises BadCheckpoint.
    """
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise BadCheckpoint(f"{where} lists no tensors.", "Copy it again from its source.")
    files = set(listed.values())
    for file in files:
        if Path(file).name != file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise BadCheckpoint(
                f"{where} names {ascii(file)[:80]}, which is no safetensors file of this directory.",
                "Nothing outside the directory is opened. Copy the model again from its source.",
            )
    if len(files) > _MOST_SHARDS:
        raise BadCheckpoint(f"{where} names {len(files):,} files; the most are {_MOST_SHARDS}.")
    return listed


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    """'1e999' is a number in JSON, and infinite as a float, which no JSON can say again."""
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:40])


def _without(path: Path) -> BadCheckpoint:
    """The error for a directory that lacks a file of a model: what it holds instead, and what to do about it."""
    folder = path.parent
    if is_file(folder / _ADAPTER):
        return BadCheckpoint(
            f"{folder} holds an adapter ({_ADAPTER}), which is a change to another model, and no {path.name}.",
            "Merge it into that model with peft: merge_and_unload(), then save_pretrained(DIR), and give DIR.",
        )
    ggufs = _named(folder, ("*.gguf",))
    if ggufs:
        return BadCheckpoint(f"{folder} holds {ggufs[0]}, a GGUF file, and no {path.name}.", _ORIGINAL)
    pickles, hint = _named(folder, _PICKLES), TRAIN_FIRST
    if pickles:
        hint = f"It holds {pickles[0]}: pickled weights can run code, so they are never read. Save it as safetensors."
    return BadCheckpoint(f"{folder} is not a model: it holds no {path.name}.", hint)


def _named(folder: Path, patterns: Iterable[str]) -> list[str]:
    """The names in a directory that fit any of the patterns; none when it cannot be read."""
    with suppress(OSError):
        return sorted(file.name for pattern in patterns for file in folder.glob(pattern))
    return []


def is_card(path: Path) -> bool:
    """Whether a file can be a model card, which is carried from save to save. Raises OSError where that is unknown."""
    found = look(path, follow=False)
    regular = found is not None and stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_CARD
    return regular and os.access(path, os.R_OK)


class ModelFolder:
    """The files of one model directory, each held to its digest where the directory has a manifest.

    Every method raises BadCheckpoint for a file that is missing, unreadable, damaged, or not what its name says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests = self._read_manifest()

    def read(self, name: str, largest: int = _LARGEST_TOKENIZER) -> bytes:
        """The content of a file; `largest` is the most bytes it may have."""
        data = _read(self.path / name, largest)
        self.check(name, hashlib.sha256(data).hexdigest())
        return data

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object."""
        return _parse_json(self.read(name, _LARGEST_JSON), self.path / name)

    def json_if_any(self, name: str) -> dict[str, Any]:
        """A JSON object, or an empty one when there is no such file."""
        return self.json(name) if self.holds(name) else {}

    def json_lines(self, name: str) -> list[dict[str, Any]]:
        """JSON objects, one a line."""
        return _parse_json_lines(self.read(name, _LARGEST_LINES), self.path / name)

    def file(self, name: str) -> Path:
        """The path of a file that is there."""
        if _look(self.path / name) is None:
            self.read(name)  # says what is there instead
        return self.path / name

    def file_inside(self, name: str) -> Path:
        """The same for a file that another one names: never a link that leads out of the directory.

        A directory of the hub's cache is one of links, to files of the same model's cache.
        """
        path = real(self.path)
        inside = [path]
        if path.parent.name == "snapshots" and (cache := path.parent.parent).name.startswith(_OF_HUB):
            inside += [cache / "blobs", cache.parent / "blobs"]  # the model's own, and those that models share
        if not any(real(self.path / name).is_relative_to(folder) for folder in inside):
            raise BadCheckpoint(
                f"{self.path / name} is a link that leads out of its directory, and is not opened.",
                "Put the file itself there.",
            )
        if _look(self.path / name) is None:
            raise BadCheckpoint(
                f"{self.path / name} is missing, and {INDEX} names it.", "Copy the model again from its source."
            )
        return self.path / name

    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        data = self.read(TOKENIZER, _LARGEST_TOKENIZER)
        try:
            return Tokenizer.from_json(data.decode("utf-8"), str(self.path / TOKENIZER))
        except UnicodeDecodeError:
            raise BadCheckpoint(f"{self.path / TOKENIZER} is not UTF-8.", "Copy it again from its source.") from None

    def holds(self, name: str) -> bool:
        """Whether there is such a file, or the manifest says that there should be."""
        return _look(self.path / name) is not None or name in (self._digests or {})

    def foreign(self) -> list[str]:
        """What lies in the directory and is neither part of a model that attncli wrote nor its model card."""
        own = {name.partition("/")[0] for name in self._digests or {}} | {MANIFEST}
        try:
            if self._digests is not None and is_card(self.path / CARD):
                own.add(CARD)
            return sorted(path.name for path in self.path.iterdir() if path.name not in own)
        except OSError as problem:
            raise unreadable(self.path, problem) from None

    def check(self, name: str, found: str) -> None:
        """Holds the sha256 that was found for a file to the manifest's, where there is one."""
        if self._digests is None:
            return
        expected = self._digests.get(name)
        if expected is None:
            raise BadCheckpoint(f"{self.path / name} is not listed in {MANIFEST}.", "Remove it, or the manifest.")
        if found != expected:
            raise BadCheckpoint(
                f"{self.path / name} is damaged: its sha256 is {found[:12]}…, and {MANIFEST} says {expected[:12]}….",
                "Copy it again, or train again.",
            )

    def _read_manifest(self) -> dict[str, str] | None:
        if _look(self.path / MANIFEST) is None:
            return None
        digests = read_json(self.path / MANIFEST).get("sha256")
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise BadCheckpoint(
                f"{self.path / MANIFEST} lists no digests.", "Copy the directory again from its source."
            )
        return digests
