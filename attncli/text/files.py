"""Files of text as documents, read in blocks, so that a text may be larger than memory.

Owns reading files, directories and standard input, their encodings, and where a document ends. A text stays where it
lies; one from a pipe or in another encoding than UTF-8 is copied to a temporary file. Knows nothing of tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
import shlex
import stat
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Literal, NamedTuple

from attncli.config import CorpusConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.paths import exists, is_file, is_folder, look
from attncli.text.json_lines import SUFFIXES, document_of, separated, with_first_line
from attncli.text.signatures import refuse_known
from attncli.text.tokenizer import END_OF_TEXT, checked_text

STDIN = "-"
_BLOCK = 1 << 20  # bytes that are read at once
_KEPT_IN_MEMORY = 16 << 20  # bytes of a pipe; more go to a temporary file
_SEPARATOR = re.compile(rf"{re.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)")  # where a line begins
# What may become one with more text: a beginning of the string, or all of it without the line's end.
_MAY_SEPARATE = re.compile(
    "|".join(re.escape(END_OF_TEXT[:n]) for n in range(1, len(END_OF_TEXT))) + rf"|{re.escape(END_OF_TEXT)}[ \t]*\r?"
)
_MARK = codecs.BOM_UTF8
_MARKS = (  # of other encodings; that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_ENCODING = "Name the --encoding that it is in, or convert it to UTF-8."
_SYNTAX = (*SUFFIXES, ".json", ".csv", ".tsv")  # of files that are read as they stand
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a stage has come, in bytes of text. `total` is None when it is not known."""

    stage: Literal["reading", "learning the vocabulary", "tokenizing", "measuring a step"]
    done: int
    total: int | None


Listener = Callable[[Progress], None]


class Meter:
    """Counts the bytes of a stage and tells a listener, ten times a second at most."""

    def __init__(self, listener: Listener | None, first: Progress) -> None:
        self._listener, self._now = listener, first
        self._told = 0.0

    def add(self, size: int) -> None:
        """Counts `size` more bytes."""
        stage, done, total = self._now.stage, self._now.done + size, self._now.total
        self._now = Progress(stage, done if total is None else min(done, total), total)
        if self._listener is not None and time.monotonic() - self._told >= _REPORT_EVERY:
            self._listener(self._now)
            self._told = time.monotonic()


class _Place(NamedTuple):
    """Where UTF-8 text lies: a file, and its size, time and number when it was first read; or an open temporary one."""

    name: str
    stamp: tuple[int, int, int]
    file: IO[bytes] | None = None


class _Block(NamedTuple):
    """Text that is read at once, and what must be known of the text before it."""

    place: int
    offset: int  # bytes
    size: int  # bytes
    first: int  # characters of documents before it
    characters: int
    documents: int  # that end in it
    opens_line: bool  # a line begins here
    goes_on: bool  # with a document that has begun before
    last: bool  # of its file


@dataclass(frozen=True)
class Documents:
    """Texts in order, read when they are needed; where they came from, and the files of a directory that are not text.

    `digest` is of the whole text, `notes` what a user might not expect of how it was read.
    """

    sources: tuple[str, ...]
    skipped: tuple[str, ...]
    digest: str
    _places: tuple[_Place, ...]
    _blocks: tuple[_Block, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str], sources: Sequence[str] = ("text",)) -> Documents:
        """Documents out of texts in memory, as files that hold them would give."""
        scanner = _Scanner()
        for text in texts:
            scanner.add_stored(io.BytesIO(text.encode()), sources[0])
        return scanner.documents(sources)

    @property
    def characters(self) -> int:
        """The characters of all texts."""
        return self._ends[-1] if self._ends else 0

    @cached_property
    def bytes(self) -> int:
        """The size of all texts as UTF-8, the lines that separate them included."""
        return sum(block.size for block in self._blocks)

    @cached_property
    def count(self) -> int:
        """How many documents there are."""
        return sum(block.documents for block in self._blocks)

    @cached_property
    def _ends(self) -> list[int]:
        return [block.first + block.characters for block in self._blocks]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, bool]]:
        """The text from one character to another, in pieces that each say whether a document ends with them.

        Only the last piece of a document may be empty. Holds about a block at a time.

        Raises:
            BadInput: for a file that is not what it was when it was first read.
        """
        stop = self.characters if stop is None else stop
        at = bisect_right(self._ends, start)
        while at < len(self._blocks) and self._blocks[at].first <= stop:
            place = self._blocks[at].place
            with _reopened(self._places[place]) as file:
                while at < len(self._blocks) and self._blocks[at].place == place and self._blocks[at].first <= stop:
                    yield from _cut_out(self._blocks[at], _pieces_of(self._blocks[at], file), start, stop)
                    at += 1


def _cut_out(block: _Block, pieces: list[tuple[str, bool]], start: int, stop: int) -> Iterator[tuple[str, bool]]:
    """What of a block's pieces lies between two characters of the whole text."""
    at = block.first
    for text, ended in pieces:
        end = at + len(text)
        part = text[max(start - at, 0) : max(stop - at, 0)]
        here = ended and start < end <= stop
        if part or here:
            yield part, here
        at = end


def _pieces_of(block: _Block, file: IO[bytes]) -> list[tuple[str, bool]]:
    file.seek(block.offset)
    text = file.read(block.size).decode("utf-8", "replace")
    return _pieces(text, block.opens_line, block.goes_on, block.last)[0]


@contextmanager
def _reopened(place: _Place) -> Iterator[IO[bytes]]:
    """The text again. Raises BadInput when it is another one by now, or by the end of the reading."""
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
            f"{place.name} changed while it was in use.", "Run the command again when nothing writes to the file."
        )


def _stamp(file: IO[bytes]) -> tuple[int, int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def read_text(path: str, encoding: str = CorpusConfig.encoding) -> str:
    """The text of a file, or of standard input for '-'. Line ends stay as they are; a byte order mark goes.

    Raises:
        BadInput: for a file that is missing, unreadable, binary (named by its kind where that is known), or not in the
            encoding (with the byte's offset).
        UsageProblem: for a path that is empty.
    """
    _refuse_empty(path)
    name = _name(path)
    with _reading(name), _opened(path) as file:
        return "".join(text for text, _ in _decoded(file, name, encoding))


def read_documents(
    paths: Sequence[str], encoding: str = CorpusConfig.encoding, progress: Listener | None = None
) -> Documents:
    """Finds every document of files, directories and '-', in order; `<|endoftext|>` lines separate those of a file.

    All is read and checked once; the text itself is not kept. In a directory, files are taken by name, hidden ones and
    models left out, and what is not text is skipped and listed.

    Raises:
        BadInput: for a named file that is not text, a directory without text, or no text at all.
        OutOfRoom: when a pipe does not fit the temporary folder.
        UsageProblem: for a path that is empty.
    """
    refuse_missing(paths)
    total = _size_of(paths)
    scanner = _Scanner(encoding, Meter(progress, Progress("reading", 0, total)))
    for path in paths:
        if path != STDIN and is_folder(path):
            found = [scanner.add(str(file), skip=True) for file in _files_in(Path(path))]
            if not any(found):
                raise BadInput(
                    f"{path} is a directory without text files.", "Give a text file, or a directory that holds some."
                )
        else:
            scanner.add(path)
    documents = scanner.documents(paths)
    if not documents.count:
        raise _no_text(paths)
    return documents


def refuse_missing(paths: Sequence[str]) -> None:
    """Raises as `read_documents` does for a path that is empty or names nothing, or for files that are all empty.

    For callers with slow work ahead.
    """
    empty = []
    for path in paths:
        _refuse_empty(path)
        if path != STDIN:
            with _reading(_name(path)):
                found = look(Path(path))
                if found is None:
                    raise FileNotFoundError
            if stat.S_ISREG(found.st_mode) and not found.st_size:
                empty.append(path)
    if empty and len(empty) == len(paths):
        raise _no_text(paths)


def refuse_overlap(paths: Sequence[str], held_out: str | None) -> None:
    """Raises UsageProblem when text would be both trained on and validated on, or standard input read twice.

    Looks at which files they are, not at what is in them. `held_out` names the text to validate on; without it that is
    the end of the text.
    """
    files = [_identities(path) for path in paths]
    times = Counter(identity for found in files for identity in found)
    if [*paths, held_out].count(STDIN) > 1:
        raise UsageProblem("Standard input is named twice, and can be read once.", "Save it as a file first.")
    if held_out is None:
        for identity, name in ((identity, name) for found in files for identity, name in found.items()):
            if times[identity] > 1:
                raise UsageProblem(
                    f"{name} is given more than once, so what is kept at the end to validate on may be trained on too.",
                    "Name a text to validate on: --val-file FILE",
                )
        return
    for identity, name in _identities(held_out).items():
        if times[identity]:
            raise UsageProblem(
                f"{name} is to train on and to validate on, which would measure what was learned by heart.",
                "Keep it out of what is trained on, or name another --val-file.",
            )


def _identities(path: str) -> dict[tuple[int, int], str]:
    """The regular files that a path leads to, by what the system knows them by, each once."""
    if path == STDIN:
        return {}
    found = _files_in(Path(path)) if is_folder(path) else [Path(path)]
    facts = ((file, file.stat()) for file in found if is_file(file))
    return {(fact.st_dev, fact.st_ino): str(file) for file, fact in facts}


def listed(sources: Sequence[str]) -> str:
    """Where a text came from, in a line; a file that is named several times once, with how often."""
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in Counter(sources).items())


def _no_text(paths: Sequence[str]) -> BadInput:
    return BadInput(
        f"{', '.join(paths)} is empty: it holds no text.", "Give a text file, a few thousand words or more."
    )


def _refuse_empty(path: str) -> None:
    """To the system an empty path is no file; to Python's Path it is the current directory."""
    if not path:
        raise UsageProblem("The path of a text is empty.", "Name a file, or say . for this directory.")


def _files_in(folder: Path) -> list[Path]:
    """The files of a directory and those below it, each once, hidden ones and models left out."""
    found = []
    for place, folders, names in os.walk(folder):
        if _is_model(names):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [file for name in names if not name.startswith(".") and is_file(file := Path(place, name))]
    once = {(fact.st_dev, fact.st_ino): file for file in sorted(found, reverse=True) for fact in [file.stat()]}
    return sorted(once.values())  # of links to one file the first


def _is_model(names: list[str]) -> bool:
    """Whether a directory of these files holds a model: its JSON is no text, and a run changes it while it goes on."""
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


def _size_of(paths: Sequence[str]) -> int | None:
    """Bytes in all, or None when a pipe is among them."""
    total = 0
    for path in map(Path, paths):
        files = _files_in(path) if is_folder(path) else [path]
        if str(path) == STDIN or (exists(path) and not is_folder(path) and not is_file(path)):
            return None
        total += sum(file.stat().st_size for file in files if exists(file))
    return total


class _Scanner:
    """Reads files once, and notes what finding their documents again takes."""

    def __init__(self, encoding: str = CorpusConfig.encoding, meter: Meter | None = None) -> None:
        self._encoding, self._meter = encoding, meter
        self._places: list[_Place] = []
        self._blocks: list[_Block] = []
        self._skipped: list[str] = []
        self._records: list[str] = []  # files of JSON lines with a text each
        self._as_they_stand: list[str] = []  # files of another syntax
        self._digest = hashlib.sha256()

    def documents(self, sources: Sequence[str]) -> Documents:
        """All that was added."""
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
            yield f"not text and so left out: {_and_more(self._skipped)}"
        if self._records:
            yield f"of {_and_more(self._records)} each line's text, after its prompt, is a document"
        if self._as_they_stand:
            kinds = ", ".join(sorted({Path(name).suffix[1:].upper() for name in self._as_they_stand}))
            yield f"read as plain text, with all the syntax of {kinds}: {_and_more(self._as_they_stand)}"

    def add(self, path: str, skip: bool = False) -> bool:
        """Adds the documents of a file; says whether there are any. With `skip`, what is no text is only listed."""
        name = _name(path)
        try:
            with _reading(name), _opened(path) as file:
                head = b""
                if path != STDIN and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    head = file.read(len(codecs.BOM_UTF32_LE))
                    file.seek(0)
                texts = _decoded(file, name, self._encoding, self._meter)
                suffix = Path(path).suffix.lower()
                if path == STDIN or suffix in SUFFIXES:
                    line, texts = with_first_line(texts)
                    if document_of(line) is not None:
                        self._records.append(name)
                        return self.add_stored(_spooled(separated(texts, name), name), name)
                if head and _is_utf8(_encoding_of(head, self._encoding)):
                    added = self._add(texts, _Place(path, _stamp(file)), len(_MARK) if head.startswith(_MARK) else 0)
                else:
                    added = self.add_stored(_spooled(texts, name), name)
                if added and suffix in _SYNTAX:
                    self._as_they_stand.append(name)
                return added
        except BadInput:
            if not skip:
                raise
            self._skipped.append(path)
            return False

    def add_stored(self, file: IO[bytes], name: str) -> bool:
        """Adds the documents of an open file of UTF-8 without a byte order mark, which stays open."""
        file.seek(0)
        return self._add(_decoded(file, name, "utf-8"), _Place(name, (0, 0, 0), file), 0)

    def _add(self, texts: Iterator[tuple[str, bool]], place: _Place, offset: int) -> bool:
        """Cuts a file into blocks. One without documents leaves no trace."""
        blocks: list[_Block] = []
        digest = hashlib.sha256()
        held, opens_line, goes_on = "", True, False
        first = self._blocks[-1].first + self._blocks[-1].characters if self._blocks else 0
        for text, last in texts:
            pieces, settled = _pieces(held + text, opens_line, goes_on, last)
            text, held = (held + text)[:settled], (held + text)[settled:]
            data = text.encode()
            digest.update(data)
            if pieces:
                characters, ended = sum(len(piece) for piece, _ in pieces), sum(ended for _, ended in pieces)
                flags = (opens_line, goes_on, last)
                blocks.append(_Block(len(self._places), offset, len(data), first, characters, ended, *flags))
                first += characters
                goes_on = not pieces[-1][1]
            opens_line = text.endswith("\n") if text else opens_line
            offset += len(data)
        if blocks:
            self._places.append(place)
            self._blocks += blocks
            self._digest.update(digest.digest())
        return bool(blocks)


def _pieces(text: str, opens_line: bool, goes_on: bool, last: bool) -> tuple[list[tuple[str, bool]], int]:
    """'a\\n<|endoftext|>\\nb' -> [('a\\n', True), ('b', False)], and how many characters that settles.

    Unless the text is the `last` of its file, its end is left open where more text decides what it is: a line that may
    separate documents, or white space, which alone is no document.

    Args:
        text: some of a file.
        opens_line: whether a line begins with it.
        goes_on: whether it begins inside a document, the end of which may be all that is here of it.
        last: whether it ends with its file, and so does the last document.
    """
    line = text.rfind("\n") + 1
    undecided = not last and (line > 0 or opens_line) and _MAY_SEPARATE.fullmatch(text, line) is not None
    settled = line if undecided else len(text)
    pieces, start = [], 0
    for found in _SEPARATOR.finditer(text, 0, settled) if END_OF_TEXT in text else ():
        if text[found.start() - 1] == "\n" if found.start() else opens_line:
            pieces.append((text[start : found.start()], True))
            start = found.end()
    rest = text[start:settled]
    if not last and rest.isspace() and not (goes_on and start == 0):
        rest, settled = "", start
    pieces.append((rest, last))
    kept = [piece for piece in pieces[1:] if piece[0] and not piece[0].isspace()]
    begins, ends = pieces[0]
    if (begins or ends) if goes_on else (begins and not begins.isspace()):
        kept.insert(0, pieces[0])
    return kept, settled


def _and_more(names: Sequence[str]) -> str:
    """['a', 'b', 'c'] -> 'a and 2 more'."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _opened(path: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if path == STDIN else Path(path).open("rb")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what the system says against reading into BadInput."""
    try:
        yield
    except OSError as problem:
        if is_url(name):
            raise BadInput(
                f"{name} is a URL, and a text is read from a file.", f"Download it first: curl -LO {shlex.quote(name)}"
            ) from None
        if isinstance(problem, FileNotFoundError):
            raise BadInput(f"There is no file {name}.", "Check the path.") from None
        raise BadInput(
            f"{name} cannot be read: {problem.strerror or problem}.", "Check the path and its permissions."
        ) from None


class _Spool(SpooledTemporaryFile[bytes]):
    """A file in memory while it is small, on the disk when it is not, and gone with the last use of it."""

    def __del__(self) -> None:
        self.close()


def _spooled(texts: Iterable[tuple[str, bool]], name: str) -> IO[bytes]:
    """A temporary file of a text in UTF-8. Raises OutOfRoom when it does not fit."""
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


def is_url(text: str) -> bool:
    """Whether a text begins as a URL does: 'https://…'."""
    return _URL.match(text) is not None


def _encoding_of(head: bytes, encoding: str) -> str:
    """The encoding of a file that begins with these bytes: UTF-8 gives way to another byte order mark."""
    return next((other for mark, other in _MARKS if _is_utf8(encoding) and head.startswith(mark)), encoding)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _decoded(file: IO[bytes], name: str, encoding: str, meter: Meter | None = None) -> Iterator[tuple[str, bool]]:
    """The text of a file in blocks, and whether each is the last. Raises BadInput, as `read_text` does."""
    data = file.read(_BLOCK)
    refuse_known(data, name, None if name == _name(STDIN) else name)
    last = len(data) < _BLOCK
    encoding = _encoding_of(data, encoding)
    utf8 = _is_utf8(encoding)
    decoder = codecs.getincrementaldecoder("utf-8" if utf8 else _with_byte_order(encoding, data))()
    at = len(_MARK) if utf8 and data.startswith(_MARK) else 0  # the place of `data` in the file
    data = data[at:]
    while True:
        if utf8 and (found := data.find(b"\0")) >= 0:
            raise BadInput(f"{name} is not text: byte {at + found} is 0x00.", _instead(data))
        pending = len(decoder.getstate()[0])
        try:
            text = checked_text(decoder.decode(data, last))
        except UnicodeDecodeError as problem:
            wrong = problem.object[problem.start : problem.start + 1]
            found_byte = f"0x{wrong[0]:02x}" if wrong else "the end"
            raise BadInput(
                f"{name} is not {'UTF-8' if utf8 else encoding.upper()}: "
                f"byte {at - pending + problem.start} is {found_byte} ({problem.reason}).",
                _instead(data) if utf8 else _OTHER_ENCODING,
            ) from None
        except UnicodeError as problem:
            raise BadInput(f"{name} is not {encoding}: {problem}.", _OTHER_ENCODING) from None
        if not utf8 and "\0" in text:
            raise BadInput(f"{name} is not text in {encoding.upper()}: it holds NUL characters.", _OTHER_ENCODING)
        if meter is not None:
            meter.add(len(data))
        yield text, last
        if last:
            return
        at += len(data)
        data = file.read(_BLOCK)
        last = len(data) < _BLOCK


def _instead(data: bytes) -> str:
    """What to do about bytes that are not UTF-8. No encoding is named that they cannot be in."""
    zeros, odd = data.count(0), data[1::2].count(0)
    if not zeros:
        return "Convert it to UTF-8; to train and eval its --encoding can be named instead, such as latin-1 or gb18030."
    # Of UTF-16 most bytes of one parity are 0x00, where the letters are Latin.
    if zeros > 3 and 4 * zeros > len(data) and 8 * min(odd, zeros - odd) < zeros:
        order = "le" if odd > zeros - odd else "be"
        return f"It looks like UTF-16. Convert it to UTF-8, or to train and eval say --encoding utf-16-{order}."
    return "Give a text file."


def _with_byte_order(encoding: str, data: bytes) -> str:
    """The encoding; without a byte order mark to say it, UTF-16 and UTF-32 in the order of this machine."""
    marks = {"utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}
    known = marks.get(codecs.lookup(encoding).name)
    return f"{encoding}-{sys.byteorder[0]}e" if known and not data.startswith(known) else encoding
