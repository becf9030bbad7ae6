"""The first screen of an explanation fits its width and shows the figures of the finding."""

import json
import re
from dataclasses import replace

import pytest

from attncli.render.escape import token_label
from attncli.render.first_screen import explanation_document
from attncli.render.numbers import percent
from tests.support.explanations import CHECKS, ENGLISH, FOREIGN, GOLDEN_FINDINGS, checked, explanation
from tests.support.first_screens import explained
from tests.support.screens import harmless, widest
from tests.support.texts import HOSTILE

# The first screen of an explanation


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


def test_a_small_explanation_looks_as_expected():
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
def test_each_bar_shows_the_probability_after_the_cut(width):
    drawn = explained(replace(GOLDEN_FINDINGS, checks=CHECKS), width, "tiny")
    found = "\n".join(line.rstrip() for line in drawn.split("\n"))
    assert found[found.index("2 ␣sat ") :].partition("\n\n")[0] + "\n" == GOLDEN_CHECKS[width]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 75, 76, 80, 120, 200])
@pytest.mark.parametrize("length", [1, 2, 7, 300])
@pytest.mark.parametrize("words", [ENGLISH, FOREIGN], ids=["english", "foreign"])
def test_an_explanation_with_cuts_fits_its_width_and_keeps_every_number(words, length, width):
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
def test_an_explanation_fits_its_width(words, length, width):
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


def test_the_shares_of_all_other_sources_are_summed():
    found = explanation([f" w{at}" for at in range(30)])
    shares = sorted(found.sources.shares[1:], reverse=True)
    (line,) = [line for line in explained(found, 80).split("\n") if "more" in line and "More" not in line]
    assert line.split() == ["21", "more", percent(sum(shares[8:]))]


def test_a_wide_screen_shows_the_raw_attention_to_the_first_token():
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
def test_the_scope_of_the_shares_is_shown(changes, scope):
    found = explanation(ENGLISH)
    assert scope in explained(replace(found, sources=replace(found.sources, **changes)), 80)


def test_a_requested_head_is_not_called_the_busiest():
    found = explanation(ENGLISH)
    assert "Busiest head 2.3" in explained(found, 80)
    asked = explained(replace(found, map=replace(found.map, asked_for=True)), 80)
    assert "Busiest" not in asked
    assert "Head 2.3" in asked


def test_the_screen_of_a_single_token_mentions_no_previous_token():
    drawn = explained(explanation(["He"]), 80)
    assert "token before" not in drawn
    assert re.search(r"^0 He +█+ 100% itself", drawn, re.MULTILINE)


@pytest.mark.parametrize("width", [40, 120])
def test_hostile_tokens_are_escaped_in_an_explanation(width):
    found = explanation([HOSTILE, "a", HOSTILE], next_tokens=[(HOSTILE, 0.5), ("[red]", 0.1)])
    drawn = explained(found, width)
    assert harmless(drawn)
    assert "␛[2J" in drawn
    assert "[red]" in drawn


@pytest.mark.parametrize("width", [40, 120])
def test_a_hostile_name_of_a_model_is_escaped_in_an_explanation(width):
    assert harmless(explained(explanation(ENGLISH), width, HOSTILE))
    assert "[red]" in explained(explanation(ENGLISH), width, "[red]")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_cut_in_some_heads_names_the_heads(width):
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
