"""Ablation equals the same change made by hand, and the screen of `attncli ablate` shows its effects."""

import json
import math

import pytest
import torch
from rich.cells import cell_len

from attncli.errors import BadInput, UsageProblem
from attncli.explain.ablated_pass import Without
from attncli.explain.ablation import Ablation, Effect, ablate, edges_between
from attncli.explain.next_token import NextToken
from attncli.explain.reading import Reading
from attncli.render.ablation import ablation_document, ablation_screen
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.checkpoints import write_random_model
from tests.support.commands import ask
from tests.support.explanations import causal_axes
from tests.support.models import Recorder, tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
PIECES = TOKENIZER.pieces("The small cat sat near the river")
IDS = torch.tensor([[piece.id for piece in PIECES]])
LAST = len(PIECES) - 1


def model_of(family):
    return tiny_model(vocab_size=300, dtype=torch.float64, **family)


def ablated(model, removed=None, **options):
    return ablate(Reading.of(model, PIECES), TOKENIZER, removed, **options)


@torch.no_grad()
def logs(model, at=LAST):
    return model(IDS)[0, at].log_softmax(-1)


@torch.no_grad()
def test_zero_ablation_equals_zeroing_the_columns_of_the_output_matrix(family):
    model = model_of(family)
    found = ablated(model)
    before = logs(model)
    assert found.before.log_probability == pytest.approx(float(before.max()), abs=1e-12)
    assert [effect.heads[0] for effect in found.effects] == [(layer, head) for layer in range(3) for head in range(4)]
    for effect in found.effects:
        (layer, head), width = effect.heads[0], model.config.head_width
        matrix = model.blocks[layer].attention.output.weight
        columns = slice(head * width, (head + 1) * width)
        kept = matrix[:, columns].clone()
        matrix[:, columns] = 0
        after = logs(model)
        matrix[:, columns] = kept
        assert effect.log_probability == pytest.approx(float(after[before.argmax()]), abs=1e-9)
        assert effect.next_tokens[0].id == int(after.argmax())
        assert effect.next_tokens[0].probability == pytest.approx(float(after.max().exp()), abs=1e-9)


@torch.no_grad()
def test_mean_ablation_gives_every_position_the_same_head_output(family):
    model = model_of(family)
    seen = Recorder()
    model(IDS, observe=seen)
    found = ablated(model, [Without(heads=((1, 2),))], replacement="mean")
    width, matrix = model.config.head_width, model.blocks[1].attention.output.weight
    columns = slice(2 * width, 3 * width)
    mixed = seen.steps[1].mixed[0, 2]  # (T, D)
    change = (mixed.mean(0) - mixed) @ matrix[:, columns].T

    def changed(module, inputs, output):
        return output + change

    with model.blocks[1].attention.output.register_forward_hook(changed):
        after = logs(model)
    assert found.effects[0].log_probability == pytest.approx(float(after[logs(model).argmax()]), abs=1e-9)


def test_an_empty_ablation_changes_neither_prediction_nor_model(family):
    model = model_of(family)
    before = logs(model)
    found = ablated(model, [Without(), Without(heads=((0, 0), (2, 3)))])
    assert found.drop(found.effects[0]) == pytest.approx(0, abs=1e-12)  # a wider batch rounds sums differently
    assert abs(found.drop(found.effects[1])) > 1e-6
    assert torch.equal(logs(model), before)
    assert not any(block.attention.output._forward_pre_hooks for block in model.blocks)


def test_ablations_agree_batched_and_alone(family):
    model = model_of(family)
    together = [Without(heads=((0, 1), (0, 3), (1, 0))), Without(heads=((0, 1),)), Without(heads=((2, 2),))]
    batch = ablated(model, together)
    for one, effect in zip(together, batch.effects, strict=True):
        alone = ablated(model, [one]).effects[0]
        assert alone.log_probability == pytest.approx(effect.log_probability, abs=1e-9)


def test_no_information_passes_a_cut_edge(family):
    """If every edge from token 2 is cut, replacing token 2 changes nothing. An edge inside the window has an effect."""
    model = model_of(family)
    everything = Without(edges=tuple((query, 2) for query in range(3, len(PIECES))))
    found = ablated(model, [everything, Without(edges=((LAST, LAST - 2),))])
    other = list(PIECES)
    other[2] = Piece(7, "x", 1)
    replaced = ablate(Reading.of(model, other), TOKENIZER, [everything])
    now, then = (effect.next_tokens for effect in (replaced.effects[0], found.effects[0]))
    assert [token.id for token in now] == [token.id for token in then]
    assert [token.probability for token in now] == pytest.approx([token.probability for token in then], abs=1e-9)
    assert abs(found.drop(found.effects[1])) > 0


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_the_prediction_of_an_earlier_token_ignores_later_tokens(replacement):
    model = model_of({})
    found = ablated(model, [Without(heads=((1, 1),))], token=3, replacement=replacement)
    without = Without(heads=((1, 1),))
    short = ablate(Reading.of(model, PIECES[:4]), TOKENIZER, [without], replacement=replacement)
    assert found.effects[0].log_probability == pytest.approx(short.effects[0].log_probability, abs=1e-9)
    assert found.token == 3


def test_padding_ids_are_never_predicted():
    model = tiny_model(vocab_size=TOKENIZER.vocab_size + 90)
    found = ablate(Reading.of(model, PIECES), TOKENIZER, [Without(heads=((0, 0),))])
    with torch.no_grad():
        logits = model(torch.tensor([[piece.id for piece in PIECES]]))[0, -1, : TOKENIZER.vocab_size]
    assert found.before.log_probability == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)
    assert found.before.next_tokens[0].id == int(logits.argmax())


def test_an_edge_named_by_words_is_cut_between_all_their_tokens():
    """Cutting an edge between words equals cutting each edge between their tokens by hand."""
    model, letters = tiny_model(vocab_size=257), byte_tokenizer()
    pieces = letters.pieces("a cat sat")
    reading = Reading.of(model, pieces)
    edges = edges_between(reading.axes, "sat", "cat")
    assert set(edges) == {(at, to) for at in (6, 7, 8) for to in (2, 3, 4)}
    found = ablate(reading, letters, [Without(edges=edges), Without(edges=((8, 4),))])
    assert found.effects[0].log_probability != found.effects[1].log_probability
    assert edges_between(reading.axes, "8", "4") == ((8, 4),)
    assert edges_between(reading.axes, "cat", "cat") == ((2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4))
    with pytest.raises(UsageProblem, match="comes later"):
        ablate(reading, letters, [Without(edges=edges_between(reading.axes, "cat", "sat"))])


@pytest.mark.parametrize(
    ("removed", "options", "message"),
    [
        (Without(heads=((3, 0),)), {}, "no layer 3"),
        (Without(heads=((0, 4),)), {}, "no head 4"),
        (Without(edges=((99, 0),)), {}, "no token 99"),
        (Without(edges=((2, 4),)), {}, "2 cannot look at 4, which comes later"),
        (Without(edges=((0, 0),)), {}, "nothing but itself"),
        (Without(edges=((5, 0),)), {"token": 3}, "Token 5 comes after token 3"),
        (Without(), {"token": 99}, "no token 99"),
    ],
)
def test_missing_tokens_heads_and_edges_are_refused(removed, options, message):
    with pytest.raises(UsageProblem, match=message) as raised:
        ablated(model_of({}), [removed], **options)
    assert "--" not in raised.value.hint  # the library names the setting


def test_a_text_that_is_empty_or_too_long_is_refused():
    with pytest.raises(BadInput, match="no tokens"):
        ablate(Reading.of(tiny_model(), []), TOKENIZER)
    with pytest.raises(BadInput, match="at most 96"):
        ablate(Reading.of(tiny_model(), [*PIECES] * 30), TOKENIZER)


# The screen


def effect(log_probability, first=7, heads=(), edges=()):
    names = [" and", " of", HOSTILE]
    order = [first, *(i for i in (7, 8, 9) if i != first)]
    tokens = [NextToken(i, names[i - 7], p) for i, p in zip(order, (math.exp(log_probability), 0.1, 0.01), strict=True)]
    return Effect(heads, edges, log_probability, tuple(tokens))


def found_of(*effects):
    pieces = tuple(Piece(at, text, len(text)) for at, text in enumerate(["He", " sat", HOSTILE]))
    before = effect(math.log(0.4))
    return Ablation(causal_axes(pieces), 2, 2, 1, "zero", before.next_tokens[0], before, effects)


HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]
EVERY = found_of(
    *(
        effect(math.log(p), first, (head,))
        for head, p, first in zip(HEADS, (0.4, 0.1, 0.39, 0.8), (7, 8, 7, 7), strict=True)
    )
)
ONE = found_of(effect(math.log(0.1), 8, ((0, 1),)))
EDGE = found_of(effect(math.log(0.1), 8, (), ((1, 0),)))
GOLDEN = """\
m · 2 layers x 2 heads

What follows ␣sat [1]?
␣and 40%, with every head in place

Without one head  its output replaced by zeros
head  nats P(␣and)
 0.1 -1.39     10% ██████████████████████████████ now ␣of
 1.1 +0.69     80% ███████████████
 1.0 -0.03     39% ▌
 0.0  0.00     40%

Every head  change in nats
  layer    .0    .1
      0  0.00 -1.39
      1 -0.03 +0.69

Heads can replace one another: small effects may add up to a large one.

m · 2 layers x 2 heads

What follows ␣sat [1]?
unchanged                           without head 0.1
␣and             40% █████▎         ␣of              10% █▎
␣of              10% █▎             ␣and             10% █▎
␛[2J␛]52;c;aG…    1% ▏              ␛[2J␛]52;c;aG…    1% ▏

P(␣and) 40% → 10%, -1.39 nats
its output, replaced by zeros

m · 2 layers x 2 heads

What follows ␣sat [1]?
unchanged                           without edge 1:0
␣and             40% █████▎         ␣of              10% █▎
␣of              10% █▎             ␣and             10% █▎
␛[2J␛]52;c;aG…    1% ▏              ␛[2J␛]52;c;aG…    1% ▏

P(␣and) 40% → 10%, -1.39 nats
cut in all heads of all layers; other paths remain
"""


def test_the_three_screens_look_as_expected():
    drawn = "\n".join(
        shown(ablation_screen(found, "m", 72, everything=found is EVERY), 72) for found in (EVERY, ONE, EDGE)
    )
    assert "".join(f"{line.rstrip()}\n" for line in drawn.splitlines()) == GOLDEN


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("found", [EVERY, ONE, EDGE], ids=["every", "one", "edge"])
def test_the_screen_fits_its_width_and_escapes_hostile_text(width, found):
    drawn = shown(ablation_screen(found, HOSTILE, width, everything=found is EVERY), width)
    assert widest(drawn) <= width
    assert harmless(drawn)


def test_the_document_has_every_effect():
    document = json.loads(json.dumps(ablation_document(EVERY, "m"), allow_nan=False))
    assert list(document) == ["model", "tokens", "token", "replacement", "predicted", "before", "effects"]
    assert document["predicted"] == {"id": 7, "text": " and"}
    assert document["before"]["drop_nats"] == 0
    assert [one["heads"] for one in document["effects"]] == [[list(head)] for head in HEADS]
    assert document["effects"][1]["drop_nats"] == pytest.approx(math.log(4))
    assert document["effects"][1]["next_tokens"][0]["id"] == 8


def test_a_screen_of_many_edges_counts_and_lists_them():
    edges = tuple((at, to) for at in (5, 6, 7) for to in (1, 2))
    drawn = shown(ablation_screen(found_of(effect(-1.0, edges=edges)), "m", 60, everything=False), 60)
    assert "without 6 edges" in drawn
    assert "6 edges: 5:1 5:2 6:1 6:2 7:1 7:2\n" in drawn


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ablation")
    write_random_model(place / "checkpoints/m", TOKENIZER)
    return place


TEXT = "The small cat sat near the river"


def test_the_command_ablates_heads_and_edges(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for options in (
        [],
        ["--head", "1.2"],
        ["--head", "1.2", "--head", "0.0", "--with", "mean"],
        ["--edge", "river:cat"],
    ):
        code, out, err = ask(capsys, "ablate", TEXT, *options)
        assert (code, err) == (0, "")
        assert "m · 3 layers x 4 heads" in out
        assert max(map(cell_len, out.splitlines())) <= 80
    assert "without edge" in out
    every = json.loads(ask(capsys, "ablate", TEXT, "--json")[1])
    one = json.loads(ask(capsys, "ablate", TEXT, "--head", "1.2", "--json")[1])
    assert len(every["effects"]) == 12
    assert every["effects"][6]["heads"] == [[1, 2]] == one["effects"][0]["heads"]
    assert every["effects"][6]["drop_nats"] == pytest.approx(one["effects"][0]["drop_nats"], abs=1e-5)
    cut = json.loads(ask(capsys, "ablate", TEXT, "--edge", "6:2", "--token", "6", "--json")[1])
    assert cut["effects"][0]["edges"] == [[6, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "3"], "'3' is not a head"),
        (["--head", "0.9"], "no head 9"),
        (["--edge", "6"], "'6' is not an edge"),
        (["--edge", "2:4"], "comes later"),
        (["--edge", "dog:cat"], "no token 'dog'"),
        (["--head", "0.0", "--edge", "4:2"], "Give one of them"),
        (["--with", "magic"], "must be zero or mean"),
    ],
)
def test_an_error_has_at_most_two_lines(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    code, out, err = ask(capsys, "ablate", TEXT, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) <= 2
