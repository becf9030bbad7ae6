"""Reads a model directory, as a model to use or as a run to resume. Executes no code of the directory.

Training may replace the directory at any time. So a failed read is repeated if the directory was replaced meanwhile.
`directory`, `families` and `weights` check the contents of the files.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from attncli.checkpoint import directory
from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.adapter import read_adapter, trained_tensors
from attncli.checkpoint.atomic import present
from attncli.checkpoint.catalog import MODELS_FOLDER
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.families.registry import family_of, read_config
from attncli.checkpoint.gguf.folder import open_folder
from attncli.checkpoint.save import Borders, Checkpoint, State, token_ids
from attncli.checkpoint.tensors import open_tensors
from attncli.checkpoint.weights import read_weights
from attncli.config import ModelConfig, shown_value
from attncli.config.lora import LoraConfig
from attncli.errors import BadCheckpoint, Naming, UsageProblem, hint_in
from attncli.model.transformer import Transformer
from attncli.paths import is_file
from attncli.records import record_from_json
from attncli.text.tokenizer import MASK, Piece, Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer, and its directory."""

    model: Transformer
    tokenizer: Tokenizer
    path: Path
    start_of_text: int
    end_ids: frozenset[int]  # tokens that end a text
    run: dict[str, Any]
    forced: tuple[int, ...] = ()  # the tokens with which every target begins after `start_of_text`
    banned: frozenset[int] = frozenset()  # tokens that an encoder-decoder never generates
    forced_end: int | None = None  # the token that ends a target of an encoder-decoder at the limit of its length
    adapter: Path | None = None  # the directory of the adapter that is merged into the weights
    notes: tuple[str, ...] = ()  # warnings for the user

    def prompt(self, text: str) -> list[int]:
        """Returns the ids that the model continues: the tokens that open every text, then the tokens of this text.

        If there are no ids, returns `start_of_text` alone. For an encoder alone, which continues no text, and for the
        source of an encoder-decoder, the ids of the tokens that close every text follow.
        """
        ids = [*self.tokenizer.opening, *self.tokenizer.encode(text)]
        if self.model.config.kind != "decoder":
            return [*ids, *self.tokenizer.closing]
        return ids or [self.start_of_text]

    def target(self, text: str = "") -> list[int]:
        """Returns the ids with which the decoder of an encoder-decoder begins, then the tokens of this text."""
        return [self.start_of_text, *self.forced, *self.tokenizer.target.encode(text)]

    def inputs(self, prompts: Sequence[list[int]]) -> tuple[Sequence[list[int]], Sequence[list[int]] | None]:
        """Returns the decoder's prompts for ids from `prompt`, and their sources: None for a model without an encoder.

        For an encoder-decoder, the ids are the sources, and every prompt of the decoder is the beginning of a target.
        """
        return ([self.target()] * len(prompts), prompts) if self.translates else (prompts, None)

    @property
    def translates(self) -> bool:
        """Whether the model is an encoder-decoder, which generates a target for a source."""
        return self.model.config.kind == "encoder-decoder"

    def pieces(self, text: str, pair: str | None = None) -> list[Piece]:
        """Returns the tokens that open every text, then the tokens of this text.

        If the model has an encoder, also returns the tokens that close every text. For an encoder alone, the tokens of
        the second text of a pair follow: '[CLS] text [SEP] pair [SEP]'. Raises UsageProblem for a pair if the model has
        no segments for pairs.
        """
        opened = [*self.tokenizer.opening_pieces, *self.tokenizer.pieces(text)]
        if pair is not None and self.model.config.segments < 2:
            raise UsageProblem(f"{self.name} reads no pairs of texts.", "Give one text.")
        if self.model.config.kind == "decoder":
            return opened
        closing = self.tokenizer.closing_pieces
        second = [] if pair is None else [*self.tokenizer.pieces(pair), *closing]
        return [*opened, *closing, *(replace(piece, segment=1) for piece in second)]

    def refuse_encoder(self, what: str) -> None:
        """Raises UsageProblem if the model is an encoder alone. `what` names the limitation: 'continues no text'."""
        if self.model.config.kind == "encoder":
            raise UsageProblem(
                f"{self.name} is an encoder alone, which {what}.",
                f'attncli next "The {MASK} barked." predicts the masked word, and attncli explain shows its attention.',
            )

    def refuse_translator(self, what: str) -> None:
        """Raises UsageProblem if the model is an encoder-decoder. `what` a command does: 'measures one text'."""
        if self.translates:
            raise UsageProblem(
                f"{self.name} translates, and this command {what}.",
                'attncli explain "TEXT" shows each share beside its cut, and attncli ablate "TEXT" removes heads.',
            )

    @property
    def borders(self) -> Borders:
        """The start token, the end tokens, and the forced and banned tokens of a model fine-tuned from this one.

        The token that separates documents is added to the end tokens.
        """
        between = self.tokenizer.end_of_text
        ends = self.end_ids | ({between} if between is not None else set())
        return Borders(self.start_of_text, ends, self.forced, self.banned, self.forced_end)

    @cached_property
    def name(self) -> str:
        """The name of the model, from its directory."""
        return directory.name_of(self.path)


def load_model(path: Path, device: torch.device, dtype: torch.dtype | None, adapter: Path | None = None) -> LoadedModel:
    """Loads the model of a directory or GGUF file onto a device. The weights have `dtype`; None keeps the stored dtype.

    The adapter in the directory `adapter` is merged into the weights, in float32, before they are rounded to the dtype.
    Raises BadCheckpoint for a file that is missing, damaged, unsafe or of another format.
    """
    while True:
        before = identity(path), identity(adapter)
        try:
            place = None if adapter is None else present(adapter) or adapter
            return _load_model(present(path) or path, device, dtype, place)
        except BadCheckpoint:
            if (identity(path), identity(adapter)) == before:
                raise  # else a training run has replaced a directory: read it again


def identity(path: Path | None) -> tuple[int, int] | None:
    """Returns a value that changes when the directory at a path is replaced; None if there is no directory."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _load_model(path: Path, device: torch.device, dtype: torch.dtype | None, place: Path | None) -> LoadedModel:
    folder = open_folder(path)
    described = folder.json(directory.CONFIG)
    family, config = read_config(described, str(folder.where(directory.CONFIG)))
    tokenizer = _tokenizer_of(folder, config)
    adapter = None if place is None else read_adapter(place, config, family.tensor_names)
    change = (lambda held, tensor: tensor) if adapter is None else adapter.change
    model = read_weights(folder, config, folder.names_of(family), device, dtype, change)
    settings = described | folder.json_if_any(directory.GENERATION)
    ends = token_ids(settings.get("eos_token_id"), tokenizer) or token_ids(tokenizer.end_of_text, tokenizer)
    starts = token_ids(settings.get(_start_setting(config)), tokenizer) or ends or {0}
    if config.kind == "encoder" and tokenizer.opening:
        starts = {tokenizer.opening[0]}  # [CLS], which the settings of BERT do not name
    found = _constrained(Borders(min(starts), frozenset(ends)), settings, config, tokenizer, path)
    run = folder.json_if_any(directory.RUN)
    if adapter is None:
        return LoadedModel(model, tokenizer, path, run=run, **found._asdict())
    if not is_file(path):  # the tokenizer of a GGUF file is described in another way
        adapter.refuse_other_tokenizer(tokenizer.digest, path)
    notes = (note,) if (note := adapter.note_on(path)) else ()
    return LoadedModel(
        model, tokenizer, path, run=adapter.run or run, **found._asdict(), adapter=adapter.path, notes=notes
    )


def _constrained(
    borders: Borders, settings: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer, path: Path
) -> Borders:
    """Returns `borders` with the forced and the banned tokens of an encoder-decoder's settings.

    Raises BadCheckpoint if `forced_bos_token_id` is a list of several ids: a target has one first token.
    """
    if not config.encoder_layers:
        return borders
    first, last = settings.get("forced_bos_token_id"), settings.get("forced_eos_token_id")
    if isinstance(first, list) and len(first) != 1:
        raise BadCheckpoint(
            f"{path}: forced_bos_token_id is {shown_value(first)}, and a target has one first token.",
            f"Set it to one id or null in {directory.GENERATION}.",
        )
    return borders._replace(
        forced=tuple(token_ids(first, tokenizer)),
        banned=_banned(settings, tokenizer),
        forced_end=min(token_ids(last, tokenizer), default=None),
    )


def _banned(settings: dict[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    """Returns the single tokens of `bad_words_ids`, such as Marian's padding token, which is its start token."""
    words = settings.get("bad_words_ids")
    single = [word[0] for word in words if isinstance(word, list) and len(word) == 1] if isinstance(words, list) else []
    return frozenset(token_ids(single, tokenizer))


def _start_setting(config: ModelConfig) -> str:
    """Returns the name of the setting for the token with which a text of the decoder begins."""
    return "decoder_start_token_id" if config.encoder_layers else "bos_token_id"


def _tokenizer_of(folder: ModelFolder, config: ModelConfig) -> Tokenizer:
    """Returns the tokenizer of a directory. Raises BadCheckpoint if the tokenizer has more ids than the model."""
    tokenizer = folder.tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise BadCheckpoint(
            f"{folder.path}: the tokenizer has {tokenizer.vocab_size} ids, and the model has {config.vocab_size}.",
            "The two are of different models.",
        )
    return tokenizer


def read_resumable(path: Path) -> Checkpoint:
    """Reads the save of a stopped run: the best weights so far, the records and the state. Checks the digests.

    Raises BadCheckpoint if the state is missing or damaged.
    """
    folder = ModelFolder(path)
    _require_state(folder)
    if folder.holds(directory.ADAPTER_CONFIG):
        return _resumable_adapter(folder)
    family, config = read_config(folder.json(directory.CONFIG), str(path / directory.CONFIG))
    tokenizer, settings = _tokenizer_of(folder, config), folder.json(directory.GENERATION)
    folder.json(directory.TOKENIZER_CONFIG)  # only checked: a save without this file is damaged
    start_setting = _start_setting(config)
    starts = token_ids(settings.get(start_setting), tokenizer)
    if len(starts) != 1:
        raise BadCheckpoint(
            f"{path / directory.GENERATION} has no valid {start_setting}, the token with which a text begins.",
            "Copy the directory again, or train again.",
        )
    weights = read_weights(folder, config, family.tensor_names, torch.device("cpu"), torch.float32)
    ends = frozenset(token_ids(settings.get("eos_token_id"), tokenizer))
    borders = _constrained(Borders(starts.pop(), ends), settings, config, tokenizer, path)
    return Checkpoint(
        config,
        weights.state_dict(),
        tokenizer,
        **borders._asdict(),
        run=folder.json(directory.RUN),
        metrics=_metrics(folder),
        state=_read_state(folder),
    )


def _resumable_adapter(folder: ModelFolder) -> Checkpoint:
    """Reads the save of a stopped run that trains adapters, and the model that it adapts.

    Raises BadCheckpoint if the model is missing or has changed.
    """
    path, run = folder.path, folder.json(directory.RUN)
    where, plan = f"{path / directory.RUN}: plan: lora", run.get("plan")
    lora = record_from_json(LoraConfig, plan.get("lora") if isinstance(plan, dict) else None, where)
    start, recorded = run.get("from"), run.get("base")
    base = Path(start) if isinstance(start, str) else path
    if not isinstance(start, str) or not (is_file(base) or present(base)):
        raise BadCheckpoint(f"{path} adapts the model {shown_value(start)}, which is missing.", "Put it back there.")
    loaded = load_model(base, torch.device("cpu"), torch.float32)
    digest = ModelFolder(loaded.path).digest_of_weights()
    if not isinstance(recorded, dict) or recorded.get("weights") != digest:
        raise BadCheckpoint(
            f"{base} has changed since {path} began to adapt it.", "Put the model back, or train again."
        )
    config = loaded.model.config
    adapter = read_adapter(path, config, family_of(config).tensor_names)
    return Checkpoint(
        config,
        trained_tensors(config, lora, adapter),
        loaded.tokenizer,
        **loaded.borders._asdict(),
        run=run,
        metrics=_metrics(folder),
        state=_read_state(folder),
        adaptation=Adaptation(lora, base, digest, loaded.model.state_dict()),
    )


def _require_state(folder: ModelFolder) -> None:
    if not folder.holds(directory.STATE_FACTS):
        path = folder.path
        start = path.name if path.parent == MODELS_FOLDER else str(path)
        call = f'train("FILE", start={start!r}, name="NEW")'

        def text(named: Naming) -> tuple[str, str]:
            command = f"attncli train FILE {named('start')} {shlex.quote(start)} {named('name')} NEW"
            hint = f"Its run has ended. To fine-tune its model: {hint_in(named, command, call)}"
            return f"{path} holds no state to resume from.", hint

        raise BadCheckpoint.naming(text)
    if not folder.holds(directory.MANIFEST):
        raise BadCheckpoint(f"{folder.path} holds no {directory.MANIFEST}, without which its state cannot be trusted.")


def _metrics(folder: ModelFolder) -> list[dict[str, Any]]:
    """Returns the reports of a run. Raises BadCheckpoint for a report without a kind or a step."""
    path = folder.path / directory.METRICS
    reports = [report for report in folder.json_lines(directory.METRICS) if report]
    for number, report in enumerate(reports, 1):
        if not isinstance(report.get("kind"), str) or type(report.get("step")) is not int:
            raise BadCheckpoint(f"{path}: report {number} has no kind or no step.", "Copy the directory again.")
    return reports


def _read_state(folder: ModelFolder) -> State:
    facts = folder.json(directory.STATE_FACTS)
    with open_tensors(folder.file(directory.STATE_TENSORS)) as opened:
        tensors = dict(opened.tensors())
        folder.check(directory.STATE_TENSORS, opened.sha256())
    return State(tensors, facts)
