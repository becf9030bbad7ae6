"""Recognizes binary files by their first bytes, and advises how to extract their text.

To recognize another kind of file, add an entry to _KINDS.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from attncli.errors import BadInput

_NO_TEXT = "Give a text file."


class _Kind(NamedTuple):
    """A binary format: a pattern of its first bytes, its name, and how to extract its text."""

    begins: re.Pattern[bytes]
    name: str
    command: str = ""  # prints the text; empty if there is no such command
    advice: str = _NO_TEXT  # the hint if there is no command


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_KINDS = (
    _Kind(_begins(rb"\x1f\x8b\x08"), "a gzip file", "gzip -dc {file}"),
    _Kind(_begins(rb"\xfd7zXZ\x00"), "an xz file", "xz -dc {file}"),
    _Kind(_begins(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "a bzip2 file", "bzip2 -dc {file}"),
    _Kind(_begins(rb"\x28\xb5\x2f\xfd"), "a zstd file", "zstd -dc {file}"),
    _Kind(_begins(rb"PK\x03\x04.{26}mimetypeapplication/epub"), "an EPUB book", "pandoc -t plain {file}"),
    _Kind(
        _begins(rb"PK\x03\x04.{26}(word/|\[Content_Types\]\.xml|_rels/)"), "an Office file", "pandoc -t plain {file}"
    ),
    _Kind(_begins(rb"PK\x03\x04.{26}[^/]*/data\.pkl"), "a file of PyTorch"),
    _Kind(_begins(rb"PK\x03\x04"), "a zip file", "unzip -p {file}"),
    _Kind(_begins(rb"%PDF-"), "a PDF", "pdftotext {file} -"),
    _Kind(
        _begins(rb"PAR1\x15"),
        "a Parquet file",
        """python -c 'import pandas, sys; print(*pandas.read_parquet(sys.argv[1])["text"], sep="\\n")' {file}""",
    ),
    _Kind(
        _begins(rb".{257}ustar(\x00|  \x00)"), "a tar file", advice="Unpack it, and give its directory: tar -xf {file}"
    ),
    _Kind(_begins(rb"SQLite format 3\x00"), "an SQLite database", "sqlite3 {file} 'SELECT column FROM table'"),
    _Kind(_begins(rb"\x89PNG\r\n\x1a\n"), "a PNG picture"),
    _Kind(_begins(rb"\xff\xd8\xff[\xc0-\xfe]"), "a JPEG picture"),
    _Kind(_begins(rb"\x7fELF"), "a program"),
    _Kind(_begins(rb"\x80[\x02-\x05]"), "a Python pickle"),
    _Kind(_begins(rb".{4}\x00{4}\{\""), "a safetensors file"),
    _Kind(_begins(rb"GGUF[\x01-\x09]\x00\x00\x00"), "a GGUF file"),
)


def refuse_known(head: bytes, name: str, path: str | None) -> None:
    """Raises BadInput if a file begins like a known binary format. The hint says how to extract its text.

    Args:
        head: at least the first 265 bytes of the file, or the whole of a shorter file.
        name: the name of the file in messages.
        path: the path of the file for the command in the hint; None for standard input.
    """
    kind = next((kind for kind in _KINDS if kind.begins.match(head)), None)
    if kind is not None:
        raise BadInput(f"{name} is {kind.name}, not text.", _advice(kind, path))


def _advice(kind: _Kind, path: str | None) -> str:
    if path is None:
        packer = kind.command.removesuffix(" {file}")
        if packer != kind.command and packer.endswith("-dc"):
            return f"Unpack it first: … | {packer} | attncli COMMAND -"
        return "Save it as a file, and extract its text." if kind.command else _NO_TEXT
    file = shlex.quote(path)
    if re.search(r"\.(tgz|txz|tbz2?|tar\.\w+)$", path):
        return f"Unpack it, and give its directory: tar -xf {file}"
    if kind.command:
        return f"Pipe its text, and give - as the file: {kind.command.format(file=file)} | attncli COMMAND -"
    return kind.advice.format(file=file)
