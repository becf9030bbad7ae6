"""Reads the files of a model directory, which are untrusted, and defines their names.

`ModelFolder` reads one directory. If the directory has a manifest, the sha256 of every file is compared with the
manifest. Files may be hostile, so sizes are limited and JSON is parsed with checks. No torch, so that tokenizing and
listing models start fast.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attncli.checkpoint.families.shared import Family
from attncli.checkpoint.families.tensor_names import TensorNames
from attncli.checkpoint.untrusted_json import parse_object, parse_object_lines
from attncli.errors import COPY_AGAIN, BadCheckpoint
from attncli.paths import is_file, look, open_regular, read_regular, real, unreadable
from attncli.text.sentence_pieces import SOURCE, TARGET, VOCABULARY, marian_tokenizer
from attncli.text.tokenizer import Tokenizer

CONFIG = "config.json"
GENERATION = "generation_config.json"
CARD = "README.md"  # the model card, for readers and for the hub
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # maps each tensor to its shard
ADAPTER_CONFIG = "adapter_config.json"  # the settings of a LoRA adapter, in the format of PEFT
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RUN = "run.json"  # the record of the run that trained the model
METRICS = "metrics.jsonl"  # one report of the run on each line
MANIFEST = "manifest.json"  # the sha256 of every file
STATE_TENSORS = "state/state.safetensors"  # the tensors for resuming the run
STATE_FACTS = "state/state.json"

TRAIN_FIRST = "Train one first: attncli train FILE"
WHOLE_MODEL = f"Give the directory that it was made from: {CONFIG}, {TOKENIZER} and {WEIGHTS}, as on the hub."
LARGEST_CARD = 1 << 20  # bytes
_LARGEST_JSON = 4 << 20
_LARGEST_TOKENIZER = 64 << 20
_LARGEST_METRICS = 256 << 20  # bytes; about a million reports
_READ_AT_ONCE = 1 << 20  # bytes
_MOST_SHARDS = 512  # all shards are open at once
_HUB_PREFIX = "models--"  # the prefix of a model's directory in the hub's cache
_PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def name_of(path: Path) -> str:
    """Returns the name of the model in a directory: the directory's name, or owner/name in the hub's cache."""
    path = real(path)
    cache = path.parent.parent.name
    if path.parent.name == "snapshots" and cache.startswith(_HUB_PREFIX):
        return cache.removeprefix(_HUB_PREFIX).replace("--", "/", 1)
    return path.name


def file_status(path: Path) -> os.stat_result | None:
    """Returns the stat of a file or directory, or None if it is missing. Raises BadCheckpoint if it is unreadable."""
    try:
        return look(path)
    except OSError as problem:
        raise unreadable(path, problem) from None


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in an untrusted file. Raises BadCheckpoint."""
    return parse_object(_read(path, _LARGEST_JSON), path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON objects in an untrusted file, one per line. Raises BadCheckpoint."""
    return parse_object_lines(_read(path, _LARGEST_METRICS), path)


def _read(path: Path, largest: int) -> bytes:
    try:
        return read_regular(path, largest)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except OSError as problem:
        raise unreadable(path, problem) from None


def _missing(path: Path) -> BadCheckpoint:
    """Returns the error for a missing file of a model. The error says what the directory contains instead."""
    folder = path.parent
    if is_file(folder / ADAPTER_CONFIG) and path.name != ADAPTER_WEIGHTS:
        return BadCheckpoint.naming(
            lambda named: (
                f"{folder} holds an adapter ({ADAPTER_CONFIG}), which changes another model, and no {path.name}.",
                f"Name that model, and give {named('adapter')} {folder}.",
            )
        )
    ggufs = _named(folder, ("*.gguf",))
    if ggufs:
        return BadCheckpoint(
            f"{folder} holds {ggufs[0]}, a GGUF file, and no {path.name}.", f"Give the file: {folder / ggufs[0]}"
        )
    pickles, hint = _named(folder, _PICKLES), TRAIN_FIRST
    what = "an adapter" if path.name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) else "a model"
    if pickles:
        hint = f"It holds {pickles[0]}: pickled weights can run code, so they are never read. Save it as safetensors."
    return BadCheckpoint(f"{folder} is not {what}: it holds no {path.name}.", hint)


def _named(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Returns the names of the files in a directory that match any pattern; none if the directory cannot be read."""
    with suppress(OSError):
        return sorted(file.name for pattern in patterns for file in folder.glob(pattern))
    return []


def is_card(path: Path) -> bool:
    """Whether a file can be a model card: a readable regular file of at most LARGEST_CARD bytes. Raises OSError."""
    status = look(path, follow=False)
    regular = status is not None and stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_CARD
    return regular and os.access(path, os.R_OK)


def shards(index: dict[str, Any], where: Path) -> dict[str, str]:
    """Returns the map from tensor names to shard names that an index contains.

    Raises BadCheckpoint if the index lists no tensors or too many shards, or if it names a file that is not a
    safetensors file in the same directory.
    """
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise BadCheckpoint(f"{where} lists no tensors.", COPY_AGAIN)
    files = set(listed.values())
    for file in files:
        if Path(file).name != file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise BadCheckpoint(
                f"{where} names {ascii(file)[:80]}, which is not a safetensors file of this directory.",
                "Nothing outside the directory is opened. Copy the model again from its source.",
            )
    if len(files) > _MOST_SHARDS:
        raise BadCheckpoint(f"{where} names {len(files):,} files; at most {_MOST_SHARDS} are allowed.")
    return listed


class ModelFolder:
    """Reads the files of one model directory. If there is a manifest, checks the sha256 of every file.

    Every method raises BadCheckpoint for a file that is missing, unreadable, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests = self._read_manifest()

    def where(self, name: str) -> Path:
        """Returns the path of a file, for errors."""
        return self.path / name

    def names_of(self, family: Family) -> TensorNames:
        """Returns the names that the tensors of a model of this family have in the files of weights."""
        return family.tensor_names

    def read(self, name: str, largest: int = _LARGEST_TOKENIZER) -> bytes:
        """Returns the content of a file of at most `largest` bytes."""
        data = _read(self.path / name, largest)
        self.check(name, hashlib.sha256(data).hexdigest())
        return data

    def json(self, name: str) -> dict[str, Any]:
        """Returns the JSON object of a file."""
        return parse_object(self.read(name, _LARGEST_JSON), self.path / name)

    def json_if_any(self, name: str) -> dict[str, Any]:
        """Returns the JSON object of a file, or an empty object if the file does not exist."""
        return self.json(name) if self.holds(name) else {}

    def json_lines(self, name: str) -> list[dict[str, Any]]:
        """Returns the JSON objects of a file, one per line."""
        return parse_object_lines(self.read(name, _LARGEST_METRICS), self.path / name)

    def file(self, name: str) -> Path:
        """Checks that a file exists, and returns its path."""
        if file_status(self.path / name) is None:
            self.read(name)  # raises the error that says what the directory contains instead
        return self.path / name

    def file_inside(self, name: str) -> Path:
        """Returns the path of a file that the index names. Raises BadCheckpoint for a link out of the directory.

        In the hub's cache, links to the cached files are allowed.
        """
        path = real(self.path)
        inside = [path]
        if path.parent.name == "snapshots" and (cache := path.parent.parent).name.startswith(_HUB_PREFIX):
            inside += [cache / "blobs", cache.parent / "blobs"]  # the files of this model, and files that models share
        if not any(real(self.path / name).is_relative_to(folder) for folder in inside):
            raise BadCheckpoint(
                f"{self.path / name} is a link that leads out of its directory, and is not opened.",
                "Put the file itself there.",
            )
        if file_status(self.path / name) is None:
            raise BadCheckpoint(
                f"{self.path / name} is missing, and {INDEX} names it.", "Copy the model again from its source."
            )
        return self.path / name

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer in this directory: tokenizer.json, or the SentencePiece models of Marian."""
        if not self.holds(TOKENIZER) and self.holds(SOURCE):
            return marian_tokenizer(self.read(SOURCE), self.read(TARGET), self.read(VOCABULARY), self.path)
        data = self.read(TOKENIZER, _LARGEST_TOKENIZER)
        try:
            return Tokenizer.from_json(data.decode("utf-8"), str(self.path / TOKENIZER))
        except UnicodeDecodeError:
            raise BadCheckpoint(f"{self.path / TOKENIZER} is not UTF-8.", COPY_AGAIN) from None

    def holds(self, name: str) -> bool:
        """Whether a file exists, or the manifest lists it."""
        return file_status(self.path / name) is not None or name in (self._digests or {})

    def digest_of_weights(self) -> str:
        """Returns the sha256 of the weights: of their file, as the manifest says, else of all their files."""
        if self._digests is not None and WEIGHTS in self._digests:
            return self._digests[WEIGHTS]
        digest = hashlib.sha256()
        for path in [self.path] if is_file(self.path) else sorted(self.path.glob("*.safetensors")):
            try:
                with open_regular(path) as file:
                    while data := file.read(_READ_AT_ONCE):
                        digest.update(data)
            except OSError as problem:
                raise unreadable(path, problem) from None
        return digest.hexdigest()

    def foreign(self) -> list[str]:
        """Returns the names of the files and folders here that do not belong to a save of attncli."""
        own = {name.partition("/")[0] for name in self._digests or {}} | {MANIFEST}
        try:
            if self._digests is not None and is_card(self.path / CARD):
                own.add(CARD)
            return sorted(path.name for path in self.path.iterdir() if path.name not in own)
        except OSError as problem:
            raise unreadable(self.path, problem) from None

    def check(self, name: str, found: str) -> None:
        """Raises BadCheckpoint unless the manifest lists this file with the sha256 `found`.

        Does nothing if there is no manifest.
        """
        if self._digests is None:
            return
        expected = self._digests.get(name)
        if expected is None:
            raise BadCheckpoint(f"{self.path / name} is not listed in {MANIFEST}.", "Remove the file, or the manifest.")
        if found != expected:
            raise BadCheckpoint(
                f"{self.path / name} is damaged: its sha256 is {found[:12]}…, and {MANIFEST} says {expected[:12]}….",
                "Copy it again, or train again.",
            )

    def _read_manifest(self) -> dict[str, str] | None:
        if file_status(self.path / MANIFEST) is None:
            return None
        digests = read_json(self.path / MANIFEST).get("sha256")
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise BadCheckpoint(
                f"{self.path / MANIFEST} lists no digests.", "Copy the directory again from its source."
            )
        return digests
