"""What is drawn: nothing hostile reaches the terminal, nothing is wider than it, and every figure is the one found."""

import io
import json
import re
import types
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from attncli.checkpoint.catalog import ModelEntry
from attncli.errors import BadInput
from attncli.evaluation.score import Score
from attncli.explain.question import ROWS_AROUND as MAP_ROWS
from attncli.model.count import PRESETS, count_parameters
from attncli.render import live
from attncli.render.cells import pool_by_maximum
from attncli.render.console import print_error, print_note
from attncli.render.escape import fit, fold, label_text, one_line, token_label, visible
from attncli.render.first_screen import explanation_document, explanation_screen
from attncli.render.head_map import attention_map
from attncli.render.live import seconds_left
from attncli.render.models import info_document, info_screen, models_document, models_table
from attncli.render.numbers import bar, count, duration, percent, plural, size
from attncli.render.palette import heat
from attncli.render.tokens import tokens_document, tokens_screen
from attncli.render.training import TrainingScreen, plan_table
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from attncli.training.curves import curves_from_lines
from attncli.training.reports import BestHead, EvalReport, HeadsReport, Result, SampleReport, StepReport
from tests.support.explanations import CHECKS, ENGLISH, FOREIGN, GOLDEN_FINDINGS, checked, explanation
from tests.support.screens import harmless, screen, shown, widest
from tests.support.texts import HOSTILE, INVISIBLE
from tests.support.training import PLAN

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
def test_what_is_invisible_gets_a_stand_in(text, line):
    assert one_line(text) == line
    kept = {"one\r\ntwo\tthree": "one␍\ntwo\tthree"}
    assert visible(text) == kept.get(text, line)
    assert label_text(text) == line.replace(" ", "␣")


def test_running_text_keeps_the_joiners_of_scripts_and_of_emoji():
    for text in ("👩\u200d👧", "می\u200cخواهم"):
        assert visible(text) == text
        assert one_line(text) == text.replace("\u200d", "‹200D›").replace("\u200c", "‹200C›")


@pytest.mark.parametrize("escape", [one_line, label_text, visible])
def test_no_code_point_passes_invisibly(escape):
    kept = set("\n\t\u200c\u200d") if escape is visible else set()
    everything = "".join(map(chr, range(0x110000)))
    passed = set(escape(everything)) - kept
    assert {char for char in passed if unicodedata.category(char) in INVISIBLE} == set()


@pytest.mark.parametrize(
    "code",
    [0x34F, 0x115F, 0x1160, 0x17B4, 0x180B, 0x3164, 0xFE00, 0xFE0F, 0xFFA0, 0xE0041, 0xE0100, 0xE01EF],
    ids=lambda code: f"U+{code:04X}",
)
def test_what_unicode_says_to_ignore_is_not_ignored(code):
    """Default_Ignorable_Code_Point: letters and marks that no font shows, in which text can be hidden."""
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
def test_a_token_is_labelled_with_everything_visible(piece, label):
    assert token_label(piece) == label
    assert token_label(piece, cell_len(label)) == label
    console = Console(width=40, file=io.StringIO(), color_system=None)  # one that reads markup
    console.print(Text(token_label(piece)))
    assert console.file.getvalue() == label + "\n"


@given(text=st.text(alphabet="ab ·東", max_size=60), width=st.integers(2, 30))
def test_folded_lines_fit_and_lose_nothing_but_what_parts_them(text, width):
    folded = fold(text, width)
    assert widest(folded) <= width
    if all(cell_len(word) <= width for word in text.split(" ")):
        assert "".join(folded.split()).replace("·", "") == "".join(text.split()).replace("·", "")


def test_a_line_breaks_between_facts_and_words():
    assert fold("tiny · 4 layers x 2 heads · 11 tokens", 40) == "tiny · 4 layers x 2 heads · 11 tokens"
    assert fold("tiny · 4 layers x 2 heads · 11 tokens", 25) == "tiny · 4 layers x 2 heads\n11 tokens"
    assert fold("a unbelievable", 6) == "a\nunbel…"


def test_a_cut_label_keeps_its_part():
    assert token_label(Piece(1, "\u200d", 1, (2, 3)), 9) == "‹200…·2/3"
    assert token_label(Piece(1, "東", 1, (1, 3)), 6) == "東·1/3"


def test_a_long_label_is_cut():
    assert token_label(Piece(1, " unbelievable", 13), 8) == "␣unbeli…"
    assert token_label(Piece(1, "東京東京東京", 18), 8) == "東京東…"
    assert token_label(Piece(1, "東京東京東京", 18), 7) == "東京東…"


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=30) | st.text("ab東京é ", max_size=30), width=st.integers(1, 20))
def test_a_label_never_passes_its_width(text, width):
    label = label_text(text)
    cut = fit(label, width)
    assert cell_len(cut) <= width
    assert cut == label if cell_len(label) <= width else cut.endswith("…")


def test_an_error_and_a_note_show_hostile_text_harmless(capsys):
    print_error(BadInput(f"{HOSTILE} is not text.", f"Try {HOSTILE}."))
    print_note(HOSTILE)
    written = capsys.readouterr()
    assert written.out == ""
    assert len(written.err.splitlines()) == 3
    for line in written.err.splitlines():
        assert "␛[2J␛]52;c;aGk=␇‹9B›31m␡␍‹202E›‹200B›[red]x[/red]:smile:" in line
        assert not [char for char in line if unicodedata.category(char) in INVISIBLE]


# Numbers


@pytest.mark.parametrize(
    ("draw", "examples"),
    [
        (
            count,
            {0: "0", 7: "7", 999: "999", 999.5: "1k", 1000: "1k", 12345: "12.3k", 935296: "935k", 999_499: "999k",
             999_500: "1M", 1_234_567: "1.23M", 124_439_808: "124M", 174_604_259_328: "175B"},
        ),
        (
            size,
            {0: "0 B", 999: "999 B", 1000: "1.0 kB", 1536: "1.5 kB", 12_345_678: "12.3 MB",
             698_400_000_000: "698.4 GB"},
        ),
        (
            duration,
            {0: "0s", 7.2: "7s", 59.4: "59s", 59.6: "1m 00s", 95: "1m 35s", 3599.7: "1h 00m", 7260: "2h 01m",
             360_000: "100h 00m"},
        ),
        (
            percent,
            {0: "0%", 1: "100%", 0.4137: "41%", 0.01: "1%", 0.0042: "0.4%", 0.0005: "0.1%", 0.0004: "<0.1%",
             1e-9: "<0.1%", 0.996: "100%"},
        ),
    ],
)  # fmt: skip
def test_numbers_read_as_a_person_reads_them(draw, examples):
    assert {number: draw(number) for number in examples} == examples


UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@settings(deadline=None, max_examples=100)
@given(number=st.integers(0, 10**12 - 10**9))
@example(number=999_499_999)
@example(number=999_500_000)
def test_a_count_has_three_digits_and_is_half_a_per_cent_off_at_most(number):
    digits, unit = re.fullmatch(r"([0-9.]+)([kMB]?)", count(number)).groups()
    assert float(digits) * UNITS[unit] == pytest.approx(number, rel=0.0051)
    assert len(digits.replace(".", "")) <= 3
    assert float(digits) < 1000


@settings(deadline=None, max_examples=100)
@given(number=st.integers(0, 10**12 - 10**9) | st.sampled_from([999_949, 999_950, 999_999, 999_999_999]))
@example(number=999_999)
def test_a_size_is_below_a_thousand_of_its_unit(number):
    digits, unit = size(number).split(" ")
    assert float(digits) * UNITS["" if unit == "B" else unit] == pytest.approx(number, rel=0.051)
    assert float(digits) < 1000


@settings(deadline=None, max_examples=100)
@given(seconds=st.integers(0, 10**6))
def test_a_duration_says_its_seconds_or_its_minutes(seconds):
    unit = {"h": 3600, "m": 60, "s": 1}
    said = sum(int(part[:-1]) * unit[part[-1]] for part in duration(seconds).split())
    assert said == (seconds if seconds < 3600 else seconds // 60 * 60)


@settings(deadline=None, max_examples=100)
@given(share=st.floats(0, 1))
def test_a_per_cent_is_never_rounded_to_nothing(share):
    said = percent(share)
    assert (said == "0%") == (share == 0)
    assert len(said) <= 5
    if said != "<0.1%":
        assert abs(float(said[:-1]) - 100 * share) <= (0.5 if share >= 0.00995 else 0.05) + 1e-9
    else:
        assert share < 0.001


@settings(deadline=None, max_examples=100)
@given(share=st.floats(-1, 2), more=st.floats(0, 1), width=st.integers(0, 60), full=st.sampled_from(["█", "▒"]))
@example(share=float("nan"), more=0.0, width=10, full="█")
@example(share=0.9999, more=0.0, width=8, full="█")
def test_a_bar_never_passes_its_width_and_grows_with_its_share(share, more, width, full):
    drawn = bar(share, width, full)
    assert cell_len(drawn) <= width
    assert set(drawn[:-1]) <= {full}
    assert cell_len(drawn) <= cell_len(bar(share + more, width, full)) or share != share
    if 0 <= share <= 1:
        assert abs(cell_len(drawn) - share * width) < 1


def test_bars_by_hand():
    assert [bar(eighth / 8, 1) for eighth in range(9)] == ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"]
    assert bar(0.5, 10) == "█████"
    assert bar(0.55, 10) == "█████▌"
    assert bar(0.55, 4, "▒") == "▒▒"
    assert [bar(share, 3) for share in (-1, 0, 1, 7)] == ["", "", "███", "███"]


# Colours


def luminance(color):
    """Relative luminance of a Rich colour (WCAG 2)."""
    channels = np.array(color.get_truecolor()) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(style):
    light, dark = sorted((luminance(style.color), luminance(style.bgcolor)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colors", "steps"), [("truecolor", 100), ("256", 9)])
def test_more_is_lighter(colors, steps):
    lights = [luminance(heat(step / steps, colors).bgcolor) for step in range(steps + 1)]
    assert all(before < after for before, after in pairwise(lights))


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_digits_are_readable_on_every_colour(colors):
    """Black or white reaches a contrast of 4.5 on any ground; 3 is what WCAG asks of large letters."""
    assert min(contrast(heat(step / 100, colors)) for step in range(101)) > 3


@pytest.mark.parametrize("colors", [None, "standard", "windows"])
def test_few_colours_are_none(colors):
    assert not heat(0.5, colors)


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_a_value_out_of_range_has_the_colour_of_the_end(colors):
    assert heat(-1, colors) == heat(0, colors)
    assert heat(2, colors) == heat(1, colors)


# The first screen of an explanation


def explained(found, width, model="stories"):
    console = screen(width)
    console.print(explanation_screen(found, model, console))
    return console.file.getvalue()


GOLDEN = """\
tiny · 2 layers x 2 heads · 4 tokens   The|␣cat|␣sat|東·1/3

Where does 東·1/3 [3] get its information?
share of what attention brings, all layers and heads
2 ␣sat   ████████████████████████████████████ 40%
3 東·1/3 ███████████████████████████          30% itself
1 ␣cat   █████████                            10%
0 The    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒                   20% first token
not counted: the residual stream (attention's output: .30 of its length) and the
feed-forward parts

Busiest head 1.0: it brings most from other tokens, the first aside
row looks at column, % of row · looks at the token before: .47, chance .36
              0   1   2   3
  0 The     100
  1 ␣cat     75  25
  2 ␣sat     50   0  50
  3 東·1/3    5  20  65  10

Next token   temperature 1
␣on            ████████████████████                       50%
␊              ▌                                           1%
[red]                                                   <0.1%

A share says how much attention brings from a token, not whether the prediction
needs it.
More: --token 2 · --head 1.0 · --view grid · --view logit · --view lens · --json
"""


def test_a_small_explanation_looks_like_this():
    found = "\n".join(line.rstrip() for line in explained(GOLDEN_FINDINGS, 80, "tiny").split("\n"))
    assert found == GOLDEN


GOLDEN_CHECKS = {
    40: """\
2 ␣sat   ████████ 40% → 9%
3 東·1/3 ██████   30% → 45%   itself
1 ␣cat   ██       10% → <0.1%
0 The    ▒▒▒▒     20% → 52%
→: P(␣on) 50% with it cut off
a random cut: 50% → 32%
not counted: the residual stream
(attention's output: .30 of its length)
and the feed-forward parts
""",
    60: """\
2 ␣sat   ████████████████████ 40% 50% → 9%
3 東·1/3 ███████████████      30% 50% → 45%   itself
1 ␣cat   █████                10% 50% → <0.1%
0 The    ▒▒▒▒▒▒▒▒▒▒           20% 50% → 52%   first token
→: P(␣on) 50% with it cut off
a random cut: 50% → 32% (mean over 3 tokens before)
not counted: the residual stream (attention's output: .30 of
its length) and the feed-forward parts
""",
    80: """\
2 ␣sat   ████████████████████████████ 40% cut: P(␣on) 50% → 9%
3 東·1/3 █████████████████████        30% cut: P(␣on) 50% → 45%   itself
1 ␣cat   ███████                      10% cut: P(␣on) 50% → <0.1%
0 The    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒               20% cut: P(␣on) 50% → 52%   first token
a random cut: 50% → 32% (mean over 3 tokens before) in all layers and heads
not counted: the residual stream (attention's output: .30 of its length) and the
feed-forward parts
""",
}


@pytest.mark.parametrize("width", GOLDEN_CHECKS)
def test_beside_each_bar_stands_what_a_cut_leaves(width):
    drawn = explained(replace(GOLDEN_FINDINGS, checks=CHECKS), width, "tiny")
    found = "\n".join(line.rstrip() for line in drawn.split("\n"))
    assert found[found.index("2 ␣sat ") :].partition("\n\n")[0] + "\n" == GOLDEN_CHECKS[width]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 75, 76, 80, 120, 200])
@pytest.mark.parametrize("length", [1, 2, 7, 300])
@pytest.mark.parametrize("words", [ENGLISH, FOREIGN], ids=["english", "foreign"])
def test_no_line_with_a_cut_passes_the_width_or_loses_a_number(words, length, width):
    found = checked(explanation([words[at % len(words)] for at in range(length)]), HOSTILE)
    drawn = explained(found, width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    if width >= 40:
        assert drawn.count("→ <0.1%") == len(found.checks.sources)
        assert drawn.count("a random cut: 21% → 20%") == 1
        assert not re.search(r" \d…|first tok…|itse…", drawn)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("length", [1, 2, 5, 7, 11, 30, 60, 300])
@pytest.mark.parametrize("words", [ENGLISH, FOREIGN], ids=["english", "foreign"])
def test_no_line_of_an_explanation_passes_the_width(words, length, width):
    found = explanation([words[at % len(words)] for at in range(length)], next_tokens=[(word, 0.1) for word in words])
    drawn = explained(found, width)
    assert widest(drawn) <= width
    assert harmless(drawn)


@pytest.mark.parametrize("width", range(1, 40))
def test_an_explanation_is_drawn_in_a_terminal_of_any_width(width):
    for length in (1, 2, 7, 50):
        drawn = explained(explanation([ENGLISH[at % 7] for at in range(length)]), width)
        assert widest(drawn) <= width


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("words", [ENGLISH, FOREIGN], ids=["english", "foreign"])
def test_every_named_source_shows_its_share(words, width):
    found = explanation(words)
    lines = explained(found, width).split("\n")
    for at, (piece, share) in enumerate(zip(found.pieces, found.sources.shares, strict=True)):
        beginning = token_label(piece)[:3]
        (line,) = [line for line in lines if re.match(rf"{at} {re.escape(beginning)}.*[█▏▎▍▌▋▊▉▒]", line)]
        assert f" {percent(share)}" in line
        assert ("itself" in line) == (at == len(words) - 1)
        assert ("first token" in line) == (at == 0)


def test_the_sources_too_many_to_name_are_summed():
    found = explanation([f" w{at}" for at in range(30)])
    shares = sorted(found.sources.shares[1:], reverse=True)
    (line,) = [line for line in explained(found, 80).split("\n") if "more" in line and "More" not in line]
    assert line.split() == ["21", "more", percent(sum(shares[8:]))]


def test_the_first_tokens_raw_attention_is_said_where_there_is_room():
    found = explanation(ENGLISH)
    said = f"first token: {percent(found.sources.raw[0])} of the raw attention"
    assert said in explained(found, 120)


def test_the_focus_is_named_with_its_index():
    found = explanation(ENGLISH, focus=4)
    drawn = explained(found, 80)
    assert "Where does ␣river [4] get its information?" in drawn
    assert "Next token after ␣river [4]" in drawn
    assert "Next token after" not in explained(explanation(ENGLISH), 80)


@pytest.mark.parametrize(
    ("changes", "scope"),
    [
        ({}, "share of what attention brings, all layers and heads"),
        ({"head": 3}, "share of what attention brings, all layers, head 3"),
        ({"layers": (2,)}, "share of what attention brings, layer 2, all heads"),
        ({"layers": (2,), "head": 3, "weights": "raw"}, "raw attention weight, layer 2, head 3"),
    ],
)
def test_what_the_shares_are_of_is_said(changes, scope):
    found = explanation(ENGLISH)
    assert scope in explained(replace(found, sources=replace(found.sources, **changes)), 80)


def test_a_head_that_was_asked_for_is_not_called_the_busiest():
    found = explanation(ENGLISH)
    assert "Busiest head 2.3" in explained(found, 80)
    asked = explained(replace(found, map=replace(found.map, asked_for=True)), 80)
    assert "Busiest" not in asked
    assert "Head 2.3" in asked


def test_a_single_token_has_no_token_before_it():
    drawn = explained(explanation(["He"]), 80)
    assert "token before" not in drawn
    assert re.search(r"^0 He +█+ 100% itself", drawn, re.MULTILINE)


@pytest.mark.parametrize("length", [2, 7, 15])
def test_the_map_in_numbers_is_the_per_cent_of_each_weight(length):
    found = explanation([f" {chr(97 + at)}" for at in range(length)])
    drawn = explained(found, 80)
    for row in range(length):
        (line,) = re.findall(rf"^ *{row} ␣{chr(97 + row)} +([\d ]+)$", drawn, re.MULTILINE)
        assert [int(value) for value in line.split()] == [round(w * 100) for w in found.map.weights[row, : row + 1]]


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_what_the_mask_forbids_has_no_colour(colors):
    console = screen(80, colors)
    console.print(explanation_screen(explanation(ENGLISH), "stories", console))
    backgrounds = re.findall(r"48;[25];", console.file.getvalue())
    assert len(backgrounds) == 7 * 8 // 2


def shades(drawn):
    """The map in shades: its ruler, and of each row the first token and what is drawn, with the cell it starts at."""
    lines = drawn.split("\n")
    legend = next(at for at, line in enumerate(lines) if "0%  ░ up to" in line)
    rows = []
    for at in range(legend - 1, 0, -1):
        found = re.match(r" *(\d+) ", lines[at])
        start = next((i for i in range(5, len(lines[at])) if lines[at][i] in "·░▒▓█"), None)
        if found is None or start is None:
            return lines[at], rows[::-1]
        rows.append((int(found[1]), cell_len(lines[at][:start]), lines[at][start:]))
    raise AssertionError("no map")


@pytest.mark.parametrize(
    "word", ["a", "東", "東京日本東京", "東京日本東京日本"], ids=["letter", "wide", "wider", "widest"]
)
@pytest.mark.parametrize(("length", "width"), [(30, 80), (70, 80), (70, 200), (12, 40)])
def test_the_columns_of_a_map_in_shades_stand_one_below_another(word, length, width):
    _, rows = shades(explained(explanation([word] * length), width))
    assert len({start for _, start, _ in rows}) == 1
    wide = len(rows[0][2])
    for at, (_, _, cells) in enumerate(rows):
        assert len(cells.rstrip()) <= (at + 1) * wide <= len(cells.ljust((at + 1) * wide))


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("length", [11, 16, 21, 31, 41, 50, 100, 101, 199, 300])
def test_the_ruler_of_a_map_in_shades_names_the_columns(length, width):
    drawn = explained(explanation(["a"] * length), width)
    if "0%  ░ up to" not in drawn:
        assert length * 4 <= width - 19  # in numbers
        return
    ruler, rows = shades(drawn)
    pool, wide = rows[1][0] - rows[0][0], len(rows[0][2])
    named = {found.start(): int(found[0]) for found in re.finditer(r"\d+", ruler)}
    left = rows[0][1]
    assert named[left] == 0
    assert named == {start: (start - left) // wide * pool for start in named}
    assert [row[0] for row in rows] == [at * pool for at in range(len(rows))]
    assert len(rows) == -(-length // pool)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_pooled_map_keeps_the_largest_and_says_the_size(width):
    found = explanation(["a"] * 80)
    weights = np.tril(np.full((80, 80), 0.0))
    weights[:, 0] = 1.0
    weights[51] = np.eye(80)[33]  # one sharp peak
    drawn = explained(replace(found, map=replace(found.map, weights=weights)), width)
    _, rows = shades(drawn)
    pool, wide = rows[1][0], len(rows[0][2])
    assert pool >= 2
    for at, (first, _, cells) in enumerate(rows):
        values = cells.ljust(wide * len(rows))[::wide]
        peak = 33 // pool if first == 51 // pool * pool else 0
        assert {column for column, value in enumerate(values[: at + 1]) if value == "█"} == {0, peak}
        assert set(values[: at + 1]) <= set("█·")
    assert f"largest of {pool} x {pool}" in drawn


def half_blocks(lines):
    """The cells of a map drawn in half blocks: of each row the colour of every cell."""
    rows = []
    for line in lines:
        if not any(segment.text[:1] in ("▀", "▄") for segment in line):
            continue
        upper, lower = [], []
        for segment in line:
            if segment.text[:1] == "▀":
                upper += [segment.style.color] * len(segment.text)
                lower += [segment.style.bgcolor] * len(segment.text)
            elif segment.text[:1] == "▄":
                lower += [segment.style.color] * len(segment.text)
        rows += [upper, lower]
    return rows


@pytest.mark.parametrize("colors", ["truecolor", "256"])
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("length", [25, 60, 151])
def test_a_map_of_many_tokens_keeps_the_palette(length, width, colors):
    console = screen(width, colors)
    found = explanation(["a"] * length)
    weights = np.tril(np.random.default_rng(0).random((length, length)))
    lines = console.render_lines(attention_map(found.pieces, replace(found.map, weights=weights), 3, console))
    text = "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)
    assert len(lines) <= MAP_ROWS + 3
    if length == 25 and width == 200:
        assert "▀" not in text  # numbers fit
        return
    stated = re.search(r"largest of (\d+) x \1$", text, re.MULTILINE)
    pooled = pool_by_maximum(weights, *[int(stated[1])] * 2) if stated else weights
    rows = half_blocks(lines)
    wide = len(rows[0])
    assert [row[::wide] for row in rows if any(row)] == [
        [heat(value, colors).bgcolor for value in row[: at + 1]] for at, row in enumerate(pooled)
    ]
    assert "0%             100% of a row" in text


@pytest.mark.parametrize(
    ("weight", "shade"),
    [(0.0, "·"), (0.01, "·"), (0.1, "░"), (0.25, "░"), (0.4, "▒"), (0.5, "▒"), (0.7, "▓"), (0.9, "█"), (1.0, "█")],
)
def test_a_shade_is_the_quarter_that_the_legend_says(weight, shade):
    found = explanation(["a"] * 30)
    weights = np.eye(30) * (1 - weight)
    weights[:, 0] = weight
    _, rows = shades(explained(replace(found, map=replace(found.map, weights=weights)), 80))
    assert {cells[0] for _, _, cells in rows[1:]} == {shade}


@pytest.mark.parametrize("width", [40, 120])
def test_hostile_tokens_are_harmless_in_an_explanation(width):
    found = explanation([HOSTILE, "a", HOSTILE], next_tokens=[(HOSTILE, 0.5), ("[red]", 0.1)])
    drawn = explained(found, width)
    assert harmless(drawn)
    assert "␛[2J" in drawn
    assert "[red]" in drawn


@pytest.mark.parametrize("width", [40, 120])
def test_a_hostile_name_of_a_model_is_harmless_in_an_explanation(width):
    assert harmless(explained(explanation(ENGLISH), width, HOSTILE))
    assert "[red]" in explained(explanation(ENGLISH), width, "[red]")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_cut_in_some_heads_is_said_to_be_one(width):
    found = checked(explanation(ENGLISH))
    narrow = replace(found, sources=replace(found.sources, layers=(2,), head=1))
    assert re.search(r"^each cut in layer 2, head 1 only *$", explained(narrow, width), re.MULTILINE)
    assert "only" not in explained(found, width)


def test_an_explanation_is_a_json_document_in_full_precision():
    found = explanation([*ENGLISH, HOSTILE], next_tokens=[(" and", 0.1 + 0.2), ("\ud800", 0.1)])
    document = json.loads(json.dumps(explanation_document(found, "stories"), allow_nan=False))
    assert document["model"] == "stories"
    assert (document["layers"], document["heads"]) == (4, 6)
    assert [token["text"] for token in document["tokens"]] == [*ENGLISH, HOSTILE]
    assert [token["index"] for token in document["tokens"]] == list(range(8))
    assert document["sources"]["shares"] == found.sources.shares.tolist()
    assert document["sources"]["raw"] == found.sources.raw.tolist()
    assert document["sources"]["by_layer"] == found.sources.by_layer.tolist()
    assert document["map"]["weights"] == found.map.weights.tolist()
    assert document["map"]["previous_token"] == found.map.previous_token
    assert document["next_tokens"][0] == {"id": 0, "text": " and", "probability": 0.1 + 0.2}
    assert document["checks"] is None
    document = explanation_document(replace(found, checks=CHECKS), "stories")["checks"]
    assert document["token"] == {"id": 2, "text": " on", "probability": 0.5}
    assert document["cuts"][2] == {"source": 1, "probability": 0.0002}
    assert document["random"] == {"probability": 0.3237, "cuts": 3, "of": 3}


# Tokens


def rows_of(drawn):
    """The rows of the table of tokens: number, id, bytes, characters."""
    found = re.findall(r"^ *(\d+)  .*?  +(\d+)  +(\d+)  +(\d+)$", drawn, re.MULTILINE)
    return [tuple(map(int, row)) for row in found]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize(
    "text",
    ["He sat on the river's bank.\n", "naïve 東京 🎉\r\n" * 3, HOSTILE, "x" * 300, " ", ""],
    ids=["english", "foreign", "hostile", "long", "a space", "nothing"],
)
def test_tokens_fit_and_every_one_has_its_row(text, width):
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


def test_a_hostile_name_of_a_tokenizer_is_harmless():
    drawn = shown(tokens_screen(byte_tokenizer().pieces("a"), 1, HOSTILE, 80), 80)
    assert harmless(drawn)
    assert "[red]" in drawn


@pytest.mark.parametrize(
    "text", ["He sat on a bench.", "naïve 東京 🎉", "東京は 日本の 首都。"], ids=["english", "mixed", "japanese"]
)
@pytest.mark.parametrize("vocab_size", [257, 270, 280, 300, 320])
def test_the_characters_of_the_tokens_are_those_of_the_text(text, vocab_size):
    """A token may hold the end of one character and the beginning of the next; each is counted once."""
    tokenizer = train_tokenizer(
        ["東京は 日本の 首都。 東京は 大きい。 naïve 🎉 sat on a bench " * 20], "bpe", vocab_size
    )
    pieces = tokenizer.pieces(text)
    rows = rows_of(shown(tokens_screen(pieces, len(text), "made", 80), 80))
    assert [row[1] for row in rows] == tokenizer.encode(text)
    assert sum(row[2] for row in rows) == len(text.encode())
    assert sum(row[3] for row in rows) == len(text)


def test_tokens_are_a_json_document():
    text = "東" + HOSTILE
    pieces = byte_tokenizer().pieces(text)
    document = json.loads(json.dumps(tokens_document(pieces, len(text), "bytes"), allow_nan=False))
    assert [token["id"] for token in document["tokens"]] == list(text.encode())
    assert document["tokens"][1] == {"id": 0x9D, "text": "東", "bytes": 1, "part": [2, 3], "of_text": True}
    assert (document["bytes"], document["characters"]) == (len(text.encode()), len(text))
    assert document["characters_per_token"] == len(text) / len(pieces)
    assert tokens_document([], 0, "bytes")["characters_per_token"] == 0


# Models


RUN = {
    "status": "finished",
    "corpus": {"sources": [f"corpus{HOSTILE}.txt"], "train_characters": 900_000},
    "plan": {"device": "cpu"},
    "progress": {"step": 1200, "seconds": 301.2},
    "results": {"nats_per_token": 2.1, "bits_per_byte": 1.2341, "nats_per_character": 0.9, "validation": "whole"},
    "versions": {"attncli": "0.1.0", "torch": "2.13.0"},
}
LONG_NAME = "a-model-with-a-rather-long-name-indeed"
ENTRIES = [
    ModelEntry("stories", Path("checkpoints/stories"), 12_345_678, 1.7e9, "finished", {}, RUN),
    ModelEntry(f"odd{HOSTILE}", Path("checkpoints/odd"), 999, 1.7e9, HOSTILE, {}, {"results": []}),
]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_known_of_a_model_fits_and_has_every_number(name, width):
    config = PRESETS[name][1]
    drawn = shown(info_screen(HOSTILE, config, RUN, HOSTILE, width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    parts = count_parameters(config)
    for part, number in parts.items():
        assert bool(re.search(rf"^{part} +{number:,} ", drawn, re.MULTILINE)) == bool(number)
    assert f"{sum(parts.values()):,}" in drawn
    assert "1,200 steps in 5m 01s" in " ".join(drawn.split())
    assert json.loads(json.dumps(info_document(name, config, RUN, None)))["parameters"]["total"] == sum(parts.values())


@pytest.mark.parametrize(
    "run",
    [
        {},
        dict.fromkeys(RUN),
        {key: [] for key in RUN},
        {key: {} for key in RUN},
        {"results": {"bits_per_byte": "x", "nats_per_token": float("nan"), "nats_per_character": 10**5000}},
        {"corpus": {"sources": 7, "train_characters": True}, "progress": {"step": -1, "seconds": "x"}, "versions": [1]},
    ],
)
def test_an_odd_record_of_a_run_is_shown_as_far_as_it_goes(run):
    drawn = shown(info_screen("odd", PRESETS["gpt2"][1], run, None), 80)
    assert "124,439,808" in drawn
    assert widest(drawn) <= 80
    table = models_table([ModelEntry("odd", Path("odd"), 1, 1.7e9, "elsewhere", {}, run)], {}, None)
    assert "odd" in shown(table, 80)


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_of_models_fits(width):
    drawn = shown(models_table(ENTRIES, {"stories": 935_296}, "stories", width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    assert len(drawn.splitlines()) == 1 + len(ENTRIES)
    assert "stories ←" in drawn
    assert len(json.dumps(models_document(ENTRIES, {"stories": 935_296}, "stories"))) > 0


def test_the_list_of_models_has_the_newest_first_its_age_and_its_folder():
    now = 1.8e9
    ages = {"just now": 5, "2 min ago": 130, "5 h ago": 5 * 3600, "1 day ago": 90_000, "12 days ago": 12.5 * 86_400}
    entries = [
        ModelEntry(f"m{at}", Path(f"checkpoints/m{at}"), 1, now - ago, "finished", {}, {})
        for at, ago in enumerate(ages.values())
    ]
    entries += [
        ModelEntry("far", Path("/models/far"), 1, 1e30, "finished", {}, {}),
        ModelEntry("old", Path("/models/old"), 1, 1e9, "finished", {}, {}),
    ]
    drawn = shown(models_table(entries[::-1], {}, None, now=now), 80).splitlines()
    assert [line.split()[0] for line in drawn[1:8]] == ["far", "m0", "m1", "m2", "m3", "m4", "old"]
    assert [line.rstrip().endswith(said) for line, said in zip(drawn[2:7], ages, strict=True)] == [True] * 5
    assert "9999-" in drawn[1]
    assert "2001-09-0" in drawn[7]
    assert drawn[8].rstrip() == "in /models: far, old"
    document = models_document(entries, {}, None)
    assert [entry["name"] for entry in document][1:3] == ["m0", "m1"]
    assert document[1]["modified"] == "2027-01-15T07:59:55+00:00"


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ({}, "1024 tokens"),
        ({"window": 6}, "1024 tokens, a window of 6"),
        ({"window": 6, "window_from": 12}, "1024 tokens"),
        ({"window": 6, "window_from": 3}, "1024 tokens, a window of 6 in layers 3 to 11"),
        ({"window": 6, "window_from": 11}, "1024 tokens, a window of 6 in layer 11"),
    ],
)
def test_a_window_is_told_of_the_layers_that_have_one(switch, said):
    config = replace(PRESETS["llama2-7b"][1], layers=12, context=1024, **switch)
    drawn = shown(info_screen("m", config, {}, None), 80)
    assert re.search(rf"^context +{said} *$", drawn, re.MULTILINE)


def test_the_cache_in_c_is_told_whatever_the_weights_are():
    config = PRESETS["gpt2"][1]
    memory = info_document("m", config, {}, None)["memory_bytes"]
    assert memory["bfloat16"]["cache_per_token_in_c"] == memory["float32"]["cache_per_token"]
    assert memory["bfloat16"]["cache_per_token"] * 2 == memory["float32"]["cache_per_token"]
    assert "keeps its cache in float32" in " ".join(shown(info_screen("m", config, {}, None), 80).split())


@pytest.mark.parametrize("name", ["stories", LONG_NAME])
def test_the_list_of_models_cuts_a_name_and_never_a_number(name):
    drawn = shown(models_table([replace(ENTRIES[0], name=name)], {name: 935_296}, name), 80)
    for figure in ("935k", "12.3 MB", "1.234"):
        assert figure in drawn


# Training


@pytest.mark.parametrize("width", [40, 80])
def test_a_plan_fits_and_says_what_will_happen(width):
    drawn = shown(plan_table(PLAN, HOSTILE, f"{HOSTILE} 1.1 MB"), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    said = " ".join(drawn.split())
    for fact in (
        "124M parameters: 12 layers x 12 heads, width 768 (for 5 minutes on this machine)",
        "vocabulary 50,257",
        "5m 00s: about 1,830 steps, 15M tokens, 30.0 epochs, 0.1 tokens per parameter",
        "8 windows of 1024 tokens, in 2 parts",
        "Muon at 0.03 on matrices, AdamW at 0.003 on the rest",
        "weight decay 0.1, dropout 0.1, seed 1 (the text is seen 30.0 times)",
        "cpu, float32",
        "about 120 ms a step, 123.5 MB of memory",
    ):
        assert fact in said
    early = " ".join(shown(plan_table(replace(PLAN, most_steps=1830), "stories", "text"), width).split())
    assert "at most 5m 00s: about 1,830 steps" in early
    steps = " ".join(shown(plan_table(replace(PLAN, seconds=None), "stories", "text"), width).split())
    assert "training about 3m 42s: 1,830 steps, 15M tokens" in steps
    slow = replace(PLAN, seconds=None, compiled=True, step_seconds=14.5)
    steps = " ".join(shown(plan_table(slow, "stories", "text"), width).split())
    assert "training up to 7h 22m: 1,830 steps" in steps
    assert "about 14.50 s a step" in steps


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_reason_stands_beside_what_it_is_a_reason_for(width):
    reasons = {"size": "because S", "context": "because C", "steps": "because T", "dropout": "because D", "odd": "no"}
    drawn = shown(plan_table(replace(PLAN, reasons=reasons), "stories", "text"), width)
    rows = re.split(r"^(?=\w)", drawn, flags=re.MULTILINE)
    beside = {row.split()[0]: re.findall(r"because (\w)", " ".join(row.split())) for row in rows if row}
    assert beside == {
        "Training": [], "text": [], "model": ["S"], "tokens": [], "training": ["T"], "step": ["C"], "rates": [],
        "recipe": ["D"], "machine": [], "needs": [],
    }  # fmt: skip


def test_the_time_left_is_until_the_deadline_or_the_last_step_whichever_is_first():
    report = StepReport(830, 1830, 2.0, 1e-3, 81_920.0, 40.0)  # ten steps of 8,192 tokens a second
    assert seconds_left(PLAN, report) == 260
    assert seconds_left(replace(PLAN, most_steps=1830), report) == 102
    assert seconds_left(replace(PLAN, most_steps=9999), report) == 260
    assert seconds_left(replace(PLAN, seconds=None), report) == 100


SAMPLE = f"ROMEO: {HOSTILE}\tthe 東京 king of 👩\u200d👧 what\n" + "I have been so long a time that " * 9 + "\n\n"


def reports(steps=300, every=5, evaluations=12):
    """A made-up run whose validation loss rises in the end."""
    noise = np.random.default_rng(1).normal(0, 0.05, steps + 1)
    for step in range(every, steps + 1, every):
        loss = float(3 + 4 * np.exp(-step / (steps / 12)) + noise[step])
        yield StepReport(step, steps, loss, 1e-3, 15_700, 300 * step / steps)
        if step % (steps // evaluations) == 0:
            score = Score((loss + 0.1 + (step / steps) ** 2) * 1000, 1000, 2100, 2200)
            yield EvalReport(step, score, step < steps / 2, 300 * step / steps)
            yield SampleReport(step, SAMPLE, 7)
    yield Result(True, steps, steps, steps // 2, Score(3300, 1000, 2100, 2200), 3.1, steps * 8192, 301.0)


class Terminal(io.StringIO):
    """What a terminal shows of what is written to it. A line wider than it is a failed test."""

    def __init__(self, width, height):
        super().__init__()
        self.rows = [""] * height
        self.width, self.row, self.column = width, 0, 0
        self.gone, self.cursor = [], True
        self.written = 0

    def resize(self, width, height):
        while len(self.rows) > height:
            self.gone.append(self.rows.pop(0))
            self.row -= 1
        self.rows += [""] * (height - len(self.rows))
        self.width = width

    def write(self, text):
        self.written += 1
        for code, argument, final, plain in re.findall(r"(\x1b\[)([?0-9;]*)([A-Za-z])|([\n\r]|[^\x1b\n\r]+)", text):
            if code:
                self._control(argument, final)
            elif plain == "\n":
                self._line_feed()
            elif plain == "\r":
                self.column = 0
            else:
                row = self.rows[self.row]
                assert len(row) == self.column, "written over something"
                self.rows[self.row] = row + plain
                self.column += len(plain)
                assert cell_len(row + plain) <= self.width, row
        return len(text)

    def _line_feed(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.gone.append(self.rows.pop(0))
            self.rows.append("")
            self.row -= 1

    def _control(self, argument, final):
        if final == "A":
            self.row = max(self.row - int(argument), 0)
        elif (argument, final) == ("2", "K"):
            self.rows[self.row] = ""
        elif (argument, final) == ("2", "J"):
            self.rows = [""] * len(self.rows)
        elif final == "H":
            self.row = self.column = 0
        elif argument == "?25":
            self.cursor = final == "h"
        else:
            assert final == "m", (argument, final)

    def lines(self):
        return [row.rstrip() for row in (*self.gone, *self.rows)]


def on_terminal(width, height, monkeypatch, colors=None, **environment):
    """A terminal and a console that writes to it; its clock goes on by half a second at each look."""
    monkeypatch.setattr(live, "time", types.SimpleNamespace(monotonic=iter(np.arange(0, 1e6, 0.5)).__next__))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    terminal = Terminal(width, height)
    console = Console(
        file=terminal, force_terminal=True, width=width, height=height, color_system=colors, legacy_windows=False,
        markup=False, highlight=False, emoji=False, _environ={"TERM": "xterm", **environment},
    )  # fmt: skip
    return terminal, console


HEADING = re.compile(r"^nats/token  ─ train", re.MULTILINE)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [10, 24, 50])
def test_the_live_display_fits_and_leaves_its_last_state_once(width, height, monkeypatch):
    terminal, console = on_terminal(width, height, monkeypatch, "truecolor")
    console.print("before")
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            assert len(HEADING.findall("\n".join(terminal.lines()))) <= 1
            assert terminal.cursor
            if report == SampleReport(275, SAMPLE, 7) and height > 10:
                assert "what it writes at step 275" in terminal.lines()
                assert any(line.startswith("ROMEO:") for line in terminal.lines())
    console.print("after")
    drawn = "\n".join(terminal.lines()).rstrip("\n")
    assert drawn.startswith("before\n")
    assert re.search(r"steps\nafter$", drawn)
    assert len(HEADING.findall(drawn)) == 1
    assert len(re.findall(r"300/300  in 5m 01s$", drawn, re.MULTILINE)) == 1
    *_, last = (report for report in reports() if isinstance(report, StepReport))
    assert f"train {last.loss:.3f} ({PLAN.bits_per_byte(last.loss):.3f})  val 4." in drawn
    assert "writes" not in drawn
    assert terminal.cursor
    assert harmless(drawn.replace("\u200d", ""))


@pytest.mark.parametrize(("width", "kinds"), [(40, (0, 3)), (80, range(4)), (120, range(4))])
def test_the_live_display_names_the_best_heads(width, kinds, monkeypatch):
    named = (("previous", 0.524), ("duplicate", 0.1), ("induction", 0.04), ("sink", 1.0))
    best = tuple(BestHead(kind, at, 1, score, 0.02) for at, (kind, score) in enumerate(named))
    for height in (10, 24):
        terminal, console = on_terminal(width, height, monkeypatch)
        with TrainingScreen(console, PLAN) as screen:
            for report in reports():
                screen.update(report)
                if isinstance(report, EvalReport):
                    screen.update(HeadsReport(report.step, best, {}, report.seconds))
        said = [line for line in terminal.lines() if line.startswith("heads  ")]
        expected = ["previous 0.1 .52", "duplicate 1.1 .10", "induction 2.1 .04", "sink 3.1 1.00"]
        assert said == ([f"heads  {'  '.join(expected[kind] for kind in kinds)}"] if height > 10 else [])


@pytest.mark.parametrize("width", range(4, 40, 5))
@pytest.mark.parametrize("height", [2, 5, 8])
def test_a_tiny_terminal_gets_what_fits(width, height, monkeypatch):
    terminal, console = on_terminal(width, height, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    assert any(row.strip() for row in terminal.rows)


@pytest.mark.parametrize(("before", "after"), [((120, 40), (50, 30)), ((80, 24), (80, 12)), ((50, 20), (100, 40))])
def test_a_resized_terminal_shows_one_display(before, after, monkeypatch):
    terminal, console = on_terminal(*before, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if getattr(report, "step", 0) == 200 and console.size != after:
                terminal.resize(*after)
                console.size = after
            screen.update(report)
            assert len(HEADING.findall("\n".join(terminal.rows))) <= 1
    assert len(HEADING.findall("\n".join(terminal.rows))) == 1
    assert max(map(cell_len, terminal.rows)) <= after[0]


def test_the_plan_is_printed_again_on_a_terminal_that_became_smaller(monkeypatch):
    terminal, console = on_terminal(100, 40, monkeypatch)
    console.print("the plan")
    with TrainingScreen(console, PLAN, above=Text("the plan")) as screen:
        for report in reports():
            if report == SampleReport(100, SAMPLE, 7):
                terminal.resize(60, 40)
                console.size = (60, 40)
            screen.update(report)
            assert terminal.lines().count("the plan") == 1
        assert terminal.lines()[0] == "the plan"


def test_the_display_is_drawn_four_times_a_second_at_most(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    monkeypatch.setattr(live, "time", types.SimpleNamespace(monotonic=iter(np.arange(0, 1e3, 0.01)).__next__))
    with TrainingScreen(console, PLAN) as screen:
        drawn = terminal.written
        for report in reports(2000):  # four looks at the clock at most: 0.04 seconds
            screen.update(report)
        assert 5 < terminal.written - drawn <= 425 * 0.04 * 4


def test_what_warns_while_the_run_goes_on_stands_above_the_display(monkeypatch):
    terminal, console = on_terminal(80, 30, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if isinstance(report, EvalReport) and report.step == 100:
                console.print("a warning")
            screen.update(report)
    lines = terminal.lines()
    assert lines.count("a warning") == 1
    assert lines.index("a warning") < next(at for at, line in enumerate(lines) if "300/300" in line)


def test_a_run_that_fails_leaves_the_terminal_clean(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    with pytest.raises(KeyboardInterrupt), TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            if report.step == 200:
                raise KeyboardInterrupt
    console.print("after")
    drawn = "\n".join(terminal.lines()).rstrip("\n")
    assert re.search(r"steps\nafter$", drawn)
    assert "200/300\n" in drawn
    assert terminal.cursor


def test_a_terminal_that_goes_away_does_not_end_the_run(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if report == SampleReport(100, SAMPLE, 7):
                monkeypatch.setattr(terminal, "write", lambda text: (_ for _ in ()).throw(OSError(5, "gone")))
            screen.update(report)
        assert report.finished


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "", "LC_CTYPE": "POSIX"}])
def test_a_terminal_without_unicode_gets_ascii(environment, monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            assert "".join(terminal.lines()).isascii()
    assert any(line.startswith("nats/token  - train  o validation") for line in terminal.lines())


def test_no_colour_means_no_codes_but_those_that_move(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch, "truecolor", NO_COLOR="1")
    monkeypatch.setattr(Terminal, "_control", lambda self, argument, final, was=Terminal._control: (
        was(self, argument, final), self.__dict__.setdefault("codes", []).append(argument + final)
    ))  # fmt: skip
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    assert not [code for code in terminal.codes if re.match(r"(.*;)?(3[0-8]|4[0-8]|9[0-7])(;|m)", code)]


@pytest.mark.parametrize("environment", [None, {"TERM": "dumb"}])
def test_elsewhere_there_is_a_line_for_each_evaluation_and_sample(environment):
    console = Console(
        file=io.StringIO(), width=200, force_terminal=environment is not None, color_system=None, markup=False,
        _environ=environment or {},
    )  # fmt: skip
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 24
    assert re.fullmatch(
        r"step 25/300  25s  train 4\.\d{3} \(\d\.\d{3}\)  val 4\.\d{3} nats/token \(\d\.\d{3} bits/byte\)  "
        r"15\.7k tok/s  best",
        lines[0],
    )
    assert lines[1].startswith("  writes  ROMEO: ␛[2J␛]52;c;aGk=␇")
    assert cell_len(lines[1]) <= 80
    assert harmless("\n".join(lines))


def test_a_resumed_run_shows_what_it_has_been_through(monkeypatch):
    lines = [{"kind": "step", "step": step, "loss": 9.0, "seconds": 1.0} for step in range(1, 150)]
    before = curves_from_lines("x", "x", lines)
    rest = [report for report in reports() if isinstance(report, StepReport) and report.step > 150]
    drawn = []
    for known in (None, before):
        terminal, console = on_terminal(80, 24, monkeypatch)
        with TrainingScreen(console, PLAN, known) as screen:
            for report in rest:
                screen.update(report)
        drawn.append("\n".join(terminal.lines()))
    assert [bool(re.search(r"^ [6-9]\.0", text, re.MULTILINE)) for text in drawn] == [False, True]


@pytest.mark.parametrize("points", [1, 1999, 2000, 54_321])
def test_a_trace_is_bounded_and_keeps_its_mean_and_its_end(points):
    trace = live._Trace()
    for at in range(points):
        trace.add(at + 1, float(at % 7))
    x, y = trace.points()
    assert len(x) == len(y) <= 2000
    assert (np.diff(x) > 0).all()
    assert x[-1] >= points - points / 1000 * 2
    assert y.mean() == pytest.approx(np.mean([at % 7 for at in range(points)]), abs=0.1)


def test_what_to_try_next_names_all_that_fits_the_line():
    def last(width):
        return explained(GOLDEN_FINDINGS, width).rstrip().split("\n")[-1].rstrip()

    assert last(79) == "More: --token 2 · --head 1.0 · --view grid · --view logit · --view lens"
    assert last(120).endswith("--json · --view steps · --view rollout")
    assert last(40) == "More: --token 2 · --head 1.0 · --json"
