"""Reads the documents of files, directories and standard input, in the order in which a user names them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.paths import exists, is_file, is_folder, look
from attncli.text.documents import Documents, Scanner
from attncli.text.progress import Listener, Progress, ProgressMeter
from attncli.text.reading import STDIN, decoded, name_of, opened, reading_errors


def read_text(path: str, encoding: str = CorpusConfig.encoding) -> str:
    """Returns the text of a file, or of standard input for '-', without a byte order mark. Line ends are unchanged.

    Raises:
        BadInput: for a file that is missing, unreadable or binary, or not in the encoding. The error names the kind of
            a known binary file, or the offset of the first wrong byte.
        UsageProblem: for a path that is empty.
    """
    _refuse_empty(path)
    name = name_of(path)
    with reading_errors(name), opened(path) as file:
        return "".join(text for text, _ in decoded(file, name, encoding))


def read_documents(
    paths: Sequence[str], config: CorpusConfig | None = None, progress: Listener | None = None
) -> Documents:
    """Returns the documents of files, directories and '-', in order. A line `<|endoftext|>` separates two documents.

    `config` sets how the text is read, such as its encoding.

    Every file is read once, to check its text. The text does not stay in memory. The files of a directory are read in
    the order of their names; hidden files and models are left out. Files of a directory that are not text are skipped,
    and the result lists them.

    Raises:
        BadInput: for a named file that is not text, a directory without text, or no text at all.
        OutOfRoom: if a pipe does not fit the temporary folder.
        UsageProblem: for a path that is empty.
    """
    refuse_missing(paths)
    total = size_of(paths)
    scanner = Scanner((config or CorpusConfig()).encoding, ProgressMeter(progress, Progress("reading", 0, total)))
    for path in paths:
        if path != STDIN and is_folder(path):
            found = [scanner.add(str(file), skip=True) for file in _files_in(Path(path))]
            if not any(found):
                raise BadInput(
                    f"{path} is a directory without text files.", "Give a text file, or a directory that has some."
                )
        else:
            scanner.add(path)
    documents = scanner.documents(paths)
    if not documents.count:
        raise _no_text(paths)
    return documents


def refuse_missing(paths: Sequence[str]) -> None:
    """Raises the errors of `read_documents` for missing and empty files, without reading the text."""
    empty = []
    for path in paths:
        _refuse_empty(path)
        if path != STDIN:
            with reading_errors(name_of(path)):
                found = look(Path(path))
                if found is None:
                    raise FileNotFoundError
            if stat.S_ISREG(found.st_mode) and not found.st_size:
                empty.append(path)
    if empty and len(empty) == len(paths):
        raise _no_text(paths)


def refuse_overlap(paths: Sequence[str], held_out: str | None) -> None:
    """Raises UsageProblem if a file can be in both the training text and the validation text, or if '-' is named twice.

    `held_out` is the path of the validation text. If it is None, a part of the training text is the validation text.
    Then the error is also raised for a file that is named twice, because the file could be in both parts. Files are
    compared by identity, not by content.
    """
    files = [_identities(path) for path in paths]
    times = Counter(identity for found in files for identity in found)
    if [*paths, held_out].count(STDIN) > 1:
        raise UsageProblem("Standard input is named twice, and can be read once.", "Save it as a file first.")
    if held_out is None:
        twice = (name for found in files for identity, name in found.items() if times[identity] > 1)
        if (name := next(twice, None)) is not None:
            message = f"{name} is given more than once: it would be trained on twice, or trained and validated on."
            raise UsageProblem.naming(
                lambda named: (message, f"Name it once, or name a file to validate on: {named('val_file')} FILE")
            )
        return
    both = (name for identity, name in _identities(held_out).items() if times[identity])
    if (name := next(both, None)) is not None:
        message = f"{name} is given both to train on and to validate on, which would measure memorized text."
        raise UsageProblem.naming(
            lambda named: (message, f"Leave it out of the training text, or name another {named('val_file')}.")
        )


def _identities(path: str) -> dict[tuple[int, int], str]:
    """Returns the identities of the regular files at a path: (device, inode) -> the name of the file.

    The path is a file or a directory. For standard input, the result is empty.
    """
    if path == STDIN:
        return {}
    found = _files_in(Path(path)) if is_folder(path) else [Path(path)]
    facts = ((file, file.stat()) for file in found if is_file(file))
    return {(fact.st_dev, fact.st_ino): str(file) for file, fact in facts}


def _no_text(paths: Sequence[str]) -> BadInput:
    return BadInput(
        f"{', '.join(paths)} is empty: it contains no text.", "Give a text file, a few thousand words or more."
    )


def _refuse_empty(path: str) -> None:
    """Raises UsageProblem for an empty path, which Path would read as the current directory."""
    if not path:
        raise UsageProblem("The path of a text is empty.", "Name a file, or say . for this directory.")


def _files_in(folder: Path) -> list[Path]:
    """Returns the files of a directory tree, sorted by path.

    Leaves out hidden files, models, and all but one of several links to a file.
    """
    found = []
    for place, folders, names in os.walk(folder):
        if _is_model(names):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [file for name in names if not name.startswith(".") and is_file(file := Path(place, name))]
    once = {(fact.st_dev, fact.st_ino): file for file in sorted(found, reverse=True) for fact in [file.stat()]}
    return sorted(once.values())


def _is_model(names: list[str]) -> bool:
    """Whether the file names of a directory are those of a model, whose JSON is not training text."""
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


def size_of(paths: Sequence[str]) -> int | None:
    """Returns the size of all files in bytes, or None if any file is a pipe."""
    total = 0
    for path in map(Path, paths):
        files = _files_in(path) if is_folder(path) else [path]
        if str(path) == STDIN or (exists(path) and not is_folder(path) and not is_file(path)):
            return None
        total += sum(file.stat().st_size for file in files if exists(file))
    return total
