"""Opens text files and standard input, and decodes them in blocks.

A byte order mark decides between UTF-8, UTF-16 and UTF-32; other encodings must be named. For a file that is not text,
the error names the kind of file, or the offset of the first byte that is not in the encoding.
"""

from __future__ import annotations

import codecs
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from attncli.errors import BadInput
from attncli.text.progress import ProgressMeter
from attncli.text.signatures import refuse_known
from attncli.text.tokenizer import checked_text

STDIN = "-"
_BLOCK = 1 << 20  # bytes of one read
UTF8_MARK = codecs.BOM_UTF8
_MARKS = (  # byte order marks; UTF-32 is first, since its little-endian mark begins with the mark of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def name_of(path: str) -> str:
    """Returns the name that messages use for a path: 'standard input' for '-'."""
    return "standard input" if path == STDIN else path


def opened(path: str) -> AbstractContextManager[IO[bytes]]:
    """Opens a file, or standard input for '-'. The end of the `with` block closes a file, but not standard input."""
    return nullcontext(sys.stdin.buffer) if path == STDIN else Path(path).open("rb")


@contextmanager
def reading_errors(name: str) -> Iterator[None]:
    """Turns an OSError in the `with` block into BadInput. `name` is the name of the file that the block reads."""
    try:
        yield
    except OSError as problem:
        if is_url(name):
            raise BadInput(
                f"{name} is a URL, and attncli reads files only.", f"Download it first: curl -LO {shlex.quote(name)}"
            ) from None
        if isinstance(problem, FileNotFoundError):
            raise BadInput(f"There is no file {name}.", "Check the path.") from None
        raise BadInput(
            f"{name} cannot be read: {problem.strerror or problem}.", "Check the path and its permissions."
        ) from None


def is_url(text: str) -> bool:
    """Whether a text begins like a URL, such as 'https://…'."""
    return _URL.match(text) is not None


def encoding_of(head: bytes, encoding: str) -> str:
    """Returns `encoding`. If it is UTF-8 and the file begins with a byte order mark, returns the encoding of the mark.

    `head` contains the first bytes of the file.
    """
    return next((other for mark, other in _MARKS if is_utf8(encoding) and head.startswith(mark)), encoding)


def is_utf8(encoding: str) -> bool:
    """Whether the name of an encoding means UTF-8. The name must be known to Python."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def decoded(
    file: IO[bytes], name: str, encoding: str, meter: ProgressMeter | None = None
) -> Iterator[tuple[str, bool]]:
    """Yields the text of a file as pairs: a block, and whether it is the last block.

    Raises BadInput as `files.read_text` does.
    """
    data = file.read(_BLOCK)
    refuse_known(data, name, None if name == name_of(STDIN) else name)
    last = len(data) < _BLOCK
    encoding = encoding_of(data, encoding)
    utf8 = is_utf8(encoding)
    decoder = codecs.getincrementaldecoder("utf-8" if utf8 else _with_byte_order(encoding, data))()
    at = len(UTF8_MARK) if utf8 and data.startswith(UTF8_MARK) else 0  # the offset in the file at which `data` begins
    data = data[at:]
    while True:
        if utf8 and (found := data.find(b"\0")) >= 0:
            raise _not_text(f"{name} is not text: byte {at + found} is 0x00.", data)
        pending = len(decoder.getstate()[0])
        try:
            text = checked_text(decoder.decode(data, last))
        except UnicodeDecodeError as problem:
            wrong = problem.object[problem.start : problem.start + 1]
            found_byte = f"0x{wrong[0]:02x}" if wrong else "the end"
            where = f"byte {at - pending + problem.start} is {found_byte} ({problem.reason})"
            what = f"{name} is not {'UTF-8' if utf8 else encoding.upper()}: {where}."
            raise _not_text(what, data if utf8 else None) from None
        except UnicodeError as problem:
            raise _not_text(f"{name} is not {encoding}: {problem}.") from None
        if not utf8 and "\0" in text:
            raise _not_text(f"{name} is not text in {encoding.upper()}: it contains NUL characters.")
        if meter is not None:
            meter.add(len(data))
        yield text, last
        if last:
            return
        at += len(data)
        data = file.read(_BLOCK)
        last = len(data) < _BLOCK


def _not_text(message: str, data: bytes | None = None) -> BadInput:
    """Returns the error for a file that is not text in the encoding.

    `data` is the block with the wrong byte, or None if the encoding is not UTF-8.
    """
    return BadInput.naming(lambda named: (message, _advice(named("encoding"), data)))


def _advice(encoding: str, data: bytes | None) -> str:
    """Returns advice for a file that cannot be decoded. It suggests only encodings that the bytes can have."""
    if data is None:
        return f"Set {encoding} to the encoding of the file, or convert the file to UTF-8."
    zeros, odd = data.count(0), data[1::2].count(0)
    if not zeros:
        return (
            f"Convert it to UTF-8. For train and eval, its {encoding} can be given instead, such as latin-1 or gb18030."
        )
    # In UTF-16 of Latin letters, the bytes at even or at odd offsets are mostly 0x00.
    if zeros > 3 and 4 * zeros > len(data) and 8 * min(odd, zeros - odd) < zeros:
        order = "le" if odd > zeros - odd else "be"
        return f"It looks like UTF-16. Convert it to UTF-8, or give train and eval {encoding} utf-16-{order}."
    return "Give a text file."


def _with_byte_order(encoding: str, data: bytes) -> str:
    """Returns the name of an encoding with the byte order of this machine, such as 'utf-16' -> 'utf-16-le'.

    Only the names of UTF-16 and UTF-32 change, and only if `data` does not begin with a byte order mark.
    """
    marks = {"utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}
    known = marks.get(codecs.lookup(encoding).name)
    return f"{encoding}-{sys.byteorder[0]}e" if known and not data.startswith(known) else encoding
