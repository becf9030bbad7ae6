"""JSON Lines as documents."""

import io
import json

import pytest

from attncli.errors import BadInput
from attncli.text import reading
from attncli.text.files import read_documents
from attncli.text.formats import base
from tests.support.corpora import texts_of, write


def lines_of(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_every_line_of_json_with_a_text_is_a_document(tmp_path, monkeypatch):
    """A line is an object with a text and perhaps a prompt, as `attncli generate --jsonl` writes it."""
    records = [{"index": 0, "prompt": "Once", "text": " upon\na time"}, {"prompt": "", "text": ""}, {"text": "é\n\n"}]
    data = lines_of(*records).replace("\n", "\n\n") + '{"text": "no end"}'
    expected = ("Once upon\na time\n", "é\n\n", "no end")
    path = write(tmp_path / "made.jsonl", data)
    found = read_documents([path])
    assert texts_of(found) == expected
    assert found.notes == (f"each line of {path} is a document: its prompt, then its text",)
    monkeypatch.setattr(reading, "_BLOCK", 7)
    assert texts_of(read_documents([path])) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert texts_of(read_documents(["-"])) == expected
    plain = read_documents([write(tmp_path / "made.txt", data)])
    assert (plain.count, plain.notes) == (1, ())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": 1}', "line 2 is not a JSON object"),
        ("[" * 5000, "line 2 is not a JSON object"),
        ('{"text": "cut', "line 2 is not a JSON object"),
        ('{"text": "\\ud800"}', "line 2: The text is not valid Unicode"),
    ],
)
def test_an_invalid_line_is_named_by_its_number(tmp_path, line, found):
    path = write(tmp_path / "made.jsonl", lines_of({"text": "first"}) + line)
    with pytest.raises(BadInput, match=found):
        read_documents([path])


def test_a_line_is_read_only_up_to_a_limit(tmp_path, monkeypatch):
    """If the first line is too long, it is not read to its end and the file is plain text. Later, it is an error."""
    monkeypatch.setattr(reading, "_BLOCK", 7)
    monkeypatch.setattr(base, "LONGEST_LINE", 40)
    whole = json.dumps({"text": 60 * "x"})
    taken = []
    blocks = ((whole[at : at + 7], False) for at in range(0, 10**6, 7) if taken.append(at) is None)
    base.with_first_line(blocks)
    assert len(taken) == 6
    assert texts_of(read_documents([write(tmp_path / "a.jsonl", whole)])) == (whole,)
    with pytest.raises(BadInput, match=r"b\.jsonl, line 3 has more than 40 characters"):
        read_documents([write(tmp_path / "b.jsonl", lines_of({"text": "a"}, {"text": "b"}) + whole + "\n")])


def test_a_note_names_files_whose_syntax_was_read_as_plain_text(tmp_path):
    table, lines = write(tmp_path / "a.tsv", "name\ttext\nx\ty\n"), write(tmp_path / "b.jsonl", '{"words": "x"}\n')
    found = read_documents([table, lines])
    assert texts_of(found) == ("name\ttext\nx\ty\n", '{"words": "x"}\n')
    assert found.notes == (f"read as plain text, with all the syntax of JSONL, TSV: {table} and 1 more",)
    assert read_documents([write(tmp_path / "a.txt", "name,text\n")]).notes == ()
