"""Screens of the views: they fit the width, escape hostile text, and show the figures of the finding."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from attncli.explain.grid import Grid
from attncli.explain.head_map import HeadMap
from attncli.explain.lens import Lens, LensRow
from attncli.explain.logit import LogitAttribution
from attncli.explain.next_token import NextToken
from attncli.explain.question import Subject
from attncli.explain.rollout import Rollout
from attncli.explain.steps import Steps
from attncli.render.first_screen import compared_screen, explanation_document
from attncli.render.numbers import percent
from attncli.render.plain import explanation_sentences
from attncli.render.rollout import rollout_document
from attncli.text.tokenizer import Piece
from tests.support.explanations import ENGLISH, FOREIGN, VIEWS, causal_axes, checked, explanation, view_text
from tests.support.screens import harmless, screen, widest
from tests.support.texts import HOSTILE


def subject(texts, focus=None, layers=3, heads=4):
    pieces = tuple(Piece(at, text, 1) for at, text in enumerate(texts))
    return Subject(causal_axes(pieces), layers, heads, len(pieces) - 1 if focus is None else focus)


def rows(generator, focus, length):
    """Returns random causal weights, whose rows sum to 1."""
    drawn = np.tril(generator.random((length, length)) ** 3 + 1e-3)
    return drawn / drawn.sum(1, keepdims=True)


def finding(view, texts, focus=None, layers=3, heads=4):
    """Returns a random finding of a view."""
    asked = subject(texts, focus, layers, heads)
    length, generator = len(texts), np.random.default_rng(len(texts))
    token = NextToken(3, HOSTILE, 0.4137)
    if view == "map":
        return explanation(texts, focus, layers=layers, heads=heads)
    if view == "lens":
        top = tuple(
            NextToken(i, text, 0.5 / (i + 1)) for i, text in enumerate(("\n", HOSTILE, " and", "\ufffd", "東京"))
        )
        return Lens(asked, token, tuple(LensRow(at, top, 0.0001, 12_345 - at) for at in range(layers + 1)))
    if view == "logit":
        moved = generator.normal(size=(layers, heads, length))
        moved[:, :, asked.focus + 1 :] = 0
        each = generator.normal(size=layers)
        made = LogitAttribution(asked, token, None, 0.0, -12.5, 0.1, moved, each, each, each, 0.01)
        return replace(made, logit=made.total + 1e-9)
    if view == "rollout":
        weights = rows(generator, asked.focus, length)[asked.focus]
        return Rollout(asked, weights, np.where(weights > 0, 1 / (asked.focus + 1), 0.0))
    if view == "grid":
        pool = -(-length // 32)
        side = -(-length // pool)
        return Grid(asked, pool, np.stack([[rows(generator, 0, side)] * heads] * layers))
    allowed = np.arange(length) <= asked.focus
    weights = rows(generator, 0, length)[asked.focus]
    vector = generator.normal(size=64) * 100
    keys = generator.normal(size=(length, 64)) * 1000
    products = keys @ vector
    return Steps(
        asked, 2, 3, False, 2, 4, vector, keys, keys, products, products / 8, allowed, weights, vector, vector, vector,
        3e-7,
    )  # fmt: skip


@pytest.mark.parametrize("width", [30, 40, 80, 200])
@pytest.mark.parametrize("length", [1, 7, 70])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fits_its_width_and_escapes_hostile_text(view, length, width):
    for words in (ENGLISH, FOREIGN, [HOSTILE]):
        for heads in (1, 12):
            texts = [words[at % len(words)] for at in range(length)]
            shown = view_text(view, finding(view, texts, length // 2, heads=heads), width)
            assert widest(shown) <= width
            assert harmless(shown)


@pytest.mark.parametrize("view", [*VIEWS, "bars"])
def test_a_narrow_screen_truncates_no_heading(view):
    """Only a hostile token and a vector that is too long end in '…'."""
    found = explanation(ENGLISH) if view == "bars" else finding(view, ENGLISH)
    cut = [line for line in view_text(view, found, 40).split("\n") if "…" in line and "␛" not in line]
    assert [line for line in cut if " length " not in line] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_json_document_in_full_precision(view):
    found = finding(view, [*ENGLISH, HOSTILE])
    document = json.loads(json.dumps(VIEWS[view][1](found, "stories"), allow_nan=False))
    assert (document["view"], document["model"], document["focus"]) == (view, "stories", 7)
    assert [token["text"] for token in document["tokens"]] == [*ENGLISH, HOSTILE]


def test_a_lens_shows_the_prediction_of_each_layer():
    top = NextToken(1, " on", 0.41), NextToken(2, ",", 0.002)
    found = Lens(
        subject(ENGLISH), NextToken(2, ",", 0.9), (LensRow(0, top, 0.002, 2), LensRow(1, top[::-1], 0.9, 1))
    )  # fmt: skip
    assert (
        "\n".join(line.rstrip() for line in view_text("lens", found, 60).split("\n"))
        == """\
stories · 3 layers x 4 heads · 7 tokens

What follows ␣bank [6], layer by layer  logit lens
          predicts      then         P rank
embedding ␣on       41% ,    0.2% 0.2%    2
layer 0   ,        0.2% ␣on   41%  90%    1
P and rank are those of the final prediction: ,

Last row: the model's own prediction. Above: the output
head, applied early.
"""
    )


def test_a_logit_shows_its_terms_with_their_signs_and_the_remainder():
    heads = np.zeros((1, 2, 3))
    heads[0, 0] = 1, 0.5, 0
    heads[0, 1] = 0, 0, -0.75
    found = LogitAttribution(
        subject(["He", " sat", " on"], layers=1, heads=2), NextToken(4, " the", 0.4), NextToken(5, ",", 0.1),
        logit=3.0 + 1e-7, embedding=-0.25, position=None, heads=heads, attention_bias=None,
        feed_forward=np.array([2.5]), feed_forward_bias=None, norm_bias=None,
    )  # fmt: skip
    shown = "\n".join(line.rstrip() for line in view_text("logit", found, 80).split("\n"))
    lines = shown.split("\n")
    assert "its logit is +3.0000, counted from that of ," in lines
    assert "sum of all terms +3.0000, remainder +1.0e-07" in lines
    bars = dict(re.findall(r"^(\S.*?) +([+-]\d\.\d{3} [█▒]+)$", shown, re.MULTILINE))
    assert bars == {
        "embedding": "-0.250 " + "▒" * 4,
        "attention 0": "+0.750 " + "█" * 12,
        "feed-forward 0": "+2.500 " + "█" * 40,
        "head 0.0": "+1.500 " + "█" * 24,
        "head 0.1": "-0.750 " + "▒" * 12,
        "0 He": "+1.000 " + "█" * 16,
        "1 ␣sat": "+0.500 " + "█" * 8,
        "2 ␣on": "-0.750 " + "▒" * 12,
    }


def test_the_terms_by_source_and_by_head_have_equal_sums():
    found = finding("logit", [f" w{at}" for at in range(30)], layers=4, heads=6)
    shown = view_text("logit", found, 80)
    by_head, by_source = shown.split("by head")[1].split("by source")
    for part in (by_head, by_source):
        values = [float(value) for value in re.findall(r" ([+-]\d+\.\d{3}) ", part)]
        assert len(values) == 9
        assert sum(values) == pytest.approx(found.heads.sum(), abs=0.01)


def test_the_steps_name_the_masked_tokens():
    found = finding("steps", ENGLISH, 4)
    shown = view_text("steps", found, 80)
    assert "␣river cannot see 's [5], which comes later" in shown
    assert "␣river cannot see He [0]: this layer looks back 3 tokens" in shown
    assert "keys and values are shared by 2 heads" in shown
    assert "Largest difference from the model's own fast path: 3.0e-07" in shown
    lines = {int(line.split()[0]): line.split() for line in shown.split("\n") if re.match(r"^ *\d ", line)}
    for at in range(7):
        assert lines[at][2:4] == [f"{found.products[at]:.2f}", f"{found.scores[at]:.2f}"]
        assert ("−∞" in lines[at]) == (at > 4)


def test_the_steps_of_the_last_token_say_why_nothing_is_masked():
    found = replace(finding("steps", ENGLISH[:3]), allowed=np.ones(3, bool), window=None)
    said = "nothing comes after ␣on, so the mask forbids nothing (see --token 1)"
    assert said in view_text("steps", found, 80)
    assert said not in view_text(
        "steps", replace(found, allowed=np.array([False, True, True])), 80
    )  # outside the window


def test_the_steps_show_the_sources_with_the_largest_weights():
    found = finding("steps", [f" w{at}" for at in range(70)], 50)
    shown = [int(at) for at in re.findall(r"^ *(\d+) ␣w", view_text("steps", found, 120), re.MULTILINE)]
    assert shown == sorted([*np.argsort(-found.weights)[:15].tolist(), 51])


@pytest.mark.parametrize(("width", "pool"), [(200, 3), (40, 12)])
def test_a_grid_states_the_size_of_its_pooled_cells(width, pool):
    found = finding("grid", ["a"] * 80, heads=4)
    shown = view_text("grid", found, width)
    assert f"each cell: the largest of {pool} x {pool}\n" in shown
    for layer in range(3):
        for head in range(4):
            assert f"{layer}.{head}" in shown


@pytest.mark.parametrize("colors", ["truecolor", "256", "standard"])
def test_a_grid_in_colors_has_two_rows_in_each_line(colors):
    shown = view_text("grid", finding("grid", ENGLISH), 80, colors)
    assert ("▀" in shown) == (colors != "standard")
    assert ("░" in shown) == (colors == "standard")


def test_a_map_of_a_long_text_shows_only_the_rows_around_the_focus():
    found = explanation([f" w{at}" for at in range(300)], 150)
    shown = view_text("map", found, 80)
    labels = [int(at) for at in re.findall(r"^ *(\d+) ␣w", shown, re.MULTILINE)]
    assert labels == list(range(120, 160))
    assert "rows 120 to 159 of 300" in shown
    assert "each cell: the largest of 3 columns" in shown
    peak = replace(found.map, weights=np.eye(300)[:, ::-1][::-1])
    rows = re.findall(r"^ *\d+ ␣w\d+ +([·█░▒▓ ]+)$", view_text("map", replace(found, map=peak), 80), re.MULTILINE)
    assert [row.rstrip().index("█") for row in rows] == [at // 3 for at in range(120, 160)]


def test_rows_of_a_long_text_are_drawn_at_their_indices():
    """A map with only the rows around the focus is drawn like a map with all rows."""
    found = explanation([f" w{at}" for at in range(300)], 150)
    some = replace(found, map=replace(found.map, weights=found.map.weights[120:160], first_row=120))
    assert view_text("map", some, 80) == view_text("map", found, 80)
    shown = view_text("first", some, 80).partition("Busiest head")[2]
    assert [int(at) for at in re.findall(r"^ *(\d+) ␣w", shown, re.MULTILINE)] == list(range(120, 160))
    assert "rows 120 to 159 of 300" in shown
    said = "\n".join(explanation_sentences(some, "m"))
    assert "These are tokens 120 to 159 of 300." in said
    assert said.count(" looks at ") == 41  # the rows, and the average


def test_a_small_map_is_drawn_in_numbers():
    found = explanation(ENGLISH)
    found = replace(found, map=HeadMap(1, 0, np.tril(np.full((7, 7), 0.42)), True, None, None, found.axes))
    shown = view_text("map", found, 80)
    assert "Head 1.0" in shown
    assert shown.count(" 42") == 28


def test_rollout_is_shown_as_the_ratio_to_uniform_attention():
    found = Rollout(subject(ENGLISH[:3]), np.array([0.5, 0.3, 0.2]), np.array([0.8, 0.1, 0.1]))
    shown = view_text("rollout", found, 80)
    order = re.findall(r"^(\d) .*x(\d\.\d\d) +(\d+)% +(\d+)%", shown, re.MULTILINE)
    assert order == [("1", "3.00", "30", "10"), ("2", "2.00", "20", "10"), ("0", "0.62", "50", "80")]
    assert "gives the first token 80%" in shown


def test_missing_values_are_null_in_a_document():
    """Values are null after the focus, and where the rollout of uniform attention is 0."""
    asked = subject(ENGLISH[:4], 2)
    found = Rollout(asked, np.array([0.0, 0.6, 0.4, 0.0]), np.array([0.0, 0.8, 0.2, 0.0]))
    document = rollout_document(found, "m")
    assert document["shares"] == [0, 0.6, 0.4, None]
    assert document["even"] == [0, 0.8, 0.2, None]
    assert document["ratio"] == [None, pytest.approx(0.75), pytest.approx(2), None]
    explained = explanation(ENGLISH, 4)
    sources = explanation_document(explained, "m")["sources"]
    for figures in (sources["shares"], sources["raw"], *sources["by_layer"]):
        assert figures[5:] == [None, None]
        assert sum(figures[:5]) == pytest.approx(1)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_view_of_bars_names_more_sources(width):
    found = replace(explanation([f" w{at}" for at in range(60)]), named=24)
    assert len(re.findall(r"^ *\d+ ␣w", view_text("bars", found, width), re.MULTILINE)) == 25
    assert widest(view_text("bars", checked(found), width)) <= width


@pytest.mark.parametrize("width", [30, 40, 80, 120, 200])
@pytest.mark.parametrize("words", [ENGLISH, FOREIGN, [HOSTILE]])
def test_compared_weights_are_side_by_side(words, width):
    found = explanation([words[at % len(words)] for at in range(40)], 36)
    console = screen(width)
    console.print(compared_screen(found, "stories", console))
    shown = console.file.getvalue()
    assert widest(shown) <= width
    assert harmless(shown)
    for at in found.sources.named(8):
        (line,) = re.findall(rf"^ *{at} .*%$", shown, re.MULTILINE)
        assert re.findall(r"[<.\d]+%", line)[-2:] == [percent(found.sources.shares[at]), percent(found.sources.raw[at])]
