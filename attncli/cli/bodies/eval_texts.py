"""Prepares `attncli eval` without PyTorch: finds the model among the arguments and reads the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attncli.checkpoint.catalog import GGUF, MODELS_FOLDER, find_model, known_models
from attncli.checkpoint.directory import CONFIG
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.gguf.folder import open_folder
from attncli.checkpoint.hub import is_of_hub
from attncli.cli.resolving import find_adapted
from attncli.cli.shared import ModelSource
from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.paths import exists, is_file
from attncli.render.console import print_note
from attncli.text.files import read_documents
from attncli.text.parts import Part, split_by_position
from attncli.text.reading import name_of

_LONGEST_NAME = 200  # characters of a path component; a longer argument is a text, not a path


@dataclass(frozen=True)
class Texts:
    """The text to score, and the text to train the baselines on, if there is one."""

    paths: list[str]
    scored: Part
    before: Part | None
    last: float  # the share of the characters that is scored
    train_files: tuple[str, ...]  # the files of `before`; empty if `before` is the text before the scored part

    @property
    def title(self) -> str:
        """The name of the scored text: 'book.txt, the last 10%'."""
        named = ", ".join(map(name_of, self.paths))
        return f"{named}, the last {self.last * 100:g}%" if self.last < 1 else named

    @property
    def origin(self) -> str:
        """The name of the text that the baselines were trained on."""
        return "the training text" if self.train_files else "the text before it"


def model_and_files(words: Sequence[str], model: str | None) -> tuple[str | None, list[str]]:
    """Splits the arguments into the model and the files.

    Without -m, the first argument is the model if it names a model and not a file. Raises BadInput for a name that is
    too long, UsageProblem if there is a model and no file.
    """
    first, *more = words
    if max(map(len, first.split("/"))) > _LONGEST_NAME:
        raise BadInput(
            f"There is no file {first[:40]}…: the name is too long.",
            "To score a text itself, pipe it in and give - as the file.",
        )
    is_gguf = first.lower().endswith(GGUF)
    if model is not None or not first or (is_file(first) and not is_gguf):
        return model, list(words)
    is_model = is_gguf or any(is_file(folder / CONFIG) for folder in (Path(first), MODELS_FOLDER / first))
    is_model = is_model or any(first == entry.name for entry in known_models()) or bool(more and is_of_hub(first))
    if is_model and more:
        return first, more
    if (is_model and not exists(first)) or is_file(Path(first) / CONFIG) or is_gguf:
        raise UsageProblem(
            f"{first} is a model, and there is no text to score.", f"Add a file: attncli eval {first} FILE"
        )
    if more and first != "-" and not exists(first):
        find_model(first)  # raises an error that lists the models
    return None, list(words)


def model_beside_pairs(words: Sequence[str], model: str | None) -> tuple[str | None, list[str]]:
    """Returns the model, and an empty list of files, if --pairs or --source names the files.

    The only argument allowed is then the model. Raises UsageProblem for any other argument.
    """
    if len(words) > 1 or (words and model is not None):
        raise UsageProblem(
            f"{words[-1]} is given beside the files of pairs.", "Give all pairs as arguments, or by options."
        )
    return (words[0] if words else model), []


def translates(source: ModelSource) -> bool:
    """Whether a model is an encoder-decoder. Reads its config only. Raises BadCheckpoint if there is no such model."""
    path = find_adapted(source, weights=False).model
    folder = open_folder(path)
    return config_from_json(folder.json(CONFIG), str(folder.where(CONFIG))).encoder_layers > 0


def read_texts(paths: list[str], train_files: Sequence[str], last: float, reading: CorpusConfig) -> Texts:
    """Returns the texts of `attncli eval`. Raises BadInput for a file that is missing or not text."""
    documents = read_documents(paths, reading)
    for note in documents.notes:
        print_note(note)
    before, scored = split_by_position(documents, last)
    if train_files:
        before = Part.whole(read_documents(train_files, reading))
    return Texts(paths, scored, before if before.characters else None, last, tuple(train_files))
