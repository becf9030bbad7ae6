"""Defines FileFormat and OpenFile. A FileFormat recognizes a kind of file, and reads the documents of an OpenFile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from attncli.errors import BadInput
from attncli.text.progress import ProgressMeter
from attncli.text.reading import STDIN, decoded, name_of

Blocks = Iterator[tuple[str, bool]]  # a block of text, and whether it is the last of its file
LONGEST_LINE = 64 << 20  # the largest number of characters of a line, which is read into memory as a whole


@dataclass(frozen=True)
class FileFormat:
    """A kind of file that is not plain text, registered in FORMATS.

    `documents` returns the text of a file in blocks, with a line `<|endoftext|>` between two documents. It returns None
    if the suffix, the first bytes or the first line show that the file is of another kind. `note` returns a message
    that tells the user how the named files were read.
    """

    name: str
    documents: Callable[[OpenFile], Blocks | None]
    note: Callable[[Sequence[str]], str]


class OpenFile:
    """A file or standard input that is open, and can be read once."""

    def __init__(self, path: str, file: IO[bytes], head: bytes, encoding: str, meter: ProgressMeter | None) -> None:
        """`head` contains the first bytes of a regular file, or is empty. `file` is at its beginning."""
        self.name, self.is_stdin = name_of(path), path == STDIN
        self.suffix = "" if self.is_stdin else Path(path).suffix.lower()
        self.file, self.head = file, head
        self.blocks: Blocks = decoded(file, self.name, encoding, meter)  # decodes each block when it is read

    def first_line(self) -> str:
        """Returns the first line of the text. The line remains in `blocks`."""
        line, self.blocks = with_first_line(self.blocks)
        return line


def with_first_line(blocks: Blocks) -> tuple[str, Blocks]:
    """Returns the first line, and an iterator over all blocks, including the blocks that the line was read from.

    A line that begins like a JSON object is read to its end, up to LONGEST_LINE characters. Any other line is cut off
    at the end of the first block.
    """
    seen = [next(blocks)]
    length = len(seen[0][0])
    while seen[0][0].lstrip().startswith("{") and "\n" not in seen[-1][0] and not seen[-1][1]:
        if length > LONGEST_LINE:
            break
        seen.append(next(blocks))
        length += len(seen[-1][0])
    return "".join(text for text, _ in seen).lstrip().partition("\n")[0], chain(seen, blocks)


def lines_of(blocks: Blocks, name: str, advice: str) -> Iterator[str]:
    """Yields the lines of a text, which is given in blocks. Only '\\n' ends a line.

    Raises BadInput, with `advice` as its hint, for a line of more than LONGEST_LINE characters.
    """
    held: list[str] = []  # the parts of a line that continues in the next block
    number = 1
    for text, _ in blocks:
        *whole, rest = text.split("\n")
        for line in whole:
            yield "".join((*held, line))
            held = []
        held.append(rest)
        number += len(whole)
        if sum(map(len, held)) > LONGEST_LINE:
            raise BadInput(f"{name}, line {number} has more than {LONGEST_LINE:,} characters.", advice)
    yield "".join(held)


def placed(place: str, problem: BadInput) -> BadInput:
    """Returns the error with `place` put before its message. `place` names a file and a line."""
    return BadInput.naming(lambda named: (f"{place}: {problem.texts(named)[0]}", problem.texts(named)[1]))
