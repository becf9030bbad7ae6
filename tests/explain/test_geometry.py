"""Neighbors and analogies: hand-made embeddings give the known answer, chance matches its definition."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from attncli.errors import BadInput, UsageProblem
from attncli.explain import chance as chances
from attncli.explain.chance import Chance, chance_among, largest_by_chance
from attncli.explain.geometry import (
    Analogy,
    Expected,
    Neighbor,
    Neighbors,
    analogy,
    neighbors,
    neighbors_in_text,
    spell,
)
from attncli.render.geometry import analogy_document, analogy_screen, neighbors_document, neighbors_screen
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.commands import ask
from tests.support.explanations import pieces_of
from tests.support.models import Recorder, tiny_model
from tests.support.screens import harmless, screen, widest
from tests.support.texts import HOSTILE, story

BYTES = byte_tokenizer()
BPE = train_tokenizer([story(400)], "bpe", 400)


def letters(**vectors):
    """Returns a byte model in which the letters have the given embeddings. All other embeddings point elsewhere."""
    model = tiny_model(vocab_size=257, dtype=torch.float64)
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[:, -1] = -1
        for letter, vector in vectors.items():
            model.embedding.weight[ord(letter)] = 0
            model.embedding.weight[ord(letter), : len(vector)] = torch.tensor(vector, dtype=torch.float64)
    return model


def word(text):
    return BYTES.pieces(text)


def test_the_nearest_tokens_have_the_largest_cosines():
    found = neighbors(letters(a=[1, 0], b=[5, 5], c=[3, 1], d=[1, 3]), BYTES, word("a"), count=3)
    assert [token.text for token in found.nearest] == ["c", "b", "d"]
    np.testing.assert_allclose([t.cosine for t in found.nearest], [3 / 10**0.5, 0.5**0.5, 1 / 10**0.5], atol=1e-12)
    assert found.chance.compared == 256
    assert found.chance.average == pytest.approx((4 / 10**0.5 + 0.5**0.5) / 256)


def test_a_word_of_several_tokens_is_their_mean_and_excludes_them():
    found = neighbors(letters(a=[4, 0], b=[0, 2], c=[2, 1], d=[1, 1]), BYTES, word("ab"), count=2)
    assert [token.text for token in found.nearest] == ["c", "d"]
    assert found.nearest[0].cosine == pytest.approx(1)
    assert found.chance.compared == 255


def test_an_analogy_that_holds_is_found():
    model = letters(m=[1, 0, 0], w=[0, 1, 0], k=[1, 0, 1], q=[0, 1, 1], x=[0, 1, 0.9])
    found = analogy(model, BYTES, (word("m"), word("k"), word("w")), word("q"), count=2)
    assert [token.text for token in found.nearest] == ["q", "x"]
    assert found.nearest[0].cosine == pytest.approx(1)
    assert (found.expected.rank, found.expected.cosine) == (1, pytest.approx(1))
    assert found.expected.rank_without == 2  # x is nearer to w
    assert found.chance.compared == 254
    worse = analogy(model, BYTES, (word("m"), word("k"), word("w")), word("x"))
    assert (worse.expected.rank, worse.expected.rank_without) == (2, 1)


def test_the_three_words_are_never_the_answer():
    found = analogy(letters(a=[1, 0], b=[1, 0.01], c=[0, 1]), BYTES, (word("a"), word("b"), word("c")), count=300)
    assert not {token.text for token in found.nearest} & {"a", "b", "c"}
    assert len(found.nearest) == 254
    with pytest.raises(UsageProblem, match="'b' is a token of the three"):
        analogy(letters(), BYTES, (word("a"), word("b"), word("c")), word("b"))


def test_an_expected_word_of_several_tokens_has_a_rank():
    model = letters(a=[1, 0, 0], b=[1, 0, 1], c=[0, 1, 0], q=[0, 1, 0], r=[0, 0, 1], n=[0, 1, 1])
    found = analogy(model, BYTES, (word("a"), word("b"), word("c")), word("qr"))
    assert found.expected.cosine == pytest.approx(1)
    assert found.expected.rank == 1  # n is equally near, and no token is nearer


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2, None])
def test_neighbors_in_a_text_are_ranked_by_cosines_of_the_residual_stream(family, layer):
    model = tiny_model(vocab_size=400, dtype=torch.float64, **family)
    text = BPE.pieces("The small cat sat near the old river and sang")
    seen = Recorder()
    model(torch.tensor([[piece.id for piece in text]]), observe=seen)
    streams = seen.streams[3 if layer is None else layer][0]
    ends = neighbors_in_text(model, BPE, text, "river", layer=layer, among="text", count=99)
    expected = torch.cosine_similarity(streams, streams[ends.at], dim=-1)
    assert ends.layer == (3 if layer is None else layer)
    assert sorted(token.index for token in ends.nearest) == [i for i in range(len(text)) if i != ends.at]
    for token in ends.nearest:
        assert token.cosine == pytest.approx(float(expected[token.index]), abs=1e-12)
    tokens = neighbors_in_text(model, BPE, text, "river", layer=layer, count=400)
    expected = torch.cosine_similarity(model.embedding.weight, streams[ends.at], dim=-1)
    assert len(tokens.nearest) == BPE.vocab_size
    for token in tokens.nearest:
        assert token.cosine == pytest.approx(float(expected[token.id]), abs=1e-12)
    for found in (ends, tokens):
        assert all(a.cosine >= b.cosine for a, b in pairwise(found.nearest))
    if layer == 0 and family.get("positions") != "learned":
        assert tokens.nearest[0].id == text[ends.at].id
        assert tokens.nearest[0].cosine == pytest.approx(1)


def test_padding_ids_are_not_neighbors():
    found = neighbors(tiny_model(vocab_size=300), BYTES, word("a"), count=999)
    assert len(found.nearest) == 256
    assert max(token.id for token in found.nearest) == 256


def test_a_word_has_a_leading_space_unless_it_then_has_more_tokens():
    assert [piece.text for piece in spell(BPE, "river")] == [" river"]
    assert [piece.text for piece in spell(BPE, " river")] == [" river"]
    assert [piece.text for piece in spell(BYTES, "cat")] == ["c", "a", "t"]
    for empty in ("", " ", "\n"):
        with pytest.raises(BadInput, match="empty"):
            spell(BPE, empty)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"layer": 4}, "no stream after 4"), ({"layer": -1}, "no stream after -1"), ({"name": "dog"}, "no token 'dog'")],
)
def test_missing_layers_and_words_are_refused(arguments, message):
    given = {"name": "cat", **arguments}
    with pytest.raises(UsageProblem, match=message):
        neighbors_in_text(tiny_model(vocab_size=257), BYTES, word("a cat"), **given)


# Chance


@pytest.mark.parametrize("vectors", [1, 2, 10, 1000])
def test_chance_in_three_dimensions_is_exact(vectors):
    """In three dimensions, a cosine is distributed uniformly from -1 to 1 (Archimedes)."""
    median, most = largest_by_chance(vectors, 3)
    assert median == pytest.approx(2 * 0.5 ** (1 / vectors) - 1, abs=1e-4)
    assert most == pytest.approx(2 * 0.95 ** (1 / vectors) - 1, abs=1e-4)


@pytest.mark.parametrize(("vectors", "width"), [(50, 8), (300, 64), (3, 2)])
def test_chance_matches_random_vectors(vectors, width):
    """In 1,000 draws, the share below the median has a standard error of 0.016, the share below the 95% point 0.007."""
    generator = np.random.default_rng(0)
    best = np.concatenate([largest(generator.normal(size=(50, vectors, width))) for _ in range(20)])
    median, most = largest_by_chance(vectors, width)
    assert (best < median).mean() == pytest.approx(0.5, abs=0.08)
    assert (best < most).mean() == pytest.approx(0.95, abs=0.035)


def largest(drawn):
    return (drawn[..., 0] / np.linalg.norm(drawn, axis=-1)).max(1)


def test_chance_falls_with_the_width_and_grows_with_the_number_of_vectors():
    by_width = [largest_by_chance(1000, width)[0] for width in (2, 16, 128, 1024, 12288)]
    assert all(a > b > 0 for a, b in pairwise(by_width))
    by_number = [largest_by_chance(number, 64)[0] for number in (1, 10, 1000, 200_000)]
    assert all(a < b < 1 for a, b in pairwise(by_number))
    assert largest_by_chance(1, 64)[0] == pytest.approx(0, abs=1e-6)
    assert largest_by_chance(9, 1) == (1, 1)


@pytest.mark.parametrize("common", [0, 1, 5])
@pytest.mark.parametrize(("vectors", "width"), [(12, 16), (300, 64)])
def test_a_component_common_to_all_vectors_does_not_count_as_near(vectors, width, common, monkeypatch):
    """A common component of the vectors does not change how many of 1,000 draws exceed the 95% point.

    The share has a standard error of 0.007, so this test fails by chance in one run of a thousand. With a baseline that
    ignores the common component, all draws would exceed the point.
    """
    monkeypatch.setattr(chances, "largest_by_chance", cache(largest_by_chance))  # the same in every draw
    generator = np.random.default_rng(1)
    passed = []
    for _ in range(1000):
        drawn = generator.normal(size=(vectors + 1, width))
        drawn[:, 0] += common * width**0.5
        unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        cosines = unit[1:] @ unit[0]
        passed.append(cosines.max() > chance_among(cosines).most)
    assert np.mean(passed) < 0.072


def test_the_largest_of_normal_draws_is_at_chance(monkeypatch):
    """In 1,000 draws, the two shares have standard errors of 0.016 and 0.007."""
    monkeypatch.setattr(chances, "largest_by_chance", cache(largest_by_chance))  # the same in every draw
    generator = np.random.default_rng(2)
    drawn = generator.normal(0.3, 0.02, size=(1000, 500))
    found = [chance_among(cosines) for cosines in drawn]
    best = drawn.max(1)
    assert np.mean(best < [one.median for one in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean(best < [one.most for one in found]) == pytest.approx(0.95, abs=0.03)


def test_an_outlier_is_above_chance_unless_there_are_too_few_values():
    cosines = np.append(np.linspace(0.2, 0.4, 99), 0.9)
    found = chance_among(cosines)
    assert found.median < found.most < 0.9
    assert found.average == pytest.approx(cosines.mean())
    assert chance_among(cosines[-2:]).most == 1
    assert chance_among(cosines[:0]).compared == 0
    assert chance_among(np.array([0.1, 0.1, 1.0])).most <= 1


# The screens


NEAR = tuple(
    Neighbor(at, text, None, 0.9 - 0.1 * at) for at, text in enumerate((" lake", "\n", HOSTILE, "[red]", "東京" * 9))
)
FOUND = Neighbors(
    tuple(pieces_of(" river")), None, None, None, "vocabulary", NEAR, Chance(1023, 0.015, 0.1, 0.321, 0.65)
)
SPLIT = tuple(pieces_of(" un", "believ", "able"))


def drawn(found, width=80, model="tiny", draw=neighbors_screen):
    console = screen(width)
    console.print(draw(found, model, console))
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


def changed(**changes):
    return replace(FOUND, **changes)


GOLDEN = """\
tiny · nearest to ␣river
cosine of token embeddings

1 ␣lake ███████████████████████████ 0.900 #0
2 ␊     ████████████████████████    0.800 #1

Cosine with all 1,023 compared: 0.015 on average, standard deviation 0.100. By
chance alone, in a normal distribution, the nearest would be at 0.321, and above
0.650 once in 20.
All of these are nearer than chance.
"""


def test_the_screen_of_two_neighbors_looks_as_expected():
    assert drawn(changed(nearest=(*NEAR[:2],))) == GOLDEN


def test_the_screen_says_whether_neighbors_are_nearer_than_chance():
    assert "The first 3 are nearer than chance" in drawn(FOUND)
    assert "The first is nearer than chance" in drawn(changed(chance=Chance(9, 0.1, 0.1, 0.5, 0.85)))
    nothing = drawn(changed(chance=Chance(9, 0.1, 0.1, 0.8, 0.95)))
    assert "No nearer than chance" in nothing
    assert "nearer than chance." not in nothing
    assert "Only 2 tokens to compare with" in drawn(changed(chance=Chance(2, 0.1, 0, 1, 1)))
    assert "chance alone reaches 1" in drawn(changed(chance=Chance(999, 0.5, 0.2, 1.0, 1.0)))
    assert "nothing to compare" in drawn(changed(nearest=()))


def test_the_screen_says_what_is_compared():
    assert "␣unbelievable is 3 tokens, ␣un|believ|able: the mean of their embeddings" in drawn(changed(word=SPLIT))
    text = tuple(pieces_of("It", " un", "believ", "able"))
    inside = changed(word=SPLIT, text=text, at=3, layer=2, nearest=(Neighbor(2, "able", None, 0.5), *NEAR))
    shown = drawn(inside)
    assert "nearest to ␣unbelievable [3] of 4 tokens" in shown
    assert "cosine of the residual stream after 2 layers with token embeddings" in shown
    assert "The last one is used" in shown
    assert "#2 its own token" in shown
    assert shown.count("its own token") == 2  # the two tokens with the id of the word
    assert "with those of the other tokens" in drawn(changed(text=text, at=3, layer=0, among="text"))


def an_analogy(expected=None):
    words = tuple(tuple(pieces_of(text)) for text in (" Richmond", " Virginia", " Connecticut"))
    return Analogy(words, NEAR, Chance(1021, 0.01, 0.1, 0.321, 0.385), expected)


def test_an_analogy_shows_the_rank_of_the_expected_word():
    shown = drawn(an_analogy(Expected(SPLIT, 0.1234, 22, 113)), 120, draw=analogy_screen)
    assert "tiny · ␣Richmond : ␣Virginia = ␣Connecticut : ?" in shown
    assert "nearest to ␣Virginia - ␣Richmond + ␣Connecticut" in shown
    assert "␣unbelievable is 22nd of 1,021, cosine 0.123; by cosine with ␣Connecticut alone, it is 113th." in shown
    assert "␣unbelievable is 3 tokens" in shown
    assert "comes" not in drawn(an_analogy(), draw=analogy_screen)


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_the_screens_fit_their_width_and_escape_hostile_text(width):
    hostile = tuple(pieces_of(HOSTILE, "[red]", "東京日本東京日本" * 9))
    analogous = Analogy((hostile, hostile, hostile), NEAR, FOUND.chance, Expected(hostile, 0.1, 3, 4))
    for text in (
        drawn(changed(word=hostile), width, HOSTILE),
        drawn(changed(word=hostile, text=hostile, at=2, layer=1), width, HOSTILE),
        drawn(analogous, width, HOSTILE, analogy_screen),
    ):
        assert widest(text) <= width
        assert harmless(text)
        if width >= 40:
            assert "0.900" in text
            assert "[red]" in text


def test_documents_have_full_precision():
    document = json.loads(json.dumps(neighbors_document(FOUND, "m"), allow_nan=False))
    assert list(document) == [
        "model", "word", "text", "index", "after_layers", "among", "nearest", "compared", "average_cosine", "chance",
    ]  # fmt: skip
    assert [token["cosine"] for token in document["nearest"]] == [token.cosine for token in NEAR]
    document = json.loads(json.dumps(analogy_document(an_analogy(Expected(SPLIT, 0.1, 2, 3)), "m"), allow_nan=False))
    assert list(document) == ["model", "a", "b", "c", "nearest", "compared", "average_cosine", "chance", "expected"]
    assert (document["expected"]["rank"], document["expected"]["rank_by_c_alone"]) == (2, 3)
    assert analogy_document(an_analogy(), "m")["expected"] is None


# The commands


def test_the_commands_print_neighbors_and_analogies(in_model_folder, capsys):
    code, out, err = ask(capsys, "neighbors", "river", "--top-k", "3", "--svg", "n.svg")
    assert (code, err) == (0, "written: n.svg\n")
    assert "nearest to ␣river" in out
    document = json.loads(ask(capsys, "neighbors", "cat", "--in", "The cat sat", "--among", "text", "--json")[1])
    assert (document["index"], document["after_layers"], len(document["nearest"])) == (
        next(at for at, piece in enumerate(document["text"]) if piece["text"] == " cat"), 3, len(document["text"]) - 1,
    )  # fmt: skip
    code, out, err = ask(capsys, "analogy", "cat", "river", "moon", "--expect", "hill", "--html", "a.html")
    assert (code, err) == (0, "written: a.html\n")
    assert "␣hill is" in out
    assert (in_model_folder / "a.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["neighbors", ""], 3, "The word is empty"),
        (["neighbors", "cat", "--layer", "1"], 2, "need a text"),
        (["neighbors", "cat", "--among", "text"], 2, "need a text"),
        (["neighbors", "cat", "--in", "a cat", "--among", "friends"], 2, "must be vocabulary or text"),
        (["neighbors", "cat", "--in", ""], 3, "no tokens"),
        (["neighbors", "cat", "--top-k", "0"], 2, "--top-k"),
        (["neighbors", "\ud800"], 3, "not valid Unicode"),
        (["analogy", "cat", "river"], 2, "C is missing"),
        (["analogy", "cat", "river", "moon", "--expect", "cat"], 2, "so it cannot be an answer"),
        (["analogy", "cat", "river", "moon", "--svg", "."], 2, "is a directory"),
    ],
)
def test_an_error_has_at_most_two_lines(in_model_folder, capsys, arguments, code, message):
    found, out, err = ask(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
