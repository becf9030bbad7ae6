"""`attncli tokenize`."""

from __future__ import annotations

import os
import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli.options import (
    JsonOption,
    ModelOption,
    RevisionOption,
    TokenizerOption,
    VocabSizeOption,
    required_text,
    text_or_file,
    unset,
)
from attncli.cli.outputs import write_file
from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.paths import exists, make_folder, reason

if TYPE_CHECKING:
    from attncli.text.tokenizer import Tokenizer


_TEXT = "A text, a file of text, or - for standard input; with --decode, token ids."
_TRAIN = "Make a tokenizer from this text; may be given several times."


# fmt: off
def tokenize(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT|FILE|-", help=_TEXT, show_default=False)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print the ids alone, on one line.")] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Turn ids back into text.")] = False,
    train: Annotated[list[str] | None, unset("--train", metavar="FILE", help=_TRAIN)] = None,
    tokenizer: TokenizerOption = CorpusConfig.tokenizer,
    vocab_size: VocabSizeOption = None,
    out: Annotated[Path | None, unset("--out", "-o", metavar="DIR", help="With --train: the directory.")] = None,
    force: Annotated[bool, typer.Option("--force", help="With --train: replace the tokenizer that is there.")] = False,
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Show how text becomes tokens.

    attncli tokenize "unbelievable"
    attncli tokenize --train corpus.txt --vocab-size 2k --out my-tokenizer
    """
    if train:
        if text or ids or decode:
            raise UsageProblem("--train makes a tokenizer alone.", "Leave the text, --ids and --decode out.")
        _train(train, CorpusConfig(tokenizer=tokenizer, vocab_size=vocab_size), out, force, json)  # type: ignore[arg-type]
        return
    if out is not None or vocab_size is not None or force or tokenizer != CorpusConfig.tokenizer:
        raise UsageProblem("--out, --tokenizer, --vocab-size and --force go with --train.", "Add --train FILE.")
    chosen, name = _tokenizer(model, revision)
    if decode:
        listed = " ".join(text) if text else None
        _decode(chosen, required_text(listed, "attncli tokenize --decode 72 101"), json)
        return
    if text and len(text) > 1:
        quoted = shlex.quote(" ".join(text))
        raise UsageProblem(
            f"There are {len(text)} texts, and one is shown.", f"Put a text of several words in quotes: {quoted}"
        )
    _show(chosen, name, text_or_file(text[0] if text else None, 'attncli tokenize "unbelievable"'), ids, json)


def _show(tokenizer: Tokenizer, name: str, text: str, ids: bool, json: bool) -> None:
    from attncli.render.console import output, print_json, show
    from attncli.render.tokens import tokens_document, tokens_screen

    if ids:
        output().file.write(" ".join(map(str, [*tokenizer.opening, *tokenizer.encode(text)])) + "\n")
        return
    pieces = tokenizer.pieces(text)
    put = list(takewhile(lambda piece: not piece.of_text, pieces))
    opening, pieces = [*tokenizer.opening_pieces, *put], pieces[len(put) :]
    if json:
        print_json(tokens_document(pieces, len(text), name, opening))
    else:
        console = output()
        show(console, tokens_screen(pieces, len(text), name, console.width, opening))


def _decode(tokenizer: Tokenizer, listed: str, json: bool) -> None:
    from attncli.render.console import output, print_json
    from attncli.render.escape import visible

    words = [word for word in re.split(r"[\s,\[\]]+", listed) if word]
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)), None)
    if wrong is not None:
        raise BadInput(f"{wrong!r} is not a token id.", "Give whole numbers, separated by spaces.")
    ids = [int(word) for word in words]
    put = len(tokenizer.opening)  # before the text, by the tokenizer
    text = tokenizer.decode(ids[put:] if put < len(ids) and tuple(ids[:put]) == tokenizer.opening else ids)
    if json:
        print_json({"ids": ids, "text": text})
        return
    console = output()
    console.file.write((visible(text) if console.is_terminal else text) + "\n")


def _train(files: list[str], config: CorpusConfig, out: Path | None, force: bool, json: bool) -> None:
    if out is None:
        raise UsageProblem("--train needs --out DIR, the directory to write.", "Add --out my-tokenizer.")
    from attncli.render.console import messages, output, print_json, print_note, status
    from attncli.render.escape import one_line
    from attncli.render.tokens import totals
    from attncli.render.training import reading_progress
    from attncli.text.corpus import learn_tokenizer
    from attncli.text.files import read_documents
    from attncli.text.parts import Part
    from attncli.text.tokens import count_tokens

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
        print_json(
            {
                "path": str(target),
                "kind": made.kind,
                "vocab_size": made.vocab_size,
                "tokens": tokens,
                "characters": documents.characters,
                "bytes": size,
            }
        )
        return
    console = output()
    console.print(one_line(f"{target}: {made.kind}, {made.vocab_size:,} ids"), soft_wrap=True)
    console.print(totals(tokens, documents.characters, size, str(out)), soft_wrap=True)
    console.print(one_line(f'Try: attncli tokenize "some text" -m {shlex.quote(str(out))}'), soft_wrap=True)


def _write(target: Path, text: str) -> None:
    """The whole file or nothing, in a folder that is made where there is none."""
    try:
        make_folder(target.parent)
    except OSError as problem:
        raise OutOfRoom(f"{target} cannot be written: {reason(problem)}.", "Choose another --out.") from None
    write_file(target, "--out", lambda file: file.write(text.encode()))


def _tokenizer(model: str | None, revision: str | None) -> tuple[Tokenizer, str]:
    """The tokenizer asked for, else that of the default model, else plain bytes with a note."""
    from attncli.checkpoint.catalog import newest_model, shipped_model
    from attncli.checkpoint.directory import ModelFolder, name_of
    from attncli.cli.finding import find
    from attncli.text.tokenizer_training import byte_tokenizer

    nothing_there = newest_model() is None and shipped_model() is None
    if model is None and revision is None and not os.environ.get("ATTNCLI_MODEL") and nothing_there:
        from attncli.render.console import print_note

        print_note(
            "no model yet, so each byte is a token; attncli train FILE makes a model with a tokenizer of its own"
        )
        return byte_tokenizer(), "bytes"
    path = find(model, revision, weights=False)
    return ModelFolder(path).tokenizer(), name_of(path)
