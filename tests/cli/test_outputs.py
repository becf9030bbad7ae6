"""The files and the sentences of an explanation show the values of the finding."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import attncli.explain.every_weight as keeping
from attncli.errors import BadInput
from attncli.explain.every_weight import EveryWeight, every_weight
from attncli.explain.reading import Reading
from attncli.render.export import sources_csv, write_weights
from attncli.render.numbers import percent
from attncli.render.plain import explanation_sentences, spoken
from attncli.render.themes import THEMES
from tests.support.commands import ask
from tests.support.explanations import (
    CHECKS,
    ENGLISH,
    FOREIGN,
    GOLDEN_FINDINGS,
    TEXT,
    TOKENIZER,
    causal_axes,
    explained,
    explanation,
    pieces_of,
)
from tests.support.models import Recorder, tiny_model
from tests.support.screens import harmless
from tests.support.texts import HOSTILE

# Files


def test_the_table_has_a_row_for_each_source_in_full_precision():
    found = explanation([*ENGLISH, HOSTILE, 'a "b", c\n'], focus=7)
    rows = list(csv.DictReader(io.StringIO(sources_csv(found), newline="")))
    assert list(rows[0]) == ["index", "token", "id", "share", "raw", "layer_0", "layer_1", "layer_2", "layer_3"]
    assert [row["token"] for row in rows] == [*ENGLISH, HOSTILE]
    assert [int(row["id"]) for row in rows] == [int(row["index"]) for row in rows] == list(range(8))
    sources = found.sources
    assert [float(row["share"]) for row in rows] == sources.shares[:8].tolist()
    assert [float(row["raw"]) for row in rows] == sources.raw[:8].tolist()
    for layer in range(4):
        assert [float(row[f"layer_{layer}"]) for row in rows] == sources.by_layer[layer, :8].tolist()


def test_the_table_has_only_the_requested_layers():
    found = explanation(["a", "b"])
    one = replace(found, sources=replace(found.sources, layers=(2,), by_layer=found.sources.by_layer[2:3]))
    assert sources_csv(one).split("\n")[0] == '"index","token","id","share","raw","layer_2"'


def test_the_exported_weights_equal_the_weights_of_the_model(family):
    model = tiny_model(vocab_size=300, **family)
    pieces = TOKENIZER.pieces(TEXT)
    seen = Recorder()
    with torch.no_grad():
        model(torch.tensor([[piece.id for piece in pieces]]), observe=seen)
    found = every_weight(Reading.of(model, pieces)).weights
    assert (found.shape, found.dtype) == ((3, 4, len(pieces), len(pieces)), np.float32)
    for layer, steps in seen.steps.items():
        np.testing.assert_array_equal(found[layer], steps.weights[0].numpy())
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert (found[:, :, *np.triu_indices(len(pieces), 1)] == 0).all()


def test_the_file_of_weights_is_read_back_without_pickle(tmp_path):
    found = EveryWeight(
        causal_axes(pieces_of(*FOREIGN)), np.random.default_rng(0).random((2, 3, 7, 7)).astype(np.float32)
    )
    with (tmp_path / "w.npz").open("wb") as file:
        write_weights(found, file)
    with np.load(tmp_path / "w.npz", allow_pickle=False) as read:
        assert set(read) == {"weights", "ids", "texts"}
        np.testing.assert_array_equal(read["weights"], found.weights)
        assert read["ids"].tolist() == list(range(7))
        assert read["texts"].tolist() == FOREIGN


def test_weights_that_do_not_fit_in_memory_are_refused(monkeypatch):
    pieces = TOKENIZER.pieces(TEXT)
    size = 4 * 3 * 4 * len(pieces) ** 2
    model = tiny_model(vocab_size=300)
    monkeypatch.setattr(keeping, "MOST_BYTES", size - 1)
    with pytest.raises(BadInput, match=f"All weights of {len(pieces)} tokens") as raised:
        every_weight(Reading.of(model, pieces))
    assert f"at most {len(pieces) - 1} tokens" in raised.value.hint
    monkeypatch.setattr(keeping, "MOST_BYTES", size)
    assert every_weight(Reading.of(model, pieces)).weights.nbytes == size


def test_explain_writes_the_requested_files(in_model_folder, capsys):
    asked = ["--csv", "x.csv", "--npz", "x.npz", "--svg", "x.svg", "--html", "x.html"]
    code, out, err = ask(capsys, "explain", TEXT, "--json", *asked)
    document = json.loads(out)
    assert code == 0
    assert err.splitlines() == [f"written: x.{kind}" for kind in ("csv", "npz", "svg", "html")]
    rows = list(csv.DictReader((in_model_folder / "x.csv").read_text().splitlines()))
    assert [float(row["share"]) for row in rows] == document["sources"]["shares"]
    with np.load(in_model_folder / "x.npz") as read:
        head = document["map"]
        np.testing.assert_array_equal(read["weights"][head["layer"], head["head"]], np.float32(head["weights"]))
        assert read["texts"].tolist() == [token["text"] for token in document["tokens"]]
    assert "get&#160;its" not in (in_model_folder / "x.svg").read_text()
    assert "get its information?" in (in_model_folder / "x.svg").read_text()
    assert "get its information?" in (in_model_folder / "x.html").read_text()
    before = sorted(path.name for path in in_model_folder.iterdir())
    code, out, err = ask(capsys, "explain", TEXT, "--svg", "y.svg", "--csv", "x.csv")
    assert (code, out) == (2, "")
    assert "--force" in err
    assert sorted(path.name for path in in_model_folder.iterdir()) == before


@pytest.mark.parametrize("name", ["page", "html", "svg", "csv", "npz"])
def test_no_file_is_named_like_standard_output(name, in_model_folder, capsys):
    code, out, err = ask(capsys, "explain", TEXT, f"--{name}", "-")
    assert (code, out) == (2, "")
    assert f"--{name} - is no file" in err
    assert f"--{name} out.{'html' if name == 'page' else name}" in err
    assert not (in_model_folder / "-").exists()


def test_the_theme_sets_the_colors_of_both_pictures(in_model_folder, capsys):
    page = f"#{THEMES['dark'].page}"
    for theme, dark in (("light", False), ("dark", True)):
        files = [f"{theme}.svg", f"{theme}.html"]
        code, _, _ = ask(capsys, "explain", TEXT, "--theme", theme, "--svg", files[0], "--html", files[1])
        assert code == 0
        assert [page in (in_model_folder / file).read_text() for file in files] == [dark, dark]
    code, out, err = ask(capsys, "explain", TEXT, "--theme", "pink")
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == "error: --theme is 'pink', and must be light or dark."


# Sentences

GOLDEN = """\
The model tiny has 2 layers of 2 heads. The text has 4 tokens: 0 The, 1 cat, 2 sat, 3 東.
Where does token 3, 東 (part 1 of 3), get its information? In shares of what attention brings, all layers and heads:
東 (part 1 of 3) takes 40% from sat.
東 (part 1 of 3) takes 30% from itself.
東 (part 1 of 3) takes 10% from cat.
東 (part 1 of 3) takes 20% from the first token, The, which has 55% of the raw attention.
Not counted: the residual stream (attention's output: .30 of its length) and the feed-forward parts.
In head 1.0, the one that brings most from other tokens, the first aside, by attention weight:
Token 0, The, looks at itself with 100%.
Token 1, cat, looks at The with 75% and at itself with 25%.
Token 2, sat, looks at The with 50% and at itself with 50%.
Token 3, 東 (part 1 of 3), looks at sat with 65% and at cat with 20%.
On average a token looks at the one before with 47%; even attention would give 36%.
What may come after 東 (part 1 of 3), at temperature 1:
on with 50%.
a line end with 1%.
[red] with <0.1%.
A share says how much attention brings from a token, not whether the prediction needs it.
To go on, add one of: --token 2, --head 1.0, --json; or without --plain: --view grid, --view logit, --view lens.
"""
CHECKED = """\
The most probable next token is on, with 50%; each cut shows the probability that is left.
東 (part 1 of 3) takes 40% from sat; with it cut off, on has 9%, not 50%.
東 (part 1 of 3) takes 30% from itself; with it cut off, on has 45%, not 50%.
東 (part 1 of 3) takes 10% from cat; with it cut off, on has <0.1%, not 50%.
東 (part 1 of 3) takes 20% from the first token, The, which has 55% of the raw attention; with it cut off, on has 52%, \
not 50%.
Cut off means that the token can no longer look there, in all layers and heads.
With a source at random cut off, on has 32%, not 50%: the mean over 3 tokens before it.
"""


def test_a_small_explanation_in_sentences_reads_as_expected():
    assert "\n".join([*explanation_sentences(GOLDEN_FINDINGS, "tiny"), ""]) == GOLDEN


def test_the_sentences_give_the_probability_after_each_cut():
    said = "\n".join([*explanation_sentences(replace(GOLDEN_FINDINGS, checks=CHECKS), "tiny"), ""])
    assert CHECKED in said
    assert "whether the prediction needs it: that is what a cut shows." in said
    same = replace(CHECKS, probabilities=(0.5, 0.5, 0.1, 0.2))
    said = "\n".join(explanation_sentences(replace(GOLDEN_FINDINGS, checks=same), "tiny"))
    assert "from sat; with it cut off, on still has 50%." in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" river", "river"), (" ", "a space"), ("   ", "3 spaces"), ("\n", "a line end"), ("\n\n", "2 line ends"),
        ("\n ", "white space"), (".", "full stop"),
        ("!?", '"!?"'), (" \N{PARTY POPPER}", "party popper"), (" [red]", "[red]"), ("", "nothing"),
        ("\u3000", "a blank"),
        ("\x1b[2J", "␛[2J"), (" 's", "'s"), ("東", "東"),
    ],
)  # fmt: skip
def test_every_token_can_be_read_aloud(text, said):
    assert spoken(text) == said


@pytest.mark.parametrize("length", [1, 2, 7, 30, 60])
@pytest.mark.parametrize("words", [ENGLISH, [*FOREIGN, HOSTILE]], ids=["english", "hostile"])
def test_sentences_are_complete_escaped_and_without_drawings(words, length):
    found = explanation([words[at % len(words)] for at in range(length)], next_tokens=[(HOSTILE, 0.5)])
    said = explanation_sentences(found, HOSTILE)
    for sentence in said:
        assert harmless(sentence)
        assert "\n" not in sentence
        assert sentence[-1] in ".:"
        assert not re.search("[█▏▎▍▌▋▊▉░▒▓─│·]", sentence)
    assert len([one for one in said if " looks " in one and " with " in one and one[:2] != "On"]) == min(length, 40)


def test_repeated_words_are_distinguished_by_their_index():
    said = "\n".join(explanation_sentences(explanation(["the", " cat", " the", " dog"]), "m"))
    assert "from the (token 2)" in said
    assert "the first token, the (token 0)" in said
    assert "from cat." in said


def test_every_share_is_mentioned_once():
    found = explanation(ENGLISH)
    said = [sentence for sentence in explanation_sentences(found, "m") if " takes " in sentence]
    shares = sorted(found.sources.shares[1:], reverse=True)
    assert [re.findall(r"takes (\S+) from", sentence)[0] for sentence in said] == [
        percent(share) for share in (*shares, found.sources.shares[0])
    ]
    many = explanation([f" w{at}" for at in range(30)])
    (rest,) = [sentence for sentence in explanation_sentences(many, "m") if "other tokens." in sentence]
    assert f"takes {percent(sum(sorted(many.sources.shares[1:])[:-8]))} from 21 other tokens." in rest


def test_the_sentences_say_that_a_head_was_requested():
    found = explained()
    head = replace(found.map, asked_for=True)
    said = explanation_sentences(replace(found, map=head), "m")
    assert f"In head {head.layer}.{head.head}, the one you asked for, by attention weight:" in said


def test_plain_prints_one_sentence_in_each_line(in_model_folder, capsys):
    code, out, err = ask(capsys, "explain", TEXT, "--plain")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert any(re.fullmatch(r"\w+ takes \d+% from \w+; with it cut off, .+%\.", line) for line in lines)
    assert all(line[-1] in ".:" for line in lines)
