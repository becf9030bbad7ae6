"""Escapes: no control code reaches the terminal, and no character is invisible."""

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from attncli.errors import BadInput
from attncli.render.console import print_error, print_note
from attncli.render.escape import fit, fold, label_text, one_line, token_label, visible
from attncli.text.tokenizer import Piece
from tests.support.screens import widest
from tests.support.texts import HOSTILE, INVISIBLE

# Escapes


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("a\x1b[2J", "a␛[2J"),
        ("\x1b]8;;http://x\x1b\\y", "␛]8;;http://x␛\\y"),
        ("\x9b31m\x85", "‹9B›31m‹85›"),
        ("\x00\x07\x08\x7f", "␀␇␈␡"),
        ("one\r\ntwo\tthree", "one␍␊two␉three"),
        ("\u202eabc\u2066\u200f", "‹202E›abc‹2066›‹200F›"),
        ("a\u200bb\ufeffc\u00ad", "a‹200B›b‹FEFF›c‹AD›"),
        ("\u2028\u2029", "‹2028›‹2029›"),
        ("\ue000\U0010ffff\ud800", "‹E000›‹10FFFF›‹D800›"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("naïve 東京 🎉 ␛", "naïve 東京 🎉 ␛"),
    ],
)
def test_an_invisible_character_is_replaced(text, line):
    assert one_line(text) == line
    kept = {"one\r\ntwo\tthree": "one␍\ntwo\tthree"}
    assert visible(text) == kept.get(text, line)
    assert label_text(text) == line.replace(" ", "␣")


def test_running_text_keeps_the_joiners_of_scripts_and_of_emoji():
    for text in ("👩\u200d👧", "می\u200cخواهم"):
        assert visible(text) == text
        assert one_line(text) == text.replace("\u200d", "‹200D›").replace("\u200c", "‹200C›")


@pytest.mark.parametrize("escape", [one_line, label_text, visible])
def test_no_code_point_stays_invisible(escape):
    kept = set("\n\t\u200c\u200d") if escape is visible else set()
    everything = "".join(map(chr, range(0x110000)))
    passed = set(escape(everything)) - kept
    assert {char for char in passed if unicodedata.category(char) in INVISIBLE} == set()


@pytest.mark.parametrize(
    "code",
    [0x34F, 0x115F, 0x1160, 0x17B4, 0x180B, 0x3164, 0xFE00, 0xFE0F, 0xFFA0, 0xE0041, 0xE0100, 0xE01EF],
    ids=lambda code: f"U+{code:04X}",
)
def test_default_ignorable_characters_are_replaced(code):
    """Characters with the property Default_Ignorable_Code_Point are invisible in any font, so they can hide text."""
    for escape in (one_line, label_text, visible):
        assert escape(f"a{chr(code)}b") == f"a‹{code:X}›b"


@pytest.mark.parametrize(
    ("piece", "label"),
    [
        (Piece(1, " the", 4), "␣the"),
        (Piece(1, "\n\n", 2), "␊␊"),
        (Piece(1, "東", 1, (1, 3)), "東·1/3"),
        (Piece(1, "", 0), "∅"),
        (Piece(1, "[red]", 5), "[red]"),
        (Piece(1, "\x1b[2J", 4), "␛[2J"),
    ],
)
def test_every_character_of_a_token_s_label_is_visible(piece, label):
    assert token_label(piece) == label
    assert token_label(piece, cell_len(label)) == label
    console = Console(width=40, file=io.StringIO(), color_system=None)  # a console that parses markup
    console.print(Text(token_label(piece)))
    assert console.file.getvalue() == label + "\n"


@given(text=st.text(alphabet="ab ·東", max_size=60), width=st.integers(2, 30))
def test_folded_lines_fit_and_lose_only_separators(text, width):
    folded = fold(text, width)
    assert widest(folded) <= width
    if all(cell_len(word) <= width for word in text.split(" ")):
        assert "".join(folded.split()).replace("·", "") == "".join(text.split()).replace("·", "")


def test_a_line_breaks_between_facts_and_words():
    assert fold("tiny · 4 layers x 2 heads · 11 tokens", 40) == "tiny · 4 layers x 2 heads · 11 tokens"
    assert fold("tiny · 4 layers x 2 heads · 11 tokens", 25) == "tiny · 4 layers x 2 heads\n11 tokens"
    assert fold("a unbelievable", 6) == "a\nunbel…"


def test_a_truncated_label_keeps_the_part_of_its_character():
    assert token_label(Piece(1, "\u200d", 1, (2, 3)), 9) == "‹200…·2/3"
    assert token_label(Piece(1, "東", 1, (1, 3)), 6) == "東·1/3"


def test_a_long_label_is_truncated():
    assert token_label(Piece(1, " unbelievable", 13), 8) == "␣unbeli…"
    assert token_label(Piece(1, "東京東京東京", 18), 8) == "東京東…"
    assert token_label(Piece(1, "東京東京東京", 18), 7) == "東京東…"


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=30) | st.text("ab東京é ", max_size=30), width=st.integers(1, 20))
def test_a_label_never_exceeds_its_width(text, width):
    label = label_text(text)
    cut = fit(label, width)
    assert cell_len(cut) <= width
    assert cut == label if cell_len(label) <= width else cut.endswith("…")


def test_errors_and_notes_escape_hostile_text(capsys):
    print_error(BadInput(f"{HOSTILE} is not text.", f"Try {HOSTILE}."))
    print_note(HOSTILE)
    written = capsys.readouterr()
    assert written.out == ""
    assert len(written.err.splitlines()) == 3
    for line in written.err.splitlines():
        assert "␛[2J␛]52;c;aGk=␇‹9B›31m␡␍‹202E›‹200B›[red]x[/red]:smile:" in line
        assert not [char for char in line if unicodedata.category(char) in INVISIBLE]
