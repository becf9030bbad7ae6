"""Scores of the heads of an encoder and of cross-attention equal their definition, by hand and on models."""

import json

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadInput, UsageProblem
from attncli.explain.encoder_heads import (
    CROSS_KINDS,
    ENCODER_KINDS,
    Frame,
    cross_patterns,
    encoder_patterns,
    heads_by_part,
)
from attncli.explain.heads import HEAD_KINDS, mean_weight
from attncli.render.heads import part_heads_document, part_heads_screen
from tests.support.commands import ask
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, ENCODERS, Recorder, tiny_model
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE
from tests.support.tokenizers import wordpiece
from tests.support.translations import TOKENIZER

PARTS = ("encoder", "decoder", "cross")
FRAME = Frame((3,), (2,), (2, 7), range(10, 90))
IDS = torch.tensor([3, 11, 12, 13, 11, 12, 13, 2])  # the same text twice, between an opening and a closing token
CPU = torch.device("cpu")


def looks(columns, count):
    return torch.eye(count, dtype=torch.float64)[torch.tensor(columns)]


def stacked(seen):
    """Returns the recorded weights (L, H, T, S)."""
    return torch.stack([steps.weights[0] for _, steps in sorted(seen.steps.items())])


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("previous", [0, 0, 1, 2, 3, 4, 5, 6]),
        ("next", [1, 2, 3, 4, 5, 6, 7, 7]),
        ("itself", range(8)),
        ("duplicate", [0, 4, 5, 6, 1, 2, 3, 0]),
        ("sink", [0] * 8),
        ("end", [7] * 8),
    ],
)
def test_a_perfect_head_of_an_encoder_scores_one(kind, columns):
    scores = dict(zip(ENCODER_KINDS, mean_weight(looks(list(columns), 8), encoder_patterns(IDS)).tolist(), strict=True))
    assert scores[kind] == 1
    assert all(score < 0.8 for other, score in scores.items() if other != kind)


@pytest.mark.parametrize(
    ("kind", "columns"),  # of the rows </s> 7 11 12 13 11 12 13, for the columns of IDS
    [("output", [0, 1, 2, 3, 4, 5, 6, 0]), ("input", [0, 0, 1, 2, 3, 4, 5, 6]), ("end", [7] * 8)],
)
def test_a_perfect_head_of_cross_attention_scores_one(kind, columns):
    scores = mean_weight(looks(columns, 8), cross_patterns(FRAME, 6, CPU))
    found = dict(zip(CROSS_KINDS, scores.tolist(), strict=True))
    assert found[kind] == 1
    assert all(score < 0.2 for other, score in found.items() if other != kind)


def test_without_a_closing_token_there_is_no_end():
    scores = mean_weight(torch.ones(8, 7) / 7, cross_patterns(Frame((3,), (), (2, 7), range(9)), 6, CPU))
    assert scores.isnan().tolist() == [False, False, True]


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_scores_of_every_family_equal_means_of_its_attention_weights(name):
    model = tiny_model(dtype=torch.float64, **ENCODER_DECODERS[name])
    found = heads_by_part(model, FRAME, length=4, sequences=2, seed=3)
    assert {part: one.layers for part, one in found.items()} == {
        "encoder": model.config.encoder_layers, "decoder": 3, "cross": 3,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    means = {part: [] for part in PARTS}
    for _ in range(2):
        drawn = torch.arange(10, 90)[torch.randperm(80, generator=generator)[:4]].tolist() * 2
        seen = {part: Recorder(part) for part in PARTS}
        source = model.read_source(torch.tensor([[3, *drawn, 2]]), observe=seen["encoder"])
        for part in ("decoder", "cross"):
            model(torch.tensor([[2, 7, *drawn]]), observe=seen[part], source=source)
        weights = {part: stacked(seen[part]) for part in PARTS}
        means["encoder"].append(
            [
                np.mean([weights["encoder"][:, :, row, row - 1].numpy() for row in range(1, 10)], 0),
                np.mean([weights["encoder"][:, :, row, row + 1].numpy() for row in range(9)], 0),
                np.mean([weights["encoder"][:, :, row, row].numpy() for row in range(10)], 0),
                np.mean([weights["encoder"][:, :, row, (row + 3) % 8 + 1].numpy() for row in range(1, 9)], 0),
                np.mean([weights["encoder"][:, :, row, 0].numpy() for row in range(1, 10)], 0),
                np.mean([weights["encoder"][:, :, row, 9].numpy() for row in range(9)], 0),
            ]
        )
        means["cross"].append(
            [
                np.mean([weights["cross"][:, :, row, row].numpy() for row in range(1, 9)], 0),
                np.mean([weights["cross"][:, :, row, row - 1].numpy() for row in range(2, 10)], 0),
                np.mean([weights["cross"][:, :, row, 9].numpy() for row in range(10)], 0),
            ]
        )
        means["decoder"].append(np.mean([weights["decoder"][:, :, row, row - 1].numpy() for row in range(1, 10)], 0))
    np.testing.assert_allclose(found["encoder"].scores, np.mean(means["encoder"], 0), atol=1e-12)
    np.testing.assert_allclose(found["cross"].scores, np.mean(means["cross"], 0), atol=1e-12)
    np.testing.assert_allclose(found["decoder"].scores[0], np.mean(means["decoder"], 0), atol=1e-12)
    assert found["decoder"].kinds == HEAD_KINDS
    np.testing.assert_allclose(found["cross"].chances, 1 / 10)
    np.testing.assert_allclose(found["encoder"].chances, 1 / 10)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_scores_of_an_encoder_alone_equal_means_of_its_attention_weights(name):
    model = tiny_model(dtype=torch.float64, **ENCODERS[name])
    frame = Frame((3,), (2,), (), range(10, 90))
    found = heads_by_part(model, frame, length=4, sequences=1, seed=3)["encoder"]
    drawn = torch.arange(10, 90)[torch.randperm(80, generator=torch.Generator().manual_seed(3))[:4]].tolist() * 2
    seen = Recorder()
    model(torch.tensor([[3, *drawn, 2]]), observe=seen)
    weights = stacked(seen).numpy()
    after = np.mean([weights[:, :, row, row + 1] for row in range(9)], 0)
    np.testing.assert_allclose(found.scores[ENCODER_KINDS.index("next")], after, atol=1e-12)
    assert found.errors is None


@pytest.mark.parametrize(("length", "sequences", "message"), [(1, 1, "length 1 is"), (48, 1, "48"), (4, 0, "repeats")])
def test_what_does_not_fit_is_refused(length, sequences, message):
    with pytest.raises(UsageProblem, match=message):
        heads_by_part(tiny_model(**ENCODER_DECODERS["m2m100"]), FRAME, length=length, sequences=sequences)
    with pytest.raises(BadInput, match="too few"):
        heads_by_part(tiny_model(**ENCODER_DECODERS["m2m100"], context=5), FRAME)


# The screen and the document


@pytest.fixture(scope="module")
def found():
    return heads_by_part(tiny_model(**ENCODER_DECODERS["m2m100"]), FRAME, length=4, sequences=2)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_screen_fits_its_width(found, width):
    for findings in (found, {"cross": found["cross"]}):
        drawn = shown(part_heads_screen(findings, HOSTILE, width, everyone=True, named=f" -m {HOSTILE}"), width)
        assert widest(drawn) <= width
        assert harmless(drawn)


def test_the_screen_names_every_attention_and_kind(found):
    drawn = shown(part_heads_screen(found, "m", 80), 80)
    parts = "m · 2 + 3 layers x 4 heads", "the encoder", "cross-attention", "attncli align"
    assert all(name in drawn for name in (*parts, *ENCODER_KINDS, *CROSS_KINDS))
    assert "the same token elsewhere" in drawn
    assert "the same token, before" in drawn


def test_the_document_has_every_attention(found):
    document = json.loads(json.dumps(part_heads_document(found, "m"), allow_nan=False))
    assert {part: list(one["kinds"]) for part, one in document["parts"].items()} == {
        "encoder": list(ENCODER_KINDS), "decoder": list(HEAD_KINDS), "cross": list(CROSS_KINDS),
    }  # fmt: skip
    assert np.shape(document["parts"]["encoder"]["kinds"]["next"]["scores"]) == (2, 4)
    assert document["next"] is None or document["next"]["part"] in PARTS


# The command


def test_the_command_scores_each_attention(tmp_path, capsys):
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    path = tmp_path / "tiny"
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), TOKENIZER, start_of_text=2))
    for options in ([], ["--part", "encoder", "--all"], ["--part", "cross"]):
        code, out, err = ask(capsys, "heads", str(path), "--repeats", "2", "--seed", "1", *options)
        assert (code, err) == (0, "")
        assert max(map(cell_len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "heads", str(path), "--repeats", "1", "--part", "decoder", "--json")[1])
    assert (list(document["parts"]), document["length"]) == (["decoder"], 5)


def test_the_command_scores_bert_without_a_mask(tmp_path, capsys):
    path, tokenizer = tmp_path / "bert", wordpiece()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    document = json.loads(ask(capsys, "heads", str(path), "--repeats", "2", "--length", "5", "--json")[1])
    assert list(document["kinds"]) == list(ENCODER_KINDS)
    assert document["kinds"]["next"]["chance"] == pytest.approx([1 / 12] * 2)
    assert "the token after" in ask(capsys, "heads", str(path), "--repeats", "2", "--length", "5")[1]
    assert "has no decoder" in ask(capsys, "heads", str(path), "--part", "cross")[2]
