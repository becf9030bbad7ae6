"""Screens of single tokens: tints with their legend, sampling steps, log-probabilities."""

import io
import json
import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from attncli.config import SampleConfig
from attncli.generation.events import Finished, Text, Token, TokenLogprob, Trace, TraceStep
from attncli.render.escape import visible
from attncli.render.generation import GenerationScreen
from attncli.render.logprobs import logprobs_head, logprobs_row, token_document
from attncli.render.palette import heat
from attncli.render.surprise import Surprises, legend, tint, why_no_colors
from attncli.render.trace import trace_block, trace_head
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.screens import harmless, screen, widest
from tests.support.texts import HOSTILE


def choice(id_, text, probability):
    return TokenLogprob(id_, text, math.log(probability))


def token(id_=0, text="a", bits=1.0, characters=None, sample=0, **more):
    return Token(
        sample, id_, text, -bits * math.log(2), characters=len(text) if characters is None else characters, **more
    )


MODEL = (choice(5, " the", 0.36), choice(7, " his", 0.15), choice(9, " a", 0.1), choice(3, " something", 0.05))
TRACE = Trace(
    (
        TraceStep("model", None, 0, 0.0, 150_000, MODEL),
        TraceStep("logit-bias", None, 2, 0.0001, 149_998, MODEL),
        TraceStep("repetition-penalty", 1.15, 0, 0.0, 149_998, MODEL),
        TraceStep("top-k", 40.0, 149_958, 0.05, 40, MODEL[:3]),
        TraceStep("top-p", 0.9, 38, 0.09, 2, (choice(5, " the", 0.7), choice(7, " his", 0.3))),
    ),
    0.3,
)
DRAWN = token(7, " his", 2.75, top=MODEL, trace=TRACE)

TRACE_40 = """\
  step             removed share    left
12 ␣his  drawn at 30%
  model                          150,000
  logit-bias             2 <0.1% 149,998
  repetition… 1.15               149,998
  top-k 40         149,958    5%      40
  top-p 0.9             38    9%       2
  ␣the 70%  ␣his 30%
"""
TRACE_80 = """\
  step                    removed share    left  best of those left
12 ␣his  drawn at 30%
  model                                 150,000  ␣the 36%  ␣his 15%  ␣a 10%
  logit-bias                    2 <0.1% 149,998  ␣the 36%  ␣his 15%  ␣a 10%
  repetition-penalty 1.15               149,998  ␣the 36%  ␣his 15%  ␣a 10%
  top-k 40                149,958    5%      40  ␣the 36%  ␣his 15%  ␣a 10%
  top-p 0.9                    38    9%       2  ␣the 70%  ␣his 30%
"""
TRACE_120 = TRACE_80.replace("␣a 10%\n", "␣a 10%  ␣something 5%\n", 3)
LOGPROBS_40 = """\
     token        log p  best
  12 ␣his        -1.906  ␣the -1.02
                         ␣his -1.90
                         ␣a -2.30
                         ␣somethi… -3.00
"""
LOGPROBS_80 = """\
     token            log p      p  best
  12 ␣his            -1.906    15%  ␣the -1.02  ␣his -1.90  ␣a -2.30
                                    ␣somethi… -3.00
"""
LOGPROBS_120 = """\
     token            log p      p  best
  12 ␣his            -1.906    15%  ␣the -1.02  ␣his -1.90  ␣a -2.30  ␣somethi… -3.00
"""


def told(head, row, width, what=DRAWN, number=12):
    return f"{head(width).plain}\n{row(number, what, width).plain}\n"


def trimmed(text):
    return "\n".join(line.rstrip() for line in text.split("\n"))


@pytest.mark.parametrize(("width", "expected"), [(40, TRACE_40), (80, TRACE_80), (120, TRACE_120)])
def test_the_screen_of_sampling_steps_looks_as_expected(width, expected):
    assert trimmed(told(trace_head, trace_block, width)) == expected


@pytest.mark.parametrize(("width", "expected"), [(40, LOGPROBS_40), (80, LOGPROBS_80), (120, LOGPROBS_120)])
def test_the_screen_of_log_probabilities_looks_as_expected(width, expected):
    assert trimmed(told(logprobs_head, logprobs_row, width)) == expected


def test_the_column_names_of_a_trace_are_never_truncated():
    assert [trace_head(width).plain.rpartition("left  ")[2] for width in (60, 67)] == [
        "best left",
        "best of those left",
    ]
    assert "…" not in trace_head(40).plain


def test_the_sampled_token_is_highlighted():
    for row in (trace_block, logprobs_row):
        drawn = row(1, DRAWN, 80)
        marked = {drawn.plain[span.start : span.end].split()[0] for span in drawn.spans if span.style == "bold green"}
        assert marked == {"␣his"}


def test_a_log_probability_of_nearly_0_has_no_sign():
    assert "-0.00" not in logprobs_row(1, Token(0, 1, "a", -1e-9, (TokenLogprob(1, "a", -1e-9),)), 80).plain


@settings(deadline=None, max_examples=60)
@given(
    text=st.sampled_from(
        [HOSTILE, "東京タワーの上で東京タワー", "\N{REPLACEMENT CHARACTER}", "\n\t", "", "e\u0301" * 9, "x" * 300]
    ),
    width=st.integers(40, 130),
    number=st.integers(1, 9999),
)
def test_hostile_text_is_escaped_and_fits(text, width, number):
    choices = tuple(TokenLogprob(at, text, -12345.678) for at in range(7))
    step = TraceStep("repetition-penalty", 1.23456, 149_999, 1.0, 150_000, choices)
    bad = Token(0, 123_456, text, -12345.678, choices, Trace((step, step), 1.0))
    for head, row in ((trace_head, trace_block), (logprobs_head, logprobs_row)):
        drawn = told(head, row, width, bad, number)
        assert harmless(drawn)
        assert widest(drawn) <= width


def test_the_document_of_a_token_has_full_precision():
    document = json.loads(
        json.dumps(
            token_document(Token(0, 7, HOSTILE, -0.1 - 0.2, (TokenLogprob(1, "x", -math.inf),), TRACE)), allow_nan=False
        )
    )
    assert (document["id"], document["text"], document["logprob"]) == (7, HOSTILE, -0.1 - 0.2)
    assert document["top"] == [{"id": 1, "text": "x", "logprob": None}]
    assert document["trace"]["probability"] == 0.3
    assert document["trace"]["steps"][3] == {
        "name": "top-k", "setting": 40.0, "removed": 149_958, "removed_probability": 0.05, "left": 40,
        "best": [{"id": c.id, "text": c.text, "probability": c.probability} for c in MODEL[:3]],
    }  # fmt: skip
    assert "trace" not in token_document(token())


# Surprise


def split(tokens, texts):
    surprises = Surprises()
    for each in tokens:
        surprises.take(each)
    return [surprises.split(text) for text in texts]


def test_text_is_split_at_its_tokens():
    tokens = [token(text="The", bits=3), token(text=" cat", bits=5)]
    assert split(tokens, ["The cat"]) == [[("The", pytest.approx(3)), (" cat", pytest.approx(5))]]
    assert split(tokens, ["Th", "e c", "at"]) == [
        [("Th", pytest.approx(3))], [("e", pytest.approx(3)), (" c", pytest.approx(5))], [("at", pytest.approx(5))],
    ]  # fmt: skip


def test_a_character_of_several_tokens_has_the_sum_of_their_bits():
    tokens = [token(bits=4, characters=0), token(bits=2, characters=0), token(bits=1, characters=1), token(bits=7)]
    assert split(tokens, ["東a"]) == [[("東", pytest.approx(7)), ("a", pytest.approx(7))]]
    assert split(tokens[:2], ["\N{REPLACEMENT CHARACTER}"]) == [[("\N{REPLACEMENT CHARACTER}", pytest.approx(6))]]


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=30), data=st.data())
def test_every_character_has_the_bits_of_its_tokens(text, data):
    tokenizer = byte_tokenizer()
    stream, surprises, bits, shown, waiting = tokenizer.stream(), Surprises(), [], [], ""
    for at, id_ in enumerate(tokenizer.encode(text)):
        new = stream.push(id_)
        surprises.take(token(id_, bits=at + 1, characters=len(new)))
        bits.append(at + 1)
        waiting += new
        ready = data.draw(st.integers(0, len(waiting)))
        shown += surprises.split(waiting[:ready])
        waiting = waiting[ready:]
    shown += surprises.split(waiting)
    assert "".join(part for part, _ in shown) == text
    starts = [len(text[:at].encode()) for at in range(len(text) + 1)]
    expected = [sum(bits[a:b]) for a, b in pairwise(starts)]
    assert [b for part, b in shown for _ in part] == pytest.approx(expected)


def test_the_legend_has_the_color_of_every_number_of_bits():
    for system in ("truecolor", "256"):
        styles = [tint(bits, system) for bits in (0, 0.99, 1, 1.9, 2, 4, 7.9, 8, 100)]
        assert styles[0] == styles[1] == tint(0, None)
        assert styles[2] == styles[3] == heat(0.25, system)
        assert styles[6] == styles[5] != styles[4]
        assert styles[7] == styles[8] == heat(1.0, system)
        drawn = legend(system)
        assert drawn.plain == "surprise in bits  <1  1–2  2–4  4–8  8+ "
        assert [span.style for span in drawn.spans][1:] == [tint(low, system) for low in (1, 2, 4, 8)]
    assert {tint(bits, "standard") for bits in (0, 5, 50)} == {tint(0, None)}
    assert legend(None).cell_len <= 40


def events(tokens, texts):
    yield from tokens
    yield from (Text(0, text) for text in texts)
    yield Finished(0, "length", tuple(each.id for each in tokens))


def generated(console, live=True, **how):
    drawn = GenerationScreen(console, ["It"], 1, live=live, **how)
    for event in events(
        [token(7, " his", 0.5, top=MODEL, trace=TRACE), token(8, "\n" + HOSTILE, 9)], [" his\n" + HOSTILE]
    ):
        drawn.update(event)
    drawn.close()
    return drawn, console.file.getvalue()


@pytest.mark.parametrize("live", [True, False])
def test_tinted_text_is_the_text_in_colors_followed_by_the_legend(live):
    _, drawn = generated(screen(80, "truecolor"), live, color=True)
    yellow = "\x1b[38;2;0;0;0;48;2;253;231;37m"
    assert drawn.startswith(f"\x1b[1mIt\x1b[0m his\n{yellow}␛[2J")
    assert drawn.count("\x1b]") == 0
    assert drawn.rstrip("\n").split("\n")[-1].startswith("\x1b[2msurprise in bits \x1b[0m <1 \x1b[38;2;")
    plain = re.sub("\x1b\\[[0-9;]*m", "", drawn)
    assert plain.startswith("It his\n" + visible(HOSTILE) + "\n")
    assert harmless(plain.replace("\x1b", ""))


def test_without_colors_the_text_is_plain():
    assert generated(screen(80), color=True)[1] == "It his\n" + HOSTILE + "\n"
    assert generated(screen(80, "standard"), color=True)[1] == generated(screen(80, "standard"))[1]


def test_the_reason_for_missing_colors_is_given():
    assert why_no_colors(screen(80)) == "standard output is no terminal"
    assert why_no_colors(screen(80, "standard")) == "this terminal has no 256 colors"
    assert why_no_colors(Console(file=io.StringIO(), force_terminal=True, no_color=True)) == "NO_COLOR is set"
    assert why_no_colors(screen(80, "256")) is why_no_colors(screen(80, "truecolor")) is None


@pytest.mark.parametrize("live", [True, False])
def test_a_report_is_printed_before_the_text(live):
    _, drawn = generated(screen(80), live, report="logprobs")
    assert drawn.startswith(logprobs_head(80).plain.rstrip() + "\n   1 ␣his")
    assert drawn.endswith("\n\nIt his\n" + HOSTILE + "\n")
    console = screen(80)
    several = GenerationScreen(console, ["It"], 2, live=live, report="trace")
    for sample in (1, 0):
        several.update(token(7, " his", sample=sample, trace=TRACE))
        several.update(Text(sample, " his"))
    several.close()
    blocks = console.file.getvalue().split("── sample ")
    assert [block.count("drawn at 30%") for block in blocks] == [0, 1, 1]
    assert blocks[2].endswith("\n\nIt his\n")


def test_the_document_contains_the_tokens_only_if_the_generation_reports_them():
    drawn, _ = generated(screen(80))
    (sample,) = drawn.document("m", SampleConfig())["samples"]
    assert sample["text"] == " his\n" + HOSTILE
    assert [each["id"] for each in sample["tokens"]] == sample["ids"] == [7, 8]
    empty = GenerationScreen(screen(80), ["It"], 1, live=False)
    nothing = {"prompt": "It", "text": "", "ids": [], "finish_reason": None}
    assert empty.document("m", SampleConfig())["samples"] == [nothing]
