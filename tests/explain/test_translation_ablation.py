"""Ablation in an encoder-decoder and in an encoder alone equals the same change made by hand, in every attention."""

import json

import pytest
import torch
from rich.cells import cell_len

from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import UsageProblem
from attncli.explain.ablated_pass import Without
from attncli.explain.ablation import ablate, edges_between
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.reading import BOTH, Reading, TextPair
from attncli.render.ablation import ablation_document, ablation_screen
from attncli.text.tokenizer import Piece
from tests.support.commands import ask
from tests.support.models import ENCODER_DECODERS, ENCODERS, Recorder, tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE
from tests.support.translations import TOKENIZER, translation

PARTS = ("encoder", "decoder", "cross")
TEXT = translation()
SOURCE, INPUTS = (torch.tensor([[piece.id for piece in pieces]]) for pieces in (TEXT.source, TEXT.inputs))
OUTPUTS = [piece.id for piece in TEXT.outputs]


@pytest.fixture(params=ENCODER_DECODERS)
def model(request):
    return tiny_model(dtype=torch.float64, vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS[request.param])


def ablated(model, removed=None, parts=PARTS, text=TEXT, **options):
    return ablate(Reading.translated(model, text, parts), TOKENIZER, removed, **options)


def attention(model, part, layer):
    block = (model.encoder if part == "encoder" else model).blocks[layer]
    return block.cross_attention if part == "cross" else block.attention


@torch.no_grad()
def logs(model, observe=None, encoder=None):
    """Returns the log-probabilities (T, V) of an independent pass."""
    return model(INPUTS, observe=observe, source=model.read_source(SOURCE, observe=encoder))[0].log_softmax(-1)


def of_targets(found):
    return [float(found[at, token]) for at, token in enumerate(OUTPUTS)]


@torch.no_grad()
def test_every_head_of_every_attention_is_ablated_as_if_its_columns_were_zero(model):
    found = ablated(model)
    assert found.before.by_token == pytest.approx(of_targets(logs(model)), abs=1e-9)
    assert found.before.log_probability == pytest.approx(sum(found.before.by_token))
    layers = {"encoder": model.config.encoder_layers, "decoder": 3, "cross": 3}
    assert found.parts == layers
    assert [(effect.part, *effect.heads[0]) for effect in found.effects] == [
        (part, layer, head) for part in PARTS for layer in range(layers[part]) for head in range(4)
    ]
    for effect in found.effects[::3]:
        (layer, head), width = effect.heads[0], model.config.head_width
        matrix = attention(model, effect.part, layer).output.weight
        columns = slice(head * width, (head + 1) * width)
        kept = matrix[:, columns].clone()
        matrix[:, columns] = 0
        after = logs(model)
        matrix[:, columns] = kept
        assert effect.by_token == pytest.approx(of_targets(after), abs=1e-9)
        assert found.drop(effect) == pytest.approx(found.before.log_probability - sum(of_targets(after)), abs=1e-8)
    assert max(abs(found.drop(effect)) for effect in found.effects if effect.part == "encoder") > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_a_token_alone_has_the_log_probability_that_it_has_in_the_translation(model, part):
    removed = [Without(heads=((1, 2), (0, 0)), part=part)]
    whole = ablated(model, removed, (part,))
    one = ablated(model, removed, (part,), token=2)
    for effect, of_whole in ((one.before, whole.before), (one.effects[0], whole.effects[0])):
        assert effect.log_probability == pytest.approx(of_whole.by_token[2], abs=1e-9)
        assert sum(token.probability for token in effect.next_tokens) <= 1 + 1e-9
    assert (one.predicted.id, whole.predicted) == (OUTPUTS[2], None)
    assert one.before.next_tokens[0].id == int(logs(model)[2].argmax())


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_the_mean_replaces_a_head_at_every_position(model, part):
    seen = Recorder(part)
    logs(model, *((None, seen) if part == "encoder" else (seen, None)))
    found = ablated(model, [Without(heads=((1, 2),), part=part)], replacement="mean")
    module, width = attention(model, part, 1), model.config.head_width
    mixed = seen.steps[1].mixed[0, 2]  # (T, D)
    change = (mixed.mean(0) - mixed) @ module.output.weight[:, 2 * width : 3 * width].T
    with module.output.register_forward_hook(lambda _module, _inputs, output: output + change):
        after = logs(model)
    assert found.effects[0].by_token == pytest.approx(of_targets(after), abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_an_edge_is_cut_in_every_layer_of_its_attention_only(model, part):
    edge = (2, 1)
    found = ablated(model, [Without(edges=(edge,), part=part)])
    keys = len(TEXT.inputs) if part == "decoder" else len(TEXT.source)
    cut = Knockout([Cut(frozenset({edge}))], {part: range(keys)})
    after = logs(model, *((None, cut) if part == "encoder" else (cut, None)))
    assert found.effects[0].by_token == pytest.approx(of_targets(after), abs=1e-9)
    assert found.effects[0].part == part
    assert abs(found.drop(found.effects[0])) > 1e-9
    if part != "encoder":
        assert found.effects[0].by_token[:2] == pytest.approx(found.before.by_token[:2], abs=1e-9)


def test_ablations_of_all_attentions_agree_batched_and_alone(model):
    together = [
        Without(heads=((0, 1), (1, 0)), part="encoder"),
        Without(edges=((3, 2), (2, 0)), part="cross"),
        Without(heads=((2, 2),)),
        Without(edges=((3, 1),), part="decoder"),
        Without(edges=((0, 1),), part="encoder"),
        Without(),
    ]
    batch = ablated(model, together)
    for one, effect in zip(together, batch.effects, strict=True):
        assert ablated(model, [one]).effects[0].by_token == pytest.approx(effect.by_token, abs=1e-9)
    assert batch.drop(batch.effects[-1]) == pytest.approx(0, abs=1e-9)
    assert not any(hooks for module in model.modules() if (hooks := module._forward_pre_hooks))


@torch.no_grad()
def test_forced_tokens_are_no_part_of_the_translation():
    model = tiny_model(dtype=torch.float64, vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    forced = TextPair(TEXT.source, (TEXT.inputs[0], Piece(9, "__de__", 0), *TEXT.inputs[1:]), TEXT.end)
    found = ablated(model, text=forced)
    assert len(found.before.by_token) == len(OUTPUTS)
    assert found.target == "Der Hund singt laut."
    assert [found.axes.row_index(row) for row in found.measured] == list(range(2, 2 + len(OUTPUTS)))


def test_edges_of_words_are_those_between_their_tokens(model):
    axes = {part: Reading.translated(model, TEXT, [part]).axes for part in PARTS}
    names = [piece.text for piece in TEXT.outputs]
    at = names.index(" Hund")
    (word,) = (at for at, piece in enumerate(TEXT.source) if piece.text == " dog")
    assert edges_between(axes["cross"], "Hund", "dog") == ((at, word),)
    assert edges_between(axes["cross"], str(at + 1), "dog") == ((at, word),)
    assert edges_between(axes["encoder"], "dog", "dog") == ((word, word),)


@pytest.mark.parametrize(
    ("removed", "options", "message"),
    [
        (Without(heads=((9, 0),), part="encoder"), {}, "no layer 9"),
        (Without(edges=((2, 90),), part="cross"), {}, "no token 90"),
        (Without(edges=((2, 3),), part="decoder"), {}, "Token 3 is predicted before token 3 is read"),
        (Without(edges=((0, 0),), part="decoder"), {}, "nothing but token 0"),
        (Without(edges=((4, 0),), part="cross"), {"token": 2}, "Token 5 comes after token 3"),
        (Without(), {"token": 90}, "no token 91"),
    ],
)
def test_what_does_not_exist_or_has_no_effect_is_refused(removed, options, message):
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    with pytest.raises(UsageProblem, match=message):
        ablated(model, [removed], **options)


# An encoder alone


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_a_head_of_an_encoder_alone_is_ablated_as_if_its_columns_were_zero(name):
    model = tiny_model(dtype=torch.float64, vocab_size=TOKENIZER.vocab_size, **ENCODERS[name])
    pieces = [Piece(2, "[CLS]", 0), *TOKENIZER.pieces("The dog sings."), Piece(2, "[SEP]", 0)]
    ids = torch.tensor([[piece.id for piece in pieces]])
    reading = Reading.of(model, pieces)
    before = model(ids)[0, 2].log_softmax(-1)
    found = ablate(reading, TOKENIZER, token=2)
    assert found.predicted.id == int(before.argmax())
    for effect in found.effects[::2]:
        (layer, head), width = effect.heads[0], model.config.head_width
        matrix = model.blocks[layer].attention.output.weight
        columns = slice(head * width, (head + 1) * width)
        kept = matrix[:, columns].clone()
        matrix[:, columns] = 0
        after = model(ids)[0, 2].log_softmax(-1)
        matrix[:, columns] = kept
        assert effect.log_probability == pytest.approx(float(after[before.argmax()]), abs=1e-9)
    later = ablate(reading, TOKENIZER, [Without(edges=((1, 4), (0, 0)))], token=2)  # no mask forbids these edges
    assert abs(later.drop(later.effects[0])) > 1e-9


# The screen and the document


@pytest.fixture(scope="module")
def found():
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    hostile = TextPair(TEXT.source, (*TEXT.inputs[:3], Piece(8, HOSTILE, 5), *TEXT.inputs[3:]), TEXT.end)
    long = translation(repeat=5)
    head = [Without(heads=((1, 1), (1, 2)), part="cross")]
    return [
        (ablated(model, text=hostile), True),
        (ablated(model, text=hostile, token=2), True),
        (ablated(model, head, text=hostile), False),
        (ablated(model, head, text=hostile, token=2), False),
        (ablated(model, [Without(edges=((2, 1), (2, 2)), part="encoder")], text=long), False),
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_screens_fit_their_width_and_escape_hostile_text(found, width):
    for finding, everything in found:
        drawn = shown(ablation_screen(finding, HOSTILE, width, everything=everything), width)
        assert widest(drawn) <= width
        assert harmless(drawn)


def test_the_screens_name_the_attention_and_the_tokens(found):
    every, token, heads, _, edges = (
        shown(ablation_screen(finding, "m", 80, everything=everything), 80) for finding, everything in found
    )
    assert "m · 2 + 3 layers x 4 heads" in every
    assert all(f"{part:>7}    .0" in every for part in PARTS)
    assert "How probable is ␛" in token
    assert "cross heads 1.1, 1.2" in heads
    assert "P(translation)" in heads
    assert "cut in all heads of the encoder" in edges
    assert "more" in edges


def test_the_document_has_both_texts_and_every_attention(found):
    every, token, _, _, edges = (json.loads(json.dumps(ablation_document(one, "m"))) for one, _ in found)
    assert every["layers"] == {"encoder": 2, "decoder": 3, "cross": 3}
    assert (every["token"], every["predicted"]) == (None, None)
    assert {one["of"] for one in every["tokens"]} == {"source", "target"}
    assert [one["index"] for one in every["before"]["by_token"]] == [one["index"] for one in every["queries"]]
    assert sum(one["log_probability"] for one in every["before"]["by_token"]) == pytest.approx(
        every["before"]["log_probability"]
    )
    assert {effect["part"] for effect in every["effects"]} == set(PARTS)
    assert token["token"] == 3
    assert "by_token" not in token["before"]
    assert edges["effects"][0]["edges"] == [[2, 1], [2, 2]]


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), TOKENIZER, start_of_text=2))
    return path


def test_the_command_ablates_each_attention(folder, capsys):
    text = ["ablate", "The dog sings.", "-m", str(folder)]
    target = ["--target", "Der Hund singt."]
    for options in (
        [],
        target,
        ["--part", "encoder"],
        [*target, "--token", "Hund"],
        [*target, "--part", "cross", "--head", "1.2", "--with", "mean"],
        [*target, "--part", "cross", "--edge", "Hund:dog"],
        [*target, "--part", "decoder", "--edge", "3:Der", "--token", "3"],
        [*target, "--part", "encoder", "--edge", "dog:The"],
    ):
        code, out, err = ask(capsys, *text, *options)
        assert (code, err) == (0, "")
        assert max(map(cell_len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, *text, *target, "--part", "decoder", "--edge", "3:Der", "--json")[1])
    assert (document["effects"][0]["edges"], document["effects"][0]["part"]) == ([[3, 1], [3, 2]], "decoder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "0.1"], "--head is ambiguous"),
        (["--edge", "1:0"], "--edge is ambiguous"),
        (["--part", "cross", "--edge", "Hund:cat"], "no token 'cat'"),
        (["--part", "none"], "must be encoder, decoder or cross"),
        (["--part", "encoder", "--head", "2.0"], "no layer 2"),
    ],
)
def test_an_error_has_at_most_two_lines(folder, capsys, arguments, message):
    code, out, err = ask(capsys, "ablate", "The dog sings.", "--target", "Der Hund", "-m", str(folder), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) <= 2


def test_a_model_that_does_not_translate_has_no_target_and_no_other_part(at_home, capsys):
    assert "does not translate" in ask(capsys, "ablate", "The cat", "--target", "Die")[2]
    assert "has no encoder" in ask(capsys, "ablate", "The cat", "--part", "cross")[2]


def test_both_attentions_of_the_decoder_are_the_axes(model):
    assert ablated(model, [Without()]).axes == Reading.translated(model, TEXT, BOTH).axes
