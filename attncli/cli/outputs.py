"""Checks the output files of a command before the work starts, and writes them atomically."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from attncli.config import alternatives
from attncli.errors import OutOfRoom, UsageProblem
from attncli.paths import reason

Files = Mapping[str, Path | None]  # maps an option to the file that it names
_STANDARD_OUTPUT = Path("-")
_ENDINGS = {
    "--svg": (".svg",),
    "--html": (".html", ".htm"),
    "--page": (".html", ".htm"),
    "--csv": (".csv",),
    "--npz": (".npz",),
    "--gguf": (".gguf",),
}


def refuse_files(files: Files, force: bool) -> None:
    """Checks the output files of a command before the command starts its work.

    Raises:
        UsageProblem: for -, a directory, a device, a file that two options name, an existing file without `force`, and
            `force` without any file.
        OutOfRoom: if the directory of a file does not exist or cannot be written.
    """
    named: dict[Path, str] = {}
    if force and not any(files.values()):
        raise UsageProblem(
            "--force replaces a file, and no file is written.", f"Add {alternatives(files)} with a file."
        )
    for option, file in files.items():
        if file is None:
            continue
        try:
            _refuse_file(file, option, force)
            before = named.setdefault(file.absolute(), option)
        except PermissionError as problem:
            raise _not_written(file, option, problem) from None
        except OSError as problem:
            raise UsageProblem(f"{file} cannot be a file: {reason(problem)}.", f"Choose another {option}.") from None
        except ValueError as problem:
            raise UsageProblem(f"{file} cannot be a file: {problem}.", f"Choose another {option}.") from None
        if before != option:
            raise UsageProblem(f"{before} and {option} name the same file.", "Give each a file of its own.")


def _refuse_file(file: Path, option: str, force: bool) -> None:
    if file == _STANDARD_OUTPUT:
        ending = _ENDINGS.get(option, ("",))[0]
        raise UsageProblem(
            f"{option} - is no file, and {option} does not write to standard output.",
            f"Give a file: {option} out{ending}",
        )
    if file.is_dir():
        raise UsageProblem(f"{file} is a directory.", f"Give {option} a file in it.")
    if option in _ENDINGS and file.suffix and file.suffix.lower() not in _ENDINGS[option]:
        raise UsageProblem(
            f"{option} does not write files such as {file.name}.", f"Choose a name that ends in {_ENDINGS[option][0]}."
        )
    if not file.parent.is_dir():
        raise OutOfRoom(f"There is no directory {file.parent}.", f"Create it, or choose another {option}.")
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if file.exists() and not file.is_file():
        raise UsageProblem(f"{file} is not a regular file.", f"Choose another {option}.")
    if os.path.lexists(file) and not force:
        raise UsageProblem(f"{file} exists.", f"Choose another {option}, or --force to replace it.")


def write_file(file: Path, option: str, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically. Raises OutOfRoom if it cannot be written."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.unlink(missing_ok=True)
        with unfinished.open("xb") as opened:  # fails if another user has placed a link at this path
            write(opened)
        unfinished.replace(file)
    except OSError as problem:
        raise _not_written(file, option, problem) from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _not_written(file: Path, option: str, problem: OSError) -> OutOfRoom:
    return OutOfRoom(f"{file} cannot be written: {reason(problem)}.", f"Choose another {option}.")
