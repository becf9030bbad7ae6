"""Format: how a kind of file is recognized and read as documents; and the open file that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from attncli.text.progress import Meter
from attncli.text.reading import STDIN, decoded, name_of

Blocks = Iterator[tuple[str, bool]]  # some text, and whether it is the last of its file
LONGEST_LINE = 64 << 20  # characters, which are held in memory


@dataclass(frozen=True)
class Format:
    """A kind of file that is not plain text, registered in FORMATS.

    `documents` returns None for a file of another kind, which it recognizes by its suffix, its first bytes or its first
    line. For a file of this kind it returns the text in blocks, in which a line `<|endoftext|>` stands between two
    documents. `note` tells a user how files of these names were read.
    """

    name: str
    documents: Callable[[OpenFile], Blocks | None]
    note: Callable[[Sequence[str]], str]


class OpenFile:
    """A file or standard input, opened to be read once."""

    def __init__(self, path: str, file: IO[bytes], head: bytes, encoding: str, meter: Meter | None) -> None:
        """`head` are the first bytes of a regular file, whose position is still its beginning."""
        self.name, self.is_stdin = name_of(path), path == STDIN
        self.suffix = "" if self.is_stdin else Path(path).suffix.lower()
        self.file, self.head = file, head
        self.blocks: Blocks = decoded(file, self.name, encoding, meter)  # decoding begins with the first block

    def first_line(self) -> str:
        """The first line of the text, which stays to be read from `blocks`."""
        line, self.blocks = with_first_line(self.blocks)
        return line


def with_first_line(blocks: Blocks) -> tuple[str, Blocks]:
    """The first line, and all blocks again.

    Reads on to a line's end only in a line that begins as a JSON object does, and only for LONGEST_LINE characters.
    """
    seen = [next(blocks)]
    length = len(seen[0][0])
    while seen[0][0].lstrip().startswith("{") and "\n" not in seen[-1][0] and not seen[-1][1]:
        if length > LONGEST_LINE:
            break
        seen.append(next(blocks))
        length += len(seen[-1][0])
    return "".join(text for text, _ in seen).lstrip().partition("\n")[0], chain(seen, blocks)
