"""Documents: texts that are read in blocks when they are needed, so that a corpus may be larger than memory.

The scanner first reads every file once: it checks the encoding, finds the ends of documents, and records the position
of each block. A block of a UTF-8 file is later read from the file itself. Text from a pipe, in another encoding or in
another format is copied to a temporary file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, NamedTuple

from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom
from attncli.text.formats import FORMATS, OpenFile
from attncli.text.names import and_more
from attncli.text.progress import ProgressMeter
from attncli.text.reading import STDIN, UTF8_MARK, decoded, encoding_of, is_utf8, name_of, opened, reading_errors
from attncli.text.tokenizer import END_OF_TEXT

_HEAD = 512  # bytes at the beginning of a file from which its format and encoding are recognized
_KEPT_IN_MEMORY = 16 << 20  # bytes of copied text that stay in memory; a longer text is written to a temporary file
_SEPARATOR = re.compile(rf"{re.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)")  # separates documents if it begins a line
# An incomplete separator at the end of a block: its beginning, or a separator without its line end.
_MAY_SEPARATE = re.compile(
    "|".join(re.escape(END_OF_TEXT[:n]) for n in range(1, len(END_OF_TEXT))) + rf"|{re.escape(END_OF_TEXT)}[ \t]*\r?"
)
# Suffixes of files that are read as plain text, including their syntax.
_SYNTAX = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


class _Place(NamedTuple):
    """Where UTF-8 text is stored: in an open temporary file, or in a named file, whose stamp shows later changes."""

    name: str
    stamp: tuple[int, int, int]  # size, modification time and inode number, to notice a change
    file: IO[bytes] | None = None


class _Block(NamedTuple):
    """A block of text that is read at once: where the block is stored, and the facts that are needed to split it."""

    place: int  # the index of the place where the block is stored
    offset: int  # bytes
    size: int  # bytes
    first: int  # the number of characters of all documents before the block
    characters: int
    documents: int  # the number of documents that end in the block
    opens_line: bool  # whether the block begins a line
    goes_on: bool  # whether the block begins inside a document
    last: bool  # whether the block is the last of its file


@dataclass(frozen=True)
class Documents:
    """Texts in order, which are read when they are needed.

    `sources` are the paths as they were given. `skipped` are the files that were found in a directory and are not text.
    `digest` is a hash of the whole text. `notes` tell a user about files that were read in an unexpected way.
    """

    sources: tuple[str, ...]
    skipped: tuple[str, ...]
    digest: str
    _places: tuple[_Place, ...]
    _blocks: tuple[_Block, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str], sources: Sequence[str] = ("text",)) -> Documents:
        """Returns the documents of texts in memory, as if each text were read from a file."""
        scanner = Scanner()
        for text in texts:
            scanner.add_stored(io.BytesIO(text.encode()), sources[0])
        return scanner.documents(sources)

    @property
    def characters(self) -> int:
        """The number of characters of all texts."""
        return self._ends[-1] if self._ends else 0

    @cached_property
    def bytes(self) -> int:
        """The size of all texts in UTF-8, including the separator lines."""
        return sum(block.size for block in self._blocks)

    @cached_property
    def count(self) -> int:
        """The number of documents."""
        return sum(block.documents for block in self._blocks)

    @cached_property
    def _ends(self) -> list[int]:
        return [block.first + block.characters for block in self._blocks]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, bool]]:
        """Yields the text from character `start` to `stop` as pairs: a chunk, and whether the chunk ends a document.

        Only the last chunk of a document may be empty. About one block at a time is in memory. Raises BadInput for a
        file that has changed since it was scanned.
        """
        stop = self.characters if stop is None else stop
        at = bisect_right(self._ends, start)
        while at < len(self._blocks) and self._blocks[at].first <= stop:
            place = self._blocks[at].place
            with _reopened(self._places[place]) as file:
                while at < len(self._blocks) and self._blocks[at].place == place and self._blocks[at].first <= stop:
                    yield from _cut_out(self._blocks[at], _chunks_of(self._blocks[at], file), start, stop)
                    at += 1


def _cut_out(block: _Block, chunks: list[tuple[str, bool]], start: int, stop: int) -> Iterator[tuple[str, bool]]:
    """Yields the chunks of a block, cut to the characters from `start` to `stop`.

    `start` and `stop` count the characters of all texts, not only of the block.
    """
    at = block.first
    for text, ended in chunks:
        end = at + len(text)
        part = text[max(start - at, 0) : max(stop - at, 0)]
        here = ended and start < end <= stop
        if part or here:
            yield part, here
        at = end


def _chunks_of(block: _Block, file: IO[bytes]) -> list[tuple[str, bool]]:
    file.seek(block.offset)
    text = file.read(block.size).decode("utf-8", "replace")
    return _chunks(text, block.opens_line, block.goes_on, block.last)[0]


@contextmanager
def _reopened(place: _Place) -> Iterator[IO[bytes]]:
    """Opens a text again. Raises BadInput if the file has changed since it was scanned, or changes while it is read."""
    if place.file is not None:
        yield place.file
        return
    try:
        with Path(place.name).open("rb") as file:
            yield file
            same = _stamp(file) == place.stamp
    except OSError:
        same = False
    if not same:
        raise BadInput(
            f"{place.name} changed while it was read.", "Run the command again when no program writes to the file."
        )


def _stamp(file: IO[bytes]) -> tuple[int, int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


class Scanner:
    """Reads files once, and records the position of every block, so that the documents can be read later."""

    def __init__(self, encoding: str = CorpusConfig.encoding, meter: ProgressMeter | None = None) -> None:
        self._encoding, self._meter = encoding, meter
        self._places: list[_Place] = []
        self._blocks: list[_Block] = []
        self._skipped: list[str] = []
        self._of_format: dict[str, list[str]] = {}  # name of a format -> names of the files in this format
        self._with_syntax: list[str] = []  # names of the files, such as CSV, that were read as plain text
        self._digest = hashlib.sha256()

    def documents(self, sources: Sequence[str]) -> Documents:
        """Returns the documents of all files that were added."""
        return Documents(
            tuple(sources),
            tuple(self._skipped),
            self._digest.hexdigest(),
            tuple(self._places),
            tuple(self._blocks),
            tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if self._skipped:
            yield f"not text and so left out: {and_more(self._skipped)}"
        for format in FORMATS:
            if names := self._of_format.get(format.name):
                yield format.note(names)
        if self._with_syntax:
            kinds = ", ".join(sorted({Path(name).suffix[1:].upper() for name in self._with_syntax}))
            yield f"read as plain text, with all the syntax of {kinds}: {and_more(self._with_syntax)}"

    def add(self, path: str, skip: bool = False) -> bool:
        """Adds the documents of a file, and returns whether the file has any documents.

        Raises BadInput for a file that is not text or cannot be read. If `skip`, such a file is skipped instead.
        """
        name = name_of(path)
        try:
            with reading_errors(name), opened(path) as file:
                head = b""
                if path != STDIN and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    head = file.read(_HEAD)
                    file.seek(0)
                return self._add_opened(OpenFile(path, file, head, self._encoding, self._meter), path)
        except BadInput:
            if not skip:
                raise
            self._skipped.append(path)
            return False

    def _add_opened(self, file: OpenFile, path: str) -> bool:
        """Adds a file in the first format that recognizes it, or else as plain text.

        A regular file of plain UTF-8 text is not copied; any other text is copied to a temporary file.
        """
        for format in FORMATS:
            if (documents := format.documents(file)) is not None:
                self._of_format.setdefault(format.name, []).append(file.name)
                return self.add_stored(_spooled(documents, file.name), file.name)
        if file.head and is_utf8(encoding_of(file.head, self._encoding)):
            place = _Place(path, _stamp(file.file))
            added = self._add(file.blocks, place, len(UTF8_MARK) if file.head.startswith(UTF8_MARK) else 0)
        else:
            added = self.add_stored(_spooled(file.blocks, file.name), file.name)
        if added and file.suffix in _SYNTAX:
            self._with_syntax.append(file.name)
        return added

    def add_stored(self, file: IO[bytes], name: str) -> bool:
        """Adds the documents of an open UTF-8 file without a byte order mark. Leaves the file open."""
        file.seek(0)
        return self._add(decoded(file, name, "utf-8"), _Place(name, (0, 0, 0), file), 0)

    def _add(self, texts: Iterator[tuple[str, bool]], place: _Place, offset: int) -> bool:
        """Splits the text of a file into blocks, and adds the blocks. Returns whether the file has any documents."""
        blocks: list[_Block] = []
        digest = hashlib.sha256()
        held, opens_line, goes_on = "", True, False
        first = self._blocks[-1].first + self._blocks[-1].characters if self._blocks else 0
        for text, last in texts:
            chunks, settled = _chunks(held + text, opens_line, goes_on, last)
            text, held = (held + text)[:settled], (held + text)[settled:]
            data = text.encode()
            digest.update(data)
            if chunks:
                characters, ended = sum(len(chunk) for chunk, _ in chunks), sum(ended for _, ended in chunks)
                flags = (opens_line, goes_on, last)
                blocks.append(_Block(len(self._places), offset, len(data), first, characters, ended, *flags))
                first += characters
                goes_on = not chunks[-1][1]
            opens_line = text.endswith("\n") if text else opens_line
            offset += len(data)
        if blocks:
            self._places.append(place)
            self._blocks += blocks
            self._digest.update(digest.digest())
        return bool(blocks)


def _chunks(text: str, opens_line: bool, goes_on: bool, last: bool) -> tuple[list[tuple[str, bool]], int]:
    """Splits a block into chunks: 'a\\n<|endoftext|>\\nb' -> [('a\\n', True), ('b', False)].

    Returns the chunks, and the number of characters of `text` that were consumed. If another block of the file follows,
    an incomplete separator at the end of `text` is not consumed, because the next block may complete it. White space at
    the end is not consumed either, because white space alone is not a document.

    Args:
        text: the text of a block.
        opens_line: whether the text begins at the start of a line.
        goes_on: whether the text begins inside a document.
        last: whether the text is the end of its file, and so the end of a document.
    """
    line = text.rfind("\n") + 1
    undecided = not last and (line > 0 or opens_line) and _MAY_SEPARATE.fullmatch(text, line) is not None
    settled = line if undecided else len(text)
    chunks, start = [], 0
    for found in _SEPARATOR.finditer(text, 0, settled) if END_OF_TEXT in text else ():
        if text[found.start() - 1] == "\n" if found.start() else opens_line:
            chunks.append((text[start : found.start()], True))
            start = found.end()
    rest = text[start:settled]
    if not last and rest.isspace() and not (goes_on and start == 0):
        rest, settled = "", start
    chunks.append((rest, last))
    kept = [chunk for chunk in chunks[1:] if chunk[0] and not chunk[0].isspace()]
    begins, ends = chunks[0]
    if (begins or ends) if goes_on else (begins and not begins.isspace()):
        kept.insert(0, chunks[0])
    return kept, settled


class _Spool(SpooledTemporaryFile[bytes]):
    """A temporary file, in memory while it is small. Garbage collection closes the file."""

    def __del__(self) -> None:
        self.close()


def _spooled(texts: Iterable[tuple[str, bool]], name: str) -> IO[bytes]:
    """Returns a temporary file with a text in UTF-8. Raises OutOfRoom if the text does not fit the disk."""
    file = _Spool(_KEPT_IN_MEMORY)
    for text, _ in texts:
        data = text.encode()
        try:
            file.write(data)
        except OSError as problem:
            raise OutOfRoom(
                f"{name} does not fit the temporary folder {gettempdir()}: {problem.strerror or problem}.",
                "Set TMPDIR to a folder with more room, or give the text as a UTF-8 file.",
            ) from None
    return file
