"""A format of text files is one entry of FORMATS."""

import gzip

from attncli.text import documents
from attncli.text.files import read_documents
from attncli.text.formats import FORMATS, FileFormat
from attncli.text.reading import decoded


def packed(file):
    """Returns the text of a gzip file, which is recognized by its first bytes."""
    if not file.head.startswith(b"\x1f\x8b\x08"):
        return None
    return decoded(gzip.GzipFile(fileobj=file.file), file.name, "utf-8")


def test_a_registered_format_is_recognized_read_and_noted(tmp_path, monkeypatch):
    path, plain = tmp_path / "book.gz", tmp_path / "book.txt"
    path.write_bytes(gzip.compress(b"one\n<|endoftext|>\ntwo\n"))
    plain.write_text("three\n")
    added = FileFormat("gzip", packed, lambda names: f"unpacked: {', '.join(names)}")
    monkeypatch.setattr(documents, "FORMATS", (*FORMATS, added))
    found = read_documents([str(path), str(plain)])
    assert [text for text, _ in found.read()] == ["one\n", "two\n", "three\n"]
    assert found.notes == (f"unpacked: {path}",)
