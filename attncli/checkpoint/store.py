"""Writing a model directory so that nothing is ever lost, and reading one so that nothing is ever run.

Owns the atomic save, and loading a whole model. Knows nothing of how weights are trained or used.

A save is a whole directory, written beside its place, flushed to the disk, then renamed there; the one before stays as
`.NAME.previous` until the run ends. A reader sees the old one or the new one, never a mixture.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attncli.checkpoint import directory
from attncli.checkpoint.card import RECORDED, is_generated, model_card
from attncli.checkpoint.directory import ModelFolder, aside_of
from attncli.checkpoint.families.registry import config_to_json, family_of, read_config
from attncli.checkpoint.tensors import open_tensors, write_tensors
from attncli.checkpoint.weights import read_weights
from attncli.config import ModelConfig
from attncli.errors import BadCheckpoint
from attncli.model.device import dtype_name
from attncli.model.transformer import Transformer
from attncli.paths import is_link, look, no_room, read_regular, remove, resolved, unwritable
from attncli.text.tokenizer import Piece, Tokenizer

_UNFINISHED = re.compile(r"\.writing-(\d+|damaged|previous)\Z")
_HEADERS = 1 << 20  # bytes; more than the headers of the tensor files and the manifest take


@dataclass(frozen=True)
class State:
    """What resuming needs beside the model: tensors by name, and facts that fit JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Borders(NamedTuple):
    """The token that begins a text without a prompt, and those that end one."""

    start_of_text: int
    end_ids: frozenset[int]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a model directory holds. `weights` have our names; `start_of_text` begins a text without a prompt.

    `end_ids` end a text; where there are none, the tokenizer's own does.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    start_of_text: int
    run: dict[str, Any] = field(default_factory=dict)
    metrics: Sequence[dict[str, Any]] = ()
    state: State | None = None
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use, in evaluation mode, and where it came from."""

    model: Transformer
    tokenizer: Tokenizer
    path: Path
    start_of_text: int
    end_ids: frozenset[int]  # tokens that end a text
    run: dict[str, Any]

    def prompt(self, text: str) -> list[int]:
        """The ids to continue: of a text, after what its tokenizer puts before one; of no text, where one begins."""
        return [*self.tokenizer.opening, *self.tokenizer.encode(text)] or [self.start_of_text]

    def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text to look into, after those that its tokenizer puts before one."""
        return [*self.tokenizer.opening_pieces, *self.tokenizer.pieces(text)]

    @property
    def name(self) -> str:
        """What its directory is called."""
        return directory.name_of(self.path)


def write_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint at `target`, whole or not at all. The caller holds its lock.

    While there is a state, what was there before is kept beside it; without one the run is over and that goes. A model
    card that somebody wrote or edited stays; else the record of the run makes one.

    Raises:
        OutOfRoom: when the disk is full or the place cannot be written; what was there before is untouched.
    """
    target = resolved(target)
    folder = aside_of(target, str(os.getpid()))
    texts = _texts(checkpoint)
    needed = _size(checkpoint, texts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(target)
        _refuse_without_room(target, needed)
        folder.mkdir()
        if not _keep_card(target, folder) and (card := _card(target, checkpoint)):
            _write_flushed(folder / directory.CARD, card)
        _write_files(folder, checkpoint, texts)
        _swap(folder, target)
    except OSError as problem:
        raise unwritable(target, problem, needed) from None
    finally:
        remove(folder)
        directory.settle(target)  # what was moved away when the disk was full before the new one came
    if checkpoint.state is None:
        with suppress(OSError):
            _discard_previous(target)


def try_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Raises OutOfRoom as writing this would, where that can be known beforehand. Writes nothing; the lock is held."""
    target = resolved(target)
    try:
        _refuse_without_room(target, _size(checkpoint, _texts(checkpoint)))
    except OSError as problem:
        raise unwritable(target, problem) from None


def fall_back(target: Path) -> None:
    """Puts the save before the last one in the place of a last one that is damaged. The lock is held.

    Before anything else is saved: a save removes the one before the last, which now is the only good one.
    """
    target = resolved(target)
    aside = aside_of(target, "damaged")  # gone with the next save
    remove(aside)
    try:
        target.rename(aside)
        directory.settle(target)
        _keep_card(aside, target)
    except OSError as problem:
        raise unwritable(target, problem) from None


def _size(checkpoint: Checkpoint, texts: dict[str, bytes]) -> int:
    tensors = [*checkpoint.weights.values(), *(checkpoint.state.tensors.values() if checkpoint.state else ())]
    return sum(int(tensor.nbytes) for tensor in tensors) + sum(map(len, texts.values())) + _HEADERS


def _refuse_without_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise no_room(target, needed, free)


def _texts(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Every file but those of tensors and the manifest."""
    tokenizer = checkpoint.tokenizer
    ends = sorted(checkpoint.end_ids or _ids(tokenizer.end_of_text, tokenizer))
    end = ends if len(ends) > 1 else ends[0] if ends else None
    named = tokenizer.end_of_text if tokenizer.end_of_text in ends else min(ends, default=None)
    end_token = None if named is None else tokenizer.decode([named])
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_token,
        "pad_token": end_token,  # the attention mask tells the two apart
        "padding_side": "left",  # so that what is generated follows every text of a batch
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": checkpoint.config.context,
        "clean_up_tokenization_spaces": False,
    }
    dtype = dtype_name(next(iter(checkpoint.weights.values())).dtype)
    texts = {
        directory.CONFIG: _json(
            config_to_json(checkpoint.config, start_of_text=checkpoint.start_of_text, end_of_text=end, dtype=dtype)
        ),
        directory.GENERATION: _json({"bos_token_id": checkpoint.start_of_text, "eos_token_id": end}),
        directory.TOKENIZER: tokenizer.to_json().encode(),
        directory.TOKENIZER_CONFIG: _json(tokenizer_config),
        directory.RUN: _json(checkpoint.run),
        directory.METRICS: b"".join(json.dumps(line).encode() + b"\n" for line in checkpoint.metrics),
    }
    if checkpoint.state is not None:
        texts[directory.STATE_FACTS] = _json(checkpoint.state.facts)
    return texts


def _keep_card(old: Path, new: Path) -> bool:
    """Copies a model card that somebody wrote or edited to the directory that takes the place of its own.

    Whether there was one; a card that attncli wrote is written anew. Raises OSError when it cannot be kept.
    """
    if not directory.is_card(old / directory.CARD):
        return False
    card = read_regular(old / directory.CARD, directory.LARGEST_CARD, follow=False)
    if is_generated(card):
        return False
    _write_flushed(new / directory.CARD, card)
    return True


def _card(target: Path, checkpoint: Checkpoint) -> bytes | None:
    """The model card of a run that has a score; a model without such a record gets none."""
    if not all(checkpoint.run.get(key) for key in RECORDED):
        return None
    config = checkpoint.config
    return model_card(target.name, family_of(config).model_type, checkpoint.run, config.context)


def _write_files(folder: Path, checkpoint: Checkpoint, texts: dict[str, bytes]) -> None:
    """Everything, each file flushed to the disk, the manifest last."""
    digests = {}
    if checkpoint.state is not None:
        (folder / directory.STATE_FACTS).parent.mkdir()
        digests[directory.STATE_TENSORS] = write_tensors(folder / directory.STATE_TENSORS, checkpoint.state.tensors)
    weights = _as_stored(checkpoint.config, checkpoint.weights)
    digests[directory.WEIGHTS] = write_tensors(folder / directory.WEIGHTS, weights, {"format": "pt"})
    for name, data in texts.items():
        digests[name] = hashlib.sha256(data).hexdigest()
        _write_flushed(folder / name, data)
    _write_flushed(folder / directory.MANIFEST, _json({"sha256": digests}))
    for written in {folder, *((folder / name).parent for name in digests)}:
        _flush_folder(written)


def _as_stored(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file: ours under their names; joined, so copied, where a family stores several as one."""
    joined = {}
    for name, held in family_of(config).tensor_names.stored(weights).items():
        parts = [weights[own].detach() for own in held.ours]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        joined[name] = whole.T if held.transposed else whole
    return joined


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(folder: Path, target: Path) -> None:
    if target.exists():
        _discard_previous(target)
        target.rename(directory.previous_of(target))
    folder.rename(target)
    _flush_folder(target.parent)


def _remove_unfinished(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.writing-*"):
        if _UNFINISHED.search(left.name):
            remove(left)


def _discard_previous(target: Path) -> None:
    """Removes the save before the last one, first from under its name: what has that name is a whole save.

    Raises OSError, also for what has the name and is no save.
    """
    previous, aside = directory.previous_of(target), aside_of(target, "previous")
    if look(previous, follow=False) is None:
        return
    if is_link(previous) or not directory.is_save(previous):
        raise OSError(errno.EEXIST, f"{previous} stands in the way, and is no save of it")
    previous.rename(aside)
    remove(aside)


def load_model(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Reads a model directory onto a device, in a type or, for None, the one that it is stored in.

    Raises BadCheckpoint for anything that is missing, foreign, damaged or unsafe.
    """
    while True:
        before = _identity(path)
        try:
            return _load_model(directory.present(path) or path, device, dtype)
        except BadCheckpoint:
            if _identity(path) == before:
                raise  # else a training run replaced the directory meanwhile


def _identity(path: Path) -> tuple[int, int] | None:
    """Which directory stands at a path, if one does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _load_model(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    folder = ModelFolder(path)
    described = folder.json(directory.CONFIG)
    family, config = read_config(described, str(path / directory.CONFIG))
    tokenizer = _tokenizer_of(folder, config)
    model = read_weights(folder, config, family.tensor_names, device, dtype)
    settings = described | folder.json_if_any(directory.GENERATION)
    ends = _ids(settings.get("eos_token_id"), tokenizer) or _ids(tokenizer.end_of_text, tokenizer)
    starts = _ids(settings.get("bos_token_id"), tokenizer) or ends or {0}
    return LoadedModel(model, tokenizer, path, min(starts), frozenset(ends), folder.json_if_any(directory.RUN))


def _tokenizer_of(folder: ModelFolder, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a directory. Raises BadCheckpoint when it has ids that the model does not."""
    tokenizer = folder.tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise BadCheckpoint(
            f"{folder.path}: the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size}.",
            "They are of different models.",
        )
    return tokenizer


def _ids(setting: object, tokenizer: Tokenizer) -> set[int]:
    """The token ids that a setting names: one, or a list of them, or none."""
    listed = setting if isinstance(setting, list) else [setting]
    return {id_ for id_ in listed if type(id_) is int and 0 <= id_ < tokenizer.vocab_size}


def read_resumable(path: Path) -> Checkpoint:
    """Everything needed to resume a run: the best weights so far, the records, the state; digests are checked.

    Raises BadCheckpoint when the directory holds no state, or a damaged one.
    """
    folder = ModelFolder(path)
    if not folder.holds(directory.STATE_FACTS):
        raise BadCheckpoint(
            f"{path} holds no state to resume from.",
            f"Its run has ended. To go on from its model: attncli train FILE --from {path.name} --name NEW",
        )
    if not folder.holds(directory.MANIFEST):
        raise BadCheckpoint(f"{path} holds no {directory.MANIFEST}, without which its state cannot be trusted.")
    family, config = read_config(folder.json(directory.CONFIG), str(path / directory.CONFIG))
    tokenizer, settings = _tokenizer_of(folder, config), folder.json(directory.GENERATION)
    folder.json(directory.TOKENIZER_CONFIG)  # nothing of it is needed, but a save is whole or it is none
    starts = _ids(settings.get("bos_token_id"), tokenizer)
    if len(starts) != 1:
        raise BadCheckpoint(
            f"{path / directory.GENERATION} names no token of the tokenizer as bos_token_id, with which a text begins.",
            "Copy the directory again, or train again.",
        )
    return Checkpoint(
        config,
        read_weights(folder, config, family.tensor_names, torch.device("cpu"), torch.float32).state_dict(),
        tokenizer,
        starts.pop(),
        run=folder.json(directory.RUN),
        metrics=_metrics(folder),
        state=_read_state(folder),
        end_ids=frozenset(_ids(settings.get("eos_token_id"), tokenizer)),
    )


def _metrics(folder: ModelFolder) -> list[dict[str, Any]]:
    """The reports of a run so far, each of a kind and of a step."""
    path = folder.path / directory.METRICS
    lines = [line for line in folder.json_lines(directory.METRICS) if line]
    for number, line in enumerate(lines, 1):
        if not isinstance(line.get("kind"), str) or type(line.get("step")) is not int:
            raise BadCheckpoint(f"{path}: report {number} has no kind or no step.", "Copy the directory again.")
    return lines


def _read_state(folder: ModelFolder) -> State:
    facts = folder.json(directory.STATE_FACTS)
    with open_tensors(folder.file(directory.STATE_TENSORS)) as opened:
        tensors = dict(opened.tensors())
        folder.check(directory.STATE_TENSORS, opened.sha256())
    return State(tensors, facts)
