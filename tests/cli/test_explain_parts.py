"""`attncli explain` with an encoder-decoder, and with an encoder alone."""

import csv
import json

import numpy as np
import pytest
import torch

import attncli
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.main import run
from attncli.errors import UsageProblem
from tests.support.encoders import write_bert
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.translations import TOKENIZER

SOURCE, TARGET = "The dog sings.", "Der Hund singt laut."
VIEWS = ("bars", "map", "grid", "steps", "lens", "logit", "rollout")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), TOKENIZER, start_of_text=2))
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "bert"
    write_bert(path)
    return path


def told(capsys, *arguments, code=0):
    assert run(["explain", *map(str, arguments)]) == code
    written = capsys.readouterr()
    return written.out if code == 0 else written.err


def test_the_first_screen_shows_source_and_target_with_their_cuts(translator, capsys):
    shown = told(capsys, SOURCE, "-m", translator, "--target", TARGET, "--token", "Hund", "--words")
    assert "Where does ␣Hund [2] come from?" in shown
    assert shown.index("from the source") < shown.index("\n1 ␣dog") < shown.index("from the target")
    assert "cut: P(␣Hund)" in shown
    assert "of cross-attention: it agrees best with the predictions" in shown
    assert "Candidates for the first token of ␣Hund [2]" in shown


def test_sources_with_the_same_index_are_named_with_their_text(translator, capsys):
    shown = told(capsys, SOURCE, "-m", translator, "--target", TARGET, "--compare-weights")
    assert "source 1 " in shown
    assert "target 1 " in shown


def test_without_a_target_the_models_own_translation_is_explained(translator, capsys):
    own = json.loads(told(capsys, SOURCE, "-m", translator, "--json", "--no-check"))
    ids = [token["id"] for token in own["tokens"] if token["of"] == "target"]
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    source = torch.tensor([[token["id"] for token in own["tokens"] if token["of"] == "source"]])
    expected = theirs.generate(source, max_new_tokens=len(ids), do_sample=False, num_beams=1)[0].tolist()
    assert expected[: len(ids)] == ids


def test_the_document_names_both_texts(translator, capsys):
    found = json.loads(told(capsys, SOURCE, "-m", translator, "--target", TARGET, "--token", "2", "--json"))
    assert (found["attention"], found["sources"]["focus"]) == ("both", 2)
    assert [token["text"] for token in found["queries"]] == [piece.text for piece in TOKENIZER.pieces(TARGET)] + [
        "</s>"
    ]
    assert found["queries"][0]["index"] == 1
    of = [token["of"] for token in found["tokens"]]
    assert of == sorted(of)
    shares = [share for share in found["sources"]["shares"] if share is not None]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == of.count("source") + 2
    assert len(found["map"]["weights"][0]) == of.count("source")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("part", [None, "encoder", "decoder", "cross"])
def test_every_view_shows_each_part_or_says_why_not(view, part, translator, capsys):
    arguments = [SOURCE, "-m", translator, "--target", TARGET, "--view", view, *(["--part", part] if part else [])]
    refused = part is not None and (view in ("lens", "logit") or (view, part) == ("rollout", "cross"))
    shown = told(capsys, *arguments, code=2 if refused else 0)
    if not refused:
        assert json.loads(told(capsys, *arguments, "--json"))["model"] == "tiny"
        assert "attncli" not in shown
    else:
        assert shown.startswith("error: ")


@pytest.mark.parametrize("part", [None, "encoder", "decoder", "cross"])
def test_plain_sentences_and_files_of_each_part(part, translator, capsys, tmp_path):
    chosen = ["--part", part] if part else []
    arguments = [SOURCE, "-m", translator, "--target", TARGET, *chosen]
    table, arrays, picture = tmp_path / "a.csv", tmp_path / "a.npz", tmp_path / "a.svg"
    said = told(capsys, *arguments, "--plain", "--csv", table, "--npz", arrays, "--svg", picture)
    assert "█" not in said
    assert ("of the source" in said) == (part is None)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    assert ("of" in rows[0]) == (part is None)
    with np.load(arrays) as stored:
        np.testing.assert_allclose(stored["weights"].sum(-1), 1, atol=1e-5)
        assert stored["weights"].shape[2:] == (len(stored["row_ids"]), len(stored["ids"]))
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "1.2"], "--head is ambiguous"),
        (["--generate", "3"], "translates it"),
        (["--token", "dog"], "There is no token 'dog' in the target text"),
        (["--token", "dog"], "For a token of the source text, add --part encoder."),
        (["--token", "Hund", "--part", "encoder"], "There is no token 'Hund' in the source text"),
        (["--token", "0"], "There is no token 0"),
        (["--part", "cross", "--view", "rollout"], "are different tokens"),
        (["--part", "cross", "--layer", "7"], "There is no layer 7"),
    ],
)
def test_what_does_not_apply_is_refused(options, message, translator, capsys):
    assert message in told(capsys, SOURCE, "-m", translator, "--target", TARGET, *options, code=2)


def test_a_decoder_alone_has_no_other_part_and_no_target_text(model_folder, capsys):
    demo = model_folder / "checkpoints" / "m"
    assert "has no encoder" in told(capsys, "a", "-m", demo, "--part", "cross", code=2)
    refused = told(capsys, "a", "-m", demo, "--target", "b", "--view", "lens", code=2)
    assert "It goes with --view logit, and with a model that translates." in refused


def test_the_library_explains_a_translation(translator):
    model = attncli.load(translator)
    found = model.explain(SOURCE, target=TARGET, token="Hund", words=True)
    assert found.focus.text == " Hund"
    with pytest.raises(UsageProblem, match="generate continues a text, and tiny translates it"):
        model.explain(SOURCE, target=TARGET, generate=3)
    assert (
        model.explain(SOURCE, view="map", part="encoder", target=TARGET).map.weights.shape[0]
        == len(model.tokenizer.pieces(SOURCE)) + 1
    )


# An encoder alone


@pytest.mark.parametrize("view", [None, *VIEWS])
def test_an_encoder_alone_is_explained(view, bert, capsys):
    arguments = ["The [MASK] barked.", "-m", bert, *([] if view is None else ["--view", view])]
    shown = told(capsys, *arguments, code=2 if view == "logit" else 0)
    if view is None:
        assert "[MASK] [2] get its information?" in shown
        assert "Candidates for" in shown
        assert "--view lens" in shown
        assert "--view logit" not in shown
        assert "special token" in shown
        assert "--view lens" in shown
        assert "--view logit" not in shown
    if view == "logit":
        assert "its head has an activation" in shown


@pytest.mark.parametrize("view", ["lens", "logit"])
def test_an_encoder_without_a_head_has_no_logits(view, bert, tmp_path, capsys):
    transformers.BertModel.from_pretrained(bert).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    assert "Candidates" not in told(capsys, "The dog barked.", "-m", tmp_path)
    assert "predicts no words" in told(capsys, "The dog barked.", "-m", tmp_path, "--view", view, code=2)


def test_a_cut_of_an_encoder_alone_changes_the_masked_word(bert, capsys):
    found = json.loads(told(capsys, "The [MASK] barked.", "-m", bert, "--json"))
    theirs = transformers.BertForMaskedLM.from_pretrained(bert).eval()
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    with torch.no_grad():
        probabilities = theirs(ids).logits[0, 2].softmax(-1)
    assert found["checks"]["token"]["id"] == int(probabilities.argmax())
    assert found["checks"]["token"]["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert len({cut["probability"] for cut in found["checks"]["cuts"]}) > 2
    assert all(share > 0 for share in found["sources"]["shares"])


# Other commands


def test_faithful_says_in_a_line_why_it_refuses(translator, capsys):
    assert run(["faithful", *[f"{SOURCE} {SOURCE}"] * 8, "-m", str(translator)]) == 2
    message, hint = capsys.readouterr().err.splitlines()[:2]
    assert message.startswith("error: tiny translates, and this command ")
    assert "attncli explain" in hint


def test_neighbors_and_analogies_of_embeddings_need_no_stack(translator, capsys):
    assert run(["neighbors", "dog", "-m", str(translator)]) == 0
    assert run(["analogy", "dog", "Hund", "sings", "-m", str(translator)]) == 0
    capsys.readouterr()


@torch.no_grad()
def test_a_word_in_two_texts_is_compared_in_the_encoder_of_transformers(translator, capsys):
    texts = SOURCE, "A small dog."
    assert run(["compare", *texts, "--token", "dog", "-m", str(translator), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    states = []
    for text, one in zip(texts, found["texts"], strict=True):
        ids = [token["id"] for token in one["tokens"]]
        assert ids == [*TOKENIZER.encode(text), 2]
        assert len(one["shares"]) == len(ids)
        encoded = theirs.model.encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
        states.append([state[0, one["word"]["last"]] for state in encoded])
    assert found["attention"] == "encoder"
    assert len(found["cosines"]) == 3
    # The last hidden state of transformers is after the final norm.
    expected = [float(torch.cosine_similarity(a, b, 0)) for a, b in zip(*states, strict=True)][:-1]
    assert found["cosines"][:-1] == pytest.approx(expected, abs=1e-5)
    parts = [pull for one in found["texts"] for pull in one["pulls"]]
    assert sum(parts) + found["feed_forward"] + found["embedding"] == pytest.approx(found["distance"], rel=1e-5)
    assert run(["compare", *texts, "--token", "dog", "-m", str(translator)]) == 0
    assert "The encoder reads both texts" in capsys.readouterr().out


@torch.no_grad()
def test_neighbors_in_a_text_are_those_of_the_encoder(translator, capsys):
    assert run(["neighbors", "dog", "--in", SOURCE, "--layer", "1", "-m", str(translator), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    ids = [*TOKENIZER.encode(SOURCE), 2]
    state = theirs.model.encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    at = ids.index(TOKENIZER.encode(" dog")[0])
    cosines = torch.cosine_similarity(state[at], theirs.model.shared.weight, -1)
    near = found["nearest"]
    assert [token["cosine"] for token in near] == pytest.approx(cosines.topk(10).values.tolist(), abs=1e-5)
