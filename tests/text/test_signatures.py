"""Binary files are recognized by their first bytes, and the error gives the command that extracts their text."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from attncli.config import CorpusConfig
from attncli.errors import BadInput
from attncli.text.files import read_documents, read_text
from tests.support.corpora import write


def zipped(name, text):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(name, text)
    return made.getvalue()


def packed(kind):
    """Returns the bytes of a file of some kind, or only the first bytes."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    return {
        "a gzip file": gzip.compress(b"text"),
        "an xz file": lzma.compress(b"text"),
        "a bzip2 file": bz2.compress(b"text"),
        "a zstd file": b"\x28\xb5\x2f\xfd\x04\x00",
        "an EPUB book": zipped("mimetype", "application/epub+zip"),
        "an Office file": zipped("[Content_Types].xml", "<Types/>"),
        "a zip file": zipped("a.txt", "text"),
        "a tar file": tar.getvalue(),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
        "a Parquet file": b"PAR1\x15\x04\x15",
        "a PNG picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "a JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF",
        "an SQLite database": b"SQLite format 3\0\x10\0",
        "a program": b"\x7fELF\x02\x01\x01\0",
        "a Python pickle": pickle.dumps({"a": 1}),
        "a file of PyTorch": zipped("archive/data.pkl", ""),
        "a safetensors file": safetensors.numpy.save({"a": np.zeros(2, np.float32)}),
        "a GGUF file": b"GGUF\x03\0\0\0\0\0",
    }[kind]


COMMANDS = {
    "a gzip file": "gzip -dc",
    "an xz file": "xz -dc",
    "a bzip2 file": "bzip2 -dc",
    "a zstd file": "zstd -dc",
    "an EPUB book": "pandoc",
    "an Office file": "pandoc",
    "a zip file": "unzip -p",
    "a tar file": "tar -xf",
    "a PDF": "pdftotext",
    "a Parquet file": "read_parquet",
    "an SQLite database": "sqlite3",
}


NO_TEXT = ("a PNG picture", "a JPEG picture", "a program", "a Python pickle", "a file of PyTorch", "a safetensors file")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize("kind", [*COMMANDS, *NO_TEXT, "a GGUF file"])
def test_a_binary_file_is_named_with_a_command_that_extracts_its_text(tmp_path, monkeypatch, kind, encoding):
    """The file is refused in every encoding."""
    path = write(tmp_path / "my file", packed(kind))
    for read in (read_text, lambda path, encoding: read_documents([path], CorpusConfig(encoding=encoding))):
        with pytest.raises(BadInput, match=rf"my file is {kind}, not text") as caught:
            read(path, encoding)
        assert COMMANDS.get(kind, "Give a text file.") in caught.value.hint
        assert ("| attncli COMMAND -" in caught.value.hint) == (kind in COMMANDS and kind != "a tar file")
        assert (f"'{path}'" in caught.value.hint) == (kind in COMMANDS)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed(kind))))
    with pytest.raises(BadInput, match=f"standard input is {kind}") as caught:
        read_text("-")
    assert "standard input" not in caught.value.hint


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.xz"])
def test_the_hint_for_a_compressed_archive_is_the_command_that_unpacks_it(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(b"text"))
    with pytest.raises(BadInput) as caught:
        read_text(path)
    assert caught.value.hint.endswith(f"tar -xf {path}")


@pytest.mark.parametrize("text", ["BZh9 is how it begins", "%PD", "PAR1 and PAR2", "GGUF", "ustar", "PK and BK"])
def test_text_that_resembles_the_beginning_of_a_binary_file_is_text(tmp_path, text):
    assert read_text(write(tmp_path / "f.txt", text)) == text


def test_text_that_contains_the_mark_of_a_tar_file_is_text(tmp_path):
    text = "a" * 255 + " gustar mucho"
    assert text.index("ustar") == 257
    assert read_text(write(tmp_path / "f.txt", text)) == text
