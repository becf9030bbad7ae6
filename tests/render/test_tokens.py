"""The tokens of a text on the screen and as JSON."""

import json
import re

import pytest

from attncli.render.numbers import plural
from attncli.render.tokens import tokens_document, tokens_screen
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE

# Tokens


def rows_of(drawn):
    """Returns the rows of the table of tokens: number, id, bytes, characters."""
    found = re.findall(r"^ *(\d+)  .*?  +(\d+)  +(\d+)  +(\d+)$", drawn, re.MULTILINE)
    return [tuple(map(int, row)) for row in found]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize(
    "text",
    ["He sat on the river's bank.\n", "naïve 東京 🎉\r\n" * 3, HOSTILE, "x" * 300, " ", ""],
    ids=["english", "foreign", "hostile", "long", "a space", "nothing"],
)
def test_the_table_of_tokens_fits_and_has_a_row_for_each_token(text, width):
    tokenizer = byte_tokenizer()
    pieces = tokenizer.pieces(text)
    drawn = shown(tokens_screen(pieces, len(text), "bytes", width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    rows = rows_of(drawn)
    assert [row[:3] for row in rows] == [(at, piece.id, 1) for at, piece in enumerate(pieces[:200])]
    counted = f"{plural(len(pieces), 'token')} · {plural(len(text), 'character')}"
    assert counted in drawn.replace("\n", "")
    assert ("more tokens" in drawn) == (len(pieces) > 200)


def test_a_hostile_name_of_a_tokenizer_is_escaped():
    drawn = shown(tokens_screen(byte_tokenizer().pieces("a"), 1, HOSTILE, 80), 80)
    assert harmless(drawn)
    assert "[red]" in drawn


@pytest.mark.parametrize(
    "text", ["He sat on a bench.", "naïve 東京 🎉", "東京は 日本の 首都。"], ids=["english", "mixed", "japanese"]
)
@pytest.mark.parametrize("vocab_size", [257, 270, 280, 300, 320])
def test_the_character_counts_of_the_tokens_sum_to_the_length_of_the_text(text, vocab_size):
    """Each character is counted once, even if a token contains parts of two characters."""
    tokenizer = train_tokenizer(
        ["東京は 日本の 首都。 東京は 大きい。 naïve 🎉 sat on a bench " * 20], "bpe", vocab_size
    )
    pieces = tokenizer.pieces(text)
    rows = rows_of(shown(tokens_screen(pieces, len(text), "made", 80), 80))
    assert [row[1] for row in rows] == tokenizer.encode(text)
    assert sum(row[2] for row in rows) == len(text.encode())
    assert sum(row[3] for row in rows) == len(text)


def test_the_document_of_tokens_is_valid_json():
    text = "東" + HOSTILE
    pieces = byte_tokenizer().pieces(text)
    document = json.loads(json.dumps(tokens_document(pieces, len(text), "bytes"), allow_nan=False))
    assert [token["id"] for token in document["tokens"]] == list(text.encode())
    assert document["tokens"][1] == {"id": 0x9D, "text": "東", "bytes": 1, "part": [2, 3], "of_text": True}
    assert (document["bytes"], document["characters"]) == (len(text.encode()), len(text))
    assert document["characters_per_token"] == len(text) / len(pieces)
    assert tokens_document([], 0, "bytes")["characters_per_token"] == 0
