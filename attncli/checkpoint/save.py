"""Writes a model directory atomically: a save is complete, or nothing changes.

`Checkpoint` is the content of a save: the weights, the config, the tokenizer, the record of the run, and for an
unfinished run, the state for resuming it. `write_checkpoint` checks that there is room on the disk. It writes the files
to a new directory beside the target and flushes each file, the manifest last. Then `atomic.swap` replaces the target by
the new directory. `training.loop` decides when to save.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attncli.checkpoint import directory
from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.adapter import adapter_settings, adapter_tensors
from attncli.checkpoint.atomic import (
    aside_of,
    discard_previous,
    flush_folder,
    remove_unfinished,
    settle,
    swap,
    write_flushed,
)
from attncli.checkpoint.card import RECORDED, is_generated, model_card
from attncli.checkpoint.families.registry import config_to_json, family_of, start_and_end
from attncli.checkpoint.tensors import write_tensors
from attncli.config import ModelConfig
from attncli.model.device import dtype_name
from attncli.paths import no_room, read_regular, remove, resolved, unwritable
from attncli.text.tokenizer import Tokenizer

_HEADERS = 1 << 20  # bytes; an upper limit of the tensor files' headers and the manifest


@dataclass(frozen=True)
class State:
    """The data that resuming a run needs in addition to the model: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Borders(NamedTuple):
    """The tokens with which a text begins and ends, and the tokens that an encoder-decoder never generates.

    A text without a prompt begins with `start_of_text`, and a target then continues with the tokens `forced`. A text
    ends at any of `end_ids`. At the limit of its length, a target ends with `forced_end`, if this is not None.
    """

    start_of_text: int
    end_ids: frozenset[int]
    forced: tuple[int, ...] = ()
    banned: frozenset[int] = frozenset()
    forced_end: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The content of a model directory. The names in `weights` are the attributes of `Transformer`.

    With an `adaptation`, it is the content of an adapter's directory: `weights` are those of the adapters alone.
    `start_of_text`, `end_ids`, `forced`, `banned` and `forced_end` are those of `Borders`. If `end_ids` is empty, a
    text ends at the tokenizer's end-of-text token. `special_tokens` are settings of tokenizer_config.json, such as
    {'bos_token': '<s>'}; they replace those that `write_checkpoint` chooses.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    start_of_text: int
    run: dict[str, Any] = field(default_factory=dict)
    metrics: Sequence[dict[str, Any]] = ()
    state: State | None = None
    end_ids: frozenset[int] = frozenset()
    forced: tuple[int, ...] = ()
    banned: frozenset[int] = frozenset()
    forced_end: int | None = None
    adaptation: Adaptation | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None

    @property
    def borders(self) -> Borders:
        """The tokens with which a text begins and ends, and the banned tokens."""
        return Borders(self.start_of_text, self.end_ids, self.forced, self.banned, self.forced_end)


def write_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint to `target` atomically. The caller holds the lock of `target`.

    With a state, the previous save is kept beside the target. Without a state, the run has finished, and the previous
    save is removed. A model card that somebody wrote or edited is copied; otherwise, a card is generated from the
    record of the run.

    Raises:
        OutOfRoom: if the disk is full or the folder cannot be written; the previous save is unchanged.
    """
    target = resolved(target)
    folder = aside_of(target, str(os.getpid()))
    texts = _texts(checkpoint)
    needed = _size(checkpoint, texts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target)
        _refuse_without_room(target, needed)
        folder.mkdir()
        if not _keep_card(target, folder) and (card := _card(target, checkpoint)):
            write_flushed(folder / directory.CARD, card)
        _write_files(folder, checkpoint, texts)
        swap(folder, target)
    except OSError as problem:
        raise unwritable(target, problem, needed) from None
    finally:
        remove(folder)
        settle(target)  # needed if the disk was full between the two renames
    if checkpoint.state is None:
        with suppress(OSError):
            discard_previous(target)


def try_checkpoint(target: Path, checkpoint: Checkpoint) -> None:
    """Raises OutOfRoom if the disk has no room for a checkpoint. Writes nothing; the caller holds the lock."""
    target = resolved(target)
    try:
        _refuse_without_room(target, _size(checkpoint, _texts(checkpoint)))
    except OSError as problem:
        raise unwritable(target, problem) from None


def fall_back(target: Path) -> None:
    """Replaces a damaged save by the previous save. The caller holds the lock of `target`.

    Call this before the next save: each save removes the previous save, which is now the only undamaged save.
    """
    target = resolved(target)
    aside = aside_of(target, "damaged")  # removed by the next save
    remove(aside)
    try:
        target.rename(aside)
        settle(target)
        _keep_card(aside, target)
    except OSError as problem:
        raise unwritable(target, problem) from None


def _size(checkpoint: Checkpoint, texts: dict[str, bytes]) -> int:
    """Returns an upper limit of the bytes that a save needs on the disk."""
    tensors = [*checkpoint.weights.values(), *(checkpoint.state.tensors.values() if checkpoint.state else ())]
    return sum(int(tensor.nbytes) for tensor in tensors) + sum(map(len, texts.values())) + _HEADERS


def _refuse_without_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise no_room(target, needed, free)


def _texts(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Returns the content of each text file of a save, except the manifest and the model card, by name."""
    records = {
        directory.RUN: _json(checkpoint.run),
        directory.METRICS: b"".join(json.dumps(report).encode() + b"\n" for report in checkpoint.metrics),
    }
    if checkpoint.state is not None:
        records[directory.STATE_FACTS] = _json(checkpoint.state.facts)
    adaptation = checkpoint.adaptation
    if adaptation is None:
        return _texts_of_model(checkpoint) | records
    settings = adapter_settings(adaptation.lora, checkpoint.config, adaptation.base)
    return {directory.ADAPTER_CONFIG: _json(settings)} | records


def _texts_of_model(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Returns the content of the files that describe a model and its tokenizer, by name."""
    config, tokenizer, start = checkpoint.config, checkpoint.tokenizer, checkpoint.start_of_text
    ends = sorted(checkpoint.end_ids or token_ids(tokenizer.end_of_text, tokenizer))
    end = ends if len(ends) > 1 else ends[0] if ends else None
    dtype = dtype_name(next(iter(checkpoint.weights.values())).dtype)
    template = checkpoint.chat_template
    return {
        directory.CONFIG: _json(config_to_json(config, start_of_text=start, end_of_text=end, dtype=dtype)),
        directory.GENERATION: _json(start_and_end(config, start, end) | _constraints(checkpoint)),
        directory.TOKENIZER: tokenizer.to_json().encode(),
        directory.TOKENIZER_CONFIG: _json(
            _tokenizer_config(tokenizer, ends, config.context, encodes=config.encoder_layers > 0)
            | dict(checkpoint.special_tokens)
        ),
        **({} if template is None else {directory.CHAT_TEMPLATE: template.encode()}),
    }


def _constraints(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the settings of generation_config.json for forced and banned tokens. Leaves out settings without one."""
    settings = {
        "forced_bos_token_id": next(iter(checkpoint.forced), None),
        "bad_words_ids": [[id_] for id_ in sorted(checkpoint.banned)] or None,
        "forced_eos_token_id": checkpoint.forced_end,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _tokenizer_config(tokenizer: Tokenizer, ends: list[int], context: int, *, encodes: bool) -> dict[str, Any]:
    """Returns the content of tokenizer_config.json for transformers.

    `ends` are the tokens that end a text, sorted. `encodes` is true for a model with an encoder and a decoder.
    """
    named = tokenizer.end_of_text if tokenizer.end_of_text in ends else min(ends, default=None)
    end_token = None if named is None else tokenizer.decode([named])
    pad = tokenizer.pad if encodes else None
    special = {tokenizer.decode([id_]) for id_ in tokenizer.special_ids} if encodes else set()
    others = {key: name for key, name in (("bos_token", "<s>"), ("unk_token", "<unk>")) if name in special}
    return {
        **others,  # the converter of CTranslate2 needs these tokens
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_token,
        # without a padding token, end tokens pad a batch; the attention mask hides them
        "pad_token": end_token if pad is None else tokenizer.decode([pad]),
        # left: in a decoder alone, generated tokens directly follow each text of a batch
        "padding_side": "right" if encodes else "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }


def token_ids(setting: object, tokenizer: Tokenizer) -> set[int]:
    """Returns the token ids in a setting: an id, a list of ids, or None. Skips invalid ids."""
    listed = setting if isinstance(setting, list) else [setting]
    return {id_ for id_ in listed if type(id_) is int and 0 <= id_ < tokenizer.vocab_size}


def _keep_card(old: Path, new: Path) -> bool:
    """Copies a model card to the new directory if somebody wrote or edited it. Returns whether the card was copied.

    A card that attncli generated is not copied, because it is generated again. Raises OSError.
    """
    if not directory.is_card(old / directory.CARD):
        return False
    card = read_regular(old / directory.CARD, directory.LARGEST_CARD, follow=False)
    if is_generated(card):
        return False
    write_flushed(new / directory.CARD, card)
    return True


def _card(target: Path, checkpoint: Checkpoint) -> bytes | None:
    """Returns the model card, or None if the run's record lacks a value for a key of RECORDED."""
    if not all(checkpoint.run.get(key) for key in RECORDED):
        return None
    config = checkpoint.config
    return model_card(target.name, family_of(config).model_type, checkpoint.run, config.context)


def _write_files(folder: Path, checkpoint: Checkpoint, texts: dict[str, bytes]) -> None:
    """Writes every file and flushes each to the disk, the manifest last."""
    digests = {}
    if checkpoint.state is not None:
        (folder / directory.STATE_FACTS).parent.mkdir()
        digests[directory.STATE_TENSORS] = write_tensors(folder / directory.STATE_TENSORS, checkpoint.state.tensors)
    if checkpoint.adaptation is None:
        file, weights = directory.WEIGHTS, _stored_weights(checkpoint.config, checkpoint.weights)
    else:
        file = directory.ADAPTER_WEIGHTS
        weights = adapter_tensors(checkpoint.config, checkpoint.adaptation.lora, checkpoint.weights)
    digests[file] = write_tensors(folder / file, weights, {"format": "pt"})
    for name, data in texts.items():
        digests[name] = hashlib.sha256(data).hexdigest()
        write_flushed(folder / name, data)
    write_flushed(folder / directory.MANIFEST, _json({"sha256": digests}))
    for written in {folder, *((folder / name).parent for name in digests)}:
        flush_folder(written)


def _stored_weights(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors to write, by the family's names.

    Concatenates our tensors that the family stores as one tensor.
    """
    stored = {}
    for name, tensor in family_of(config).tensor_names.stored(weights).items():
        parts = [weights[own].detach() for own in tensor.ours]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        stored[name] = whole.T if tensor.transposed else whole[None] if tensor.as_row else whole
    return stored


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"
