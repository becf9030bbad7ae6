"""`attncli explain`: its screens, documents and views for a small trained model."""

import json
import unicodedata
from pathlib import Path

import pytest

from attncli.views import NAMED_VIEWS
from tests.support.commands import ask


@pytest.mark.parametrize("view", [[], ["--view", "steps"], ["--plain"]])
def test_the_first_token_has_no_busiest_head(at_home, capsys, view):
    code, out, _ = ask(capsys, "explain", "The small cat", "--token", "0", *view)
    assert (code, "Busiest" in out, "brings most" in out) == (0, False, False)
    assert "ead 0.0" in out


def test_explain_shows_bars_map_and_next_tokens(at_home, capsys):
    code, out, _ = ask(capsys, "explain", "The small cat sat near the river")
    assert code == 0
    for part in ("1 layer x 1 head", "get its information?", "Busiest head 0.0", "Next token", "temperature 1"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_keys_of_explain_json_are_stable(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat", "--token", "0", "--head", "0.0", "--weights", "raw", "--json")
    document = json.loads(out)
    assert list(document) == [
        "model",
        "layers",
        "heads",
        "tokens",
        "sources",
        "map",
        "temperature",
        "next_tokens",
        "checks",
    ]
    assert document["sources"]["shares"][0] == 1
    assert document["sources"]["weights"] == "raw"


@pytest.mark.parametrize("view", NAMED_VIEWS)
def test_explain_shows_every_view(view, at_home, capsys):
    code, out, err = ask(capsys, "explain", "The small cat sat near the river", "--token", "3", "--view", view)
    assert (code, err) == (0, "")
    assert "1 layer x 1 head" in out
    assert max(map(len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "explain", "The small cat", "--view", view, "--json")[1])
    assert document["tokens"][0]["text"] == "The"
    assert view == "bars" or document["view"] == view


def test_explain_checks_edges_unless_no_check_is_given(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river")
    assert "cut: P(" in out
    assert out.count("a random cut: ") == 1
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--no-check")
    assert "cut: " not in out


def test_explain_can_count_in_words(at_home, capsys):
    _, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--words", "--token", "cat", "--json")
    document = json.loads(out)
    assert [word["text"] for word in document["words"]] == [
        "The",
        *[" small", " cat", " sat", " near", " the", " river"],
    ]
    assert document["sources"]["focus"] == 2
    assert len(document["sources"]["shares"]) == 7


def test_explain_can_compare_weights(at_home, capsys):
    code, out, _ = ask(capsys, "explain", "The small cat sat near the river", "--compare-weights")
    assert code == 0
    assert "information" in out
    assert "raw weight" in out
    document = json.loads(ask(capsys, "explain", "The small cat", "--compare-weights", "--json")[1])
    assert document["checks"]["cuts"]
    assert json.loads(ask(capsys, "explain", "The small cat", "--no-check", "--json")[1])["checks"] is None


def test_explain_can_attribute_the_difference_of_two_logits(at_home, capsys):
    asked = ["explain", "The small cat", "--view", "logit", "--json", "--target", "#7", "--against", "#9"]
    document = json.loads(ask(capsys, *asked)[1])
    assert (document["target"]["id"], document["against"]["id"]) == (7, 9)
    assert abs(document["remainder"]) < 1e-3


def test_a_text_can_be_explained_with_its_continuation(at_home, capsys):
    whole = json.loads(ask(capsys, "generate", "The cat", "-n", "5", "-t", "0", "--json")[1])
    code, out, err = ask(capsys, "explain", "The cat", "--generate", "5", "--json")
    assert code == 0
    document = json.loads(out)
    prompt = document["prompt_tokens"]
    assert f"generated, from token {prompt} on" in err
    assert document["sources"]["focus"] == len(document["tokens"]) - 1
    assert [token["id"] for token in document["tokens"][prompt:]] == whole["samples"][0]["ids"]


def test_a_file_is_explained_like_its_content(at_home, capsys):
    Path("short.txt").write_text("The cat sat\n")
    documents = [json.loads(ask(capsys, "explain", text, "--json")[1]) for text in ("short.txt", "The cat sat")]
    assert documents[0] == documents[1]


def test_json_contains_no_control_characters(at_home, capsys):
    hostile = "a\x9b31m\u202eb\x7f\u2028\u200b"
    out = ask(capsys, "explain", hostile, "--json")[1]
    assert set("".join(token["text"] for token in json.loads(out)["tokens"])) == set(hostile)
    assert not [char for char in out if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")]


@pytest.mark.parametrize("how", [[], ["--plain"]])
def test_no_other_token_and_no_head_is_suggested_for_a_single_token(at_home, capsys, how):
    code, out, _ = ask(capsys, "explain", "a", *how)
    assert (code, "--token" in out, "--head" in out, "Busiest" in out) == (0, False, False, False)
    assert how or "Head 0.0: there is only one token" in out
