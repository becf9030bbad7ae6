"""Comparing a word in two texts: pulls sum to the distance, equal streams have the cosine 1, the screen fits."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from attncli.cli.options import option_name
from attncli.errors import BadInput, UsageProblem
from attncli.explain.compare import Comparison, WordInText, compare, find_words
from attncli.explain.first_screen import explain
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.render.compare import comparison_document, comparison_screen
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.commands import ask
from tests.support.explanations import pieces_of
from tests.support.models import FAMILIES, Recorder, tiny_model
from tests.support.screens import harmless, screen, widest
from tests.support.texts import HOSTILE, story

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
A, B = "The small cat sat near the river", "Then it was a very old river and warm"


def compared(a=A, b=B, tokens=("river",), layer=None, tokenizer=TOKENIZER, **switches):
    model = tiny_model(vocab_size=300, dtype=torch.float64, **switches)
    texts = [tokenizer.pieces(text) for text in (a, b)]
    return compare(model, texts, find_words(texts, tokens), layer)


def parts(found):
    return sum(text.pulls.sum() for text in found.words) + found.feed_forward + found.embedding


@pytest.mark.parametrize("layer", [0, 1, None])
def test_pulls_feed_forward_and_embedding_sum_to_the_distance(family, layer):
    found = compared(layer=layer, tokens=("cat", "river"), **family)
    assert found.distance > 0.1
    assert parts(found) == pytest.approx(found.distance, abs=1e-9)
    assert (np.abs(found.words[0].pulls).max() > 1e-3) == (layer != 0)


def test_pulls_equal_projections_of_the_full_vectors(family):
    """A pull is (value through the output matrix - midpoint of the head) x weight, projected on the direction."""
    model = tiny_model(vocab_size=300, dtype=torch.float64, **family)
    texts = [TOKENIZER.pieces(text) for text in (A, B)]
    runs = find_words(texts, ["river"])
    found = compare(model, texts, runs)
    seen = [Recorder(), Recorder()]
    with torch.no_grad():
        for text, recorder in zip(texts, seen, strict=True):
            model(torch.tensor([[piece.id for piece in text]]), observe=recorder)
    at = [last for _, last in runs]
    vectors = []  # per text: (L, H, S, C)
    for recorder in seen:
        layers = []
        for layer, steps in recorder.steps.items():
            module = model.blocks[layer].attention
            value = steps.value[0].repeat_interleave(module.heads // module.kv_heads, 0)
            layers.append(torch.einsum("hsd,chd->hsc", value, module.output.weight.unflatten(1, (module.heads, -1))))
        vectors.append(torch.stack(layers))
    weights = [
        torch.stack([steps.weights[0, :, place] for steps in recorder.steps.values()])
        for recorder, place in zip(seen, at, strict=True)
    ]  # (L, H, S)
    given = [(weight[..., None] * vector).sum(2) for weight, vector in zip(weights, vectors, strict=True)]
    midpoint = (given[0] + given[1]) / 2
    ends = [recorder.streams[3][0, place] for recorder, place in zip(seen, at, strict=True)]
    line = (ends[0] - ends[1]) / (ends[0] - ends[1]).norm()
    for index, sign in ((0, 1), (1, -1)):
        moved = weights[index][..., None] * (vectors[index] - midpoint[:, :, None])
        expected = sign * (moved @ line).sum((0, 1))
        np.testing.assert_allclose(found.words[index].pulls, expected[: at[index] + 1].detach(), rtol=0, atol=1e-10)


def test_cosines_equal_the_cosines_of_the_residual_streams(family):
    model = tiny_model(vocab_size=300, dtype=torch.float64, **family)
    texts = [TOKENIZER.pieces(text) for text in (A, B)]
    runs = find_words(texts, ["river"])
    found = compare(model, texts, runs)
    streams = []
    for text, (_, at) in zip(texts, runs, strict=True):
        seen = Recorder()
        with torch.no_grad():
            model(torch.tensor([[piece.id for piece in text]]), observe=seen)
        streams.append(torch.stack([stream[0, : at + 1] for stream in seen.streams.values()]))  # (L + 1, T, C)
    expected = torch.cosine_similarity(streams[0][:, -1], streams[1][:, -1], dim=-1)
    np.testing.assert_allclose(found.cosines, expected, atol=1e-12)
    assert found.cosines.shape == (4,)
    pairs = [
        torch.cosine_similarity(streams[0][:, i], streams[1][:, j], dim=-1)
        for i in range(runs[0][1] + 1)
        for j in range(runs[1][1] + 1)
        if texts[0][i].id != texts[1][j].id
    ]
    np.testing.assert_allclose(found.others, torch.stack(pairs).mean(0), atol=1e-12)


def test_equal_tokens_at_equal_positions_have_exactly_equal_embeddings(family):
    moved = compared("a cat", "one cat", ["cat"], tokenizer=byte_tokenizer(), **family)
    assert [text.at for text in moved.words] == [4, 6]
    assert (moved.cosines[0] == 1) == (family.get("positions") != "learned")
    assert (moved.cosines[1:] < 1).all()
    same_place = compared("a cat", "b cat", ["cat"], tokenizer=byte_tokenizer(), **family)
    assert same_place.cosines[0] == 1
    assert same_place.embedding == 0
    assert (same_place.cosines[1:] < 1).all()


def test_tokens_after_the_word_change_nothing(family):
    short, longer = compared(**family), compared(A + " and then the old house", B + " hill", **family)
    assert longer.cosines.tolist() == short.cosines.tolist()
    for one, other in zip(short.words, longer.words, strict=True):
        assert one.pulls.tolist() == other.pulls.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_contexts_have_no_distance(name):
    found = compared("The old river ran", "The old river was cold and late", **FAMILIES[name])
    assert (found.cosines == 1).all()
    assert (found.distance, found.feed_forward, found.embedding) == (0, 0, 0)
    assert all((text.pulls == 0).all() for text in found.words)


def test_swapping_the_texts_swaps_the_pulls():
    one, other = compared(), compared(B, A)
    np.testing.assert_allclose(one.words[0].pulls, other.words[1].pulls, atol=1e-12)
    np.testing.assert_allclose(one.words[1].pulls, other.words[0].pulls, atol=1e-12)
    assert one.distance == pytest.approx(other.distance)


@torch.no_grad()
def test_a_value_common_to_all_sources_has_no_pull():
    """If all values are one constant vector, attention adds that vector in both texts, whatever its weights are."""
    model = tiny_model(vocab_size=300, dtype=torch.float64, qk_norm=False, qkv_bias=True)
    for block in model.blocks:
        block.attention.value.weight.zero_()
        block.attention.value.bias.normal_(generator=torch.Generator().manual_seed(1))
    texts = [TOKENIZER.pieces(text) for text in ("my cold river", "it was a very old river")]
    found = compare(model, texts, find_words(texts, ["cold", "old"]))
    assert found.distance > 0.1
    for text in found.words:
        np.testing.assert_allclose(text.pulls, 0, atol=1e-12)


def test_shares_equal_the_shares_of_the_first_screen():
    found = compared()
    model = tiny_model(vocab_size=300, dtype=torch.float64)
    for text in found.words:
        sources = explain(Reading.of(model, text.pieces[: text.at + 1]), TOKENIZER, Focus()).sources
        np.testing.assert_allclose(text.shares, sources.shares, atol=1e-9)


def test_a_word_is_found_in_both_texts():
    one, other = pieces_of("The", " r", "iver", " ran"), pieces_of("An", " old", " r", "iver", " sang")
    assert find_words([one, other], []) == ((1, 2), (2, 3))
    assert find_words([one, other], ["river"]) == ((1, 2), (2, 3))
    assert find_words([one, other], ["ran", "sang"]) == ((3, 3), (4, 4))
    assert find_words([one, other], ["0", "1"]) == ((0, 0), (1, 1))


@pytest.mark.parametrize(
    ("a", "b", "tokens", "message", "hint"),
    [
        ("the cat", "a dog", [], "share no word", "name one in each: --token cat --token dog."),
        ("dog", "cat", [], "share no word", "--token dog --token cat."),
        ("dog", "...", [], "share no word", 'both, such as "He could not bear" and "He saw a bear".'),
        ("the old cat", "the old dog", [], "share 2 words", "--token the or --token old"),
        ("the cat", "the dog", ["cat"], "In the second text: There is no token 'cat'", "token twice"),
        ("the cat saw the dog", "the dog", ["the"], "In the first text: 'the' occurs 2 times", "token twice"),
        ("the cat", "the dog", ["a", "b", "c"], "--token is given 3 times.", "Give it once for both texts"),
    ],
)
def test_an_ambiguous_or_missing_word_is_refused_with_the_candidates(a, b, tokens, message, hint):
    texts = [pieces_of(*(f" {word}" for word in text.split())) for text in (a, b)]
    with pytest.raises(UsageProblem) as raised:
        find_words(texts, tokens)
    assert "--" not in raised.value.message + raised.value.hint  # the library names the setting
    raised.value.spell(option_name)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_empty_texts_and_missing_layers_are_refused():
    with pytest.raises(BadInput, match="The second text has no tokens"):
        find_words([pieces_of("a"), []], [])
    for layer in (-1, 4):
        with pytest.raises(UsageProblem, match=f"no stream after {layer} layers"):
            compared(layer=layer)
    with pytest.raises(BadInput, match="reads at most 96"):
        compared("cat " * 100 + "river")


# The screen


def comparison(a, b, *, layers=3, after=3):
    """Returns an invented comparison of two texts, whose last tokens are the word."""
    generator = np.random.default_rng(len(a))

    def text(texts):
        pieces = tuple(Piece(i, one, len(one.encode())) for i, one in enumerate(texts))
        pulls, shares = generator.normal(size=len(pieces)), generator.random(len(pieces))
        return WordInText(pieces, len(pieces) - 1, len(pieces) - 1, pulls, shares / shares.sum())

    words = text(a), text(b)
    cosines = np.linspace(1, 0.2, layers + 1)
    total = sum(one.pulls.sum() for one in words) + 2.25 + 20
    return Comparison(words, layers, 2, cosines, cosines / 3, after, total, 2.25, 20.0)


def drawn(found, width=80, model="tiny"):
    console = screen(width)
    console.print(comparison_screen(found, model, console))
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


GOLDEN_FOUND = Comparison(
    words=(
        WordInText(
            pieces_of("The", " river", " bank", " was"), 2, 2, np.array([-0.5, 2.0, 0.5]), np.array([0.1, 0.6, 0.3])
        ),
        WordInText(pieces_of("My", " bank"), 1, 1, np.array([1.0, 0.01]), np.array([0.25, 0.75])),
    ),
    layers=2, heads=2, cosines=np.array([1.0, 0.875, 0.5]), others=np.array([-0.01, 0.125, 0.25]), layer=2,
    distance=4.0, feed_forward=0.99, embedding=0.0,
)  # fmt: skip
GOLDEN = """\
tiny · 2 layers x 2 heads · ␣bank in two texts
A  The|␣river|␣bank|␣was
B  My|␣bank
The tokens after the word cannot affect it.

How alike are the two?   cosine of the word's two residual streams, by layer
embedding ██████████████████████████████     1 other pairs of tokens -0.010
1 layer   ██████████████████████████▎    0.875 other pairs of tokens 0.125
2 layers  ███████████████                0.500 other pairs of tokens 0.250

What pulled the two apart?   distance after 2 layers: 4
pull: what a token contributes to the distance between the two streams, relative
to the mean of both texts; all rows sum to the distance. share: of what
attention brings
A 1 ␣river       ██████████████████████████████  +50% share 60%
B 0 My           ███████████████                 +25% share 25%
    feed-forward ██████████████▉                 +25%
A 0 The          ▒▒▒▒▒▒▒▒                        -12% share 10%
A 2 ␣bank        ███████▌                        +12% share 30%
B 1 ␣bank        ▏                              +0.2% share 75%
    embedding                                      0%
█ pulls apart  ▒ pulls together
"""


def test_a_small_comparison_looks_as_expected():
    assert drawn(GOLDEN_FOUND) == GOLDEN


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_a_comparison_fits_the_width_and_escapes_hostile_text(tokens, width):
    words = (["He", " sat", "東京日本東京日本", HOSTILE, "[red]x"] * 8)[:tokens]
    text = drawn(comparison(words, [*words, " bank"], layers=40, after=7), width, HOSTILE)
    assert widest(text) <= width
    assert harmless(text)
    if width >= 40:
        assert "after 7 layers" in text
        assert all(len(line.split("%")) <= 3 for line in text.split("\n"))


def test_every_figure_of_a_comparison_is_on_the_screen():
    found = comparison(["a", "b", "c"], ["d", "e"])
    text = drawn(found)
    for value in found.cosines[1:]:
        assert f" {value:.3f} other" in text
    shown = re.findall(r"([+-][.\d]+%)", text.split("What pulled")[1])
    parts = np.concatenate([*(one.pulls for one in found.words), [found.feed_forward, found.embedding]])
    expected = sorted(parts / found.distance, key=abs, reverse=True)
    assert shown == [f"{pull:+.0%}" if abs(pull) >= 0.00995 else f"{pull:+.1%}" for pull in expected]


def test_the_largest_pulls_come_first_each_with_a_bar():
    words = [f" w{at}" for at in range(30)]
    text = drawn(comparison(words, [*words, " bank"]), 80).split("What pulled")[1]
    rows = re.findall(r"^([AB ]) +(?:\d+ )?.*?([█▏▎▍▌▋▊▉▒]+) +([+-])([.\d]+)%", text, re.MULTILINE)
    assert len(rows) == 16  # twelve sources, "more" for each text, feed-forward, embedding
    sizes = [float(size) for *_, size in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert all(("▒" in bar) == (sign == "-") for _, bar, sign, _ in rows)
    assert sum(float(sign + size) for *_, sign, size in rows) == pytest.approx(100, abs=8)


def test_a_long_text_is_shortened_before_the_word():
    found = comparison([f" w{at}" for at in range(90)], ["a"])
    (line,) = [line for line in drawn(found, 60).split("\n") if line.startswith("A  …")]
    assert line.endswith("|␣w88|␣w89")


def test_a_comparison_of_equal_streams_says_why_they_are_equal():
    found = compared("The old river ran", "The old river was cold")
    text = drawn(found)
    assert "Nothing: the word attends to the same tokens in both texts." in text
    assert "distance after 3 layers: 0" in text
    assert "The tokens after the word cannot affect it." in text


def test_equal_embeddings_have_no_distance():
    assert "Nothing: the two embeddings are equal." in drawn(compared("The old river ran", "A river", layer=0))


def test_a_word_of_several_tokens_has_a_note():
    tokenizer = byte_tokenizer()
    texts = [tokenizer.pieces(text) for text in ("a cat", "one cat")]
    found = compare(tiny_model(vocab_size=257), texts, find_words(texts, ["cat"]))
    text = drawn(found)
    assert "The word has 3 tokens. The last one is compared" in text
    assert "· cat in two texts" in text


def test_a_comparison_is_a_json_document_in_full_precision():
    found = compared()
    document = json.loads(json.dumps(comparison_document(found, "m"), allow_nan=False))
    assert list(document) == [
        "model", "layers", "heads", "cosines", "cosines_of_other_pairs", "after_layers", "distance", "feed_forward",
        "embedding", "texts",
    ]  # fmt: skip
    assert document["cosines"] == found.cosines.tolist()
    for text, word in zip(document["texts"], found.words, strict=True):
        assert text["pulls"] == word.pulls.tolist()
        assert text["word"] == {"first": word.first, "last": word.at}
    lonely = replace(found, others=None)
    assert comparison_document(lonely, "m")["cosines_of_other_pairs"] is None
    assert "other pairs" not in drawn(lonely)


# The command


def test_the_command_compares_a_word_in_two_texts(in_model_folder, capsys):
    code, out, err = ask(capsys, "compare", A, B, "--token", "river")
    assert (code, err) == (0, "")
    assert "␣river in two texts" in out
    assert max(map(len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "compare", A, B, "--token", "river", "--layer", "2", "--json")[1])
    assert (document["model"], document["after_layers"]) == ("m", 2)
    shared = ask(capsys, "compare", "the old river", "a cold river")[1]
    assert "␣river in two texts" in shared


def test_compare_refuses_wrong_output_files_before_it_loads_a_model(in_model_folder, capsys):
    (in_model_folder / "there.svg").write_text("mine")
    for arguments, expected, message in (
        (["--svg", "."], 2, "is a directory"),
        (["--svg", "there.svg"], 2, "there.svg exists"),
        (["--svg", "no/where.svg"], 4, "no directory no"),
        (["--svg", "a", "--html", "a"], 2, "name the same file"),
        (["--svg", "a.png"], 2, "does not write files such as a.png"),
        (["--html", "x" * 300], 2, "cannot be a file"),
        (["--html", "/dev/null"], 2, "not a regular file"),
    ):
        code, out, err = ask(capsys, "compare", A, B, "-m", "nothing", *arguments)
        assert (code, out) == (expected, "")
        assert message in err
    assert (in_model_folder / "there.svg").read_text() == "mine"
    assert ask(capsys, "compare", A, B, "--token", "river", "--svg", "there.svg", "--force")[0] == 0
    assert (in_model_folder / "there.svg").read_text().startswith("<svg ")
    assert sorted(path.name for path in in_model_folder.iterdir()) == ["checkpoints", "there.svg"]
