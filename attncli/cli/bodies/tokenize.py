"""`attncli tokenize`: prints the tokens of a text, decodes ids, or trains a tokenizer. Needs no torch."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from attncli.checkpoint.catalog import newest_model, shipped_model
from attncli.checkpoint.directory import CONFIG, ModelFolder, name_of
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.gguf.folder import open_folder
from attncli.cli.bodies.results import show_result
from attncli.cli.outputs import write_file
from attncli.cli.resolving import find
from attncli.cli.shared import ModelChoice
from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, OutOfRoom, UsageProblem
from attncli.paths import exists, make_folder, reason
from attncli.render.console import messages, output, print_json, print_note
from attncli.render.escape import one_line, visible
from attncli.render.status import status
from attncli.render.tokens import tokens_document, tokens_screen, totals
from attncli.render.training import reading_progress
from attncli.text.corpus import learn_tokenizer
from attncli.text.files import read_documents
from attncli.text.parts import Part
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer
from attncli.text.tokens import count_tokens


def show_tokens(text: str, choice: ModelChoice, *, ids: bool, json: bool) -> None:
    """Prints the tokens of a text, or with `ids` only their ids."""
    tokenizer, name, closes = _tokenizer(choice)
    closing = tokenizer.closing_pieces if closes else ()
    if ids:
        around = [*tokenizer.opening, *tokenizer.encode(text), *(piece.id for piece in closing)]
        output().file.write(" ".join(map(str, around)) + "\n")
        return
    if tokenizer.target is not tokenizer:
        print_note(f"{name} has another tokenizer for targets; attncli explain --target shows the tokens of a target")
    pieces = tokenizer.pieces(text)
    added = list(takewhile(lambda piece: not piece.of_text, pieces))
    opening, pieces = [*tokenizer.opening_pieces, *added], pieces[len(added) :]
    show_result(
        lambda: tokens_document(pieces, len(text), name, opening, closing),
        lambda console: tokens_screen(pieces, len(text), name, console.width, opening, closing),
        json=json,
    )


def decode_ids(listed: str, choice: ModelChoice, *, json: bool) -> None:
    """Prints the text of ids that are separated by spaces or commas. Raises BadInput for a word that is not an id."""
    tokenizer, _, closes = _tokenizer(choice)
    words = [word for word in re.split(r"[\s,\[\]]+", listed) if word]
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)), None)
    if wrong is not None:
        raise BadInput(f"{wrong!r} is not a token id.", "Give whole numbers, separated by spaces.")
    ids = [int(word) for word in words]
    text = tokenizer.decode(_without_added(ids, tokenizer, closes))
    if json:
        print_json({"ids": ids, "text": text})
    else:
        console = output()
        console.file.write((visible(text) if console.is_terminal else text) + "\n")


def _without_added(ids: list[int], tokenizer: Tokenizer, closes: bool) -> list[int]:
    """Returns the ids without the tokens that the tokenizer adds before a text and, if `closes`, after the text."""
    opening, closing = tokenizer.opening, tokenizer.closing if closes else ()
    if closing and tuple(ids[-len(closing) :]) == closing:
        ids = ids[: -len(closing)]
    return ids[len(opening) :] if len(opening) < len(ids) and tuple(ids[: len(opening)]) == opening else ids


def train_tokenizer(files: Sequence[str], config: CorpusConfig, out: Path, *, force: bool, json: bool) -> None:
    """Trains a tokenizer on files, writes it to a directory, and prints the number of tokens in the files."""
    target = out / "tokenizer.json"
    if exists(target) and not force:
        raise UsageProblem(f"{target} exists.", "Choose another --out, or --force to replace it.")
    with reading_progress(messages()) as progress:
        documents = read_documents(files, progress=progress)
        text = Part.whole(documents)
        made = learn_tokenizer(text, config, progress)
    for note in documents.notes:
        print_note(note)
    _write(target, made.to_json())
    status("counting tokens")
    tokens, size = count_tokens(text, made)
    if json:
        counts = {"tokens": tokens, "characters": documents.characters, "bytes": size}
        print_json({"path": str(target), "kind": made.kind, "vocab_size": made.vocab_size, **counts})
        return
    console = output()
    console.print(one_line(f"{target}: {made.kind}, {made.vocab_size:,} ids"), soft_wrap=True)
    console.print(totals(tokens, documents.characters, size, str(out)), soft_wrap=True)
    console.print(one_line(f'Try: attncli tokenize "some text" -m {shlex.quote(str(out))}'), soft_wrap=True)


def _write(target: Path, text: str) -> None:
    """Writes a file atomically, and creates its directory if it is missing. Raises OutOfRoom."""
    try:
        make_folder(target.parent)
    except OSError as problem:
        raise OutOfRoom(f"{target} cannot be written: {reason(problem)}.", "Choose another --out.") from None
    write_file(target, "--out", lambda file: file.write(text.encode()))


def _tokenizer(choice: ModelChoice) -> tuple[Tokenizer, str, bool]:
    """Returns a model's tokenizer and name, and whether `closing` tokens are added to the texts that it reads.

    The model is the chosen or the default model. If there is none, returns the byte tokenizer and prints a note.
    """
    named = choice.model is not None or choice.revision is not None or os.environ.get("ATTNCLI_MODEL")
    if not named and newest_model() is None and shipped_model() is None:
        print_note("there is no model yet, so each byte is a token; attncli train FILE makes a model with a tokenizer")
        return byte_tokenizer(), "bytes", False
    path = find(choice.model, choice.revision, weights=False)
    folder = open_folder(path)
    return folder.tokenizer(), name_of(path), _closes(folder)


def _closes(folder: ModelFolder) -> bool:
    """Whether the model has an encoder, which reads the closing tokens too. False if the config cannot be read."""
    with suppress(BadCheckpoint):
        return config_from_json(folder.json(CONFIG), str(folder.where(CONFIG))).kind != "decoder"
    return False
