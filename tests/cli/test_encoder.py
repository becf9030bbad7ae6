"""The commands with BERT: masked words as in transformers, its tokens, and what an encoder alone cannot do."""

import json

import pytest
import torch

import attncli
from attncli.cli.main import run
from attncli.errors import BadInput, UsageProblem
from tests.support.encoders import write_bert
from tests.support.lazily import transformers

TEXT, PAIR = "The [MASK] barked at the [MASK].", "The cat ran."


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Returns a random BERT of transformers, and its directory."""
    path = tmp_path_factory.mktemp("models") / "bert"
    return write_bert(path), path


def told(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def expected(bert, *texts):
    """Returns the index of each mask, and the probabilities (V,) there, from transformers."""
    model, path = bert
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"), model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    inputs = tokenizer(*texts, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits[0].softmax(-1)
    return [(at.item(), probabilities[at]) for at in (inputs["input_ids"][0] == 4).nonzero().flatten()]


def test_next_gives_the_words_of_transformers_for_every_mask(bert, capsys):
    found = told(capsys, "next", TEXT, "-m", str(bert[1]), "-t", "1", "-k", "5")
    for mask, (at, probabilities) in zip(found["masks"], expected(bert, TEXT), strict=True):
        assert mask["index"] == at
        top = probabilities.topk(5)
        assert [token["id"] for token in mask["tokens"]] == top.indices.tolist()
        assert [token["probabilities"][0] for token in mask["tokens"]] == pytest.approx(top.values.tolist(), abs=1e-5)
        assert mask["others"][0] == pytest.approx(1 - top.values.sum().item(), abs=1e-5)


def test_the_library_fills_the_masks_of_a_pair_as_transformers_does(bert):
    for texts in ((TEXT,), (TEXT, PAIR), ("The dog barked.", TEXT)):
        found = attncli.load(bert[1]).fill(*texts, temperatures=1, count=3)
        for mask, (at, probabilities) in zip(found, expected(bert, *texts), strict=True):
            assert mask.mask == at
            values = [token.probabilities[0] for token in mask.tokens]
            assert values == pytest.approx(probabilities.topk(3).values.tolist(), abs=1e-5)


def test_next_reads_a_pair(bert, capsys):
    found = told(capsys, "next", TEXT, "--pair", PAIR, "-m", str(bert[1]), "-t", "1", "-k", "1")
    values = [mask["tokens"][0]["probabilities"][0] for mask in found["masks"]]
    assert values == pytest.approx([column.max().item() for _, column in expected(bert, TEXT, PAIR)], abs=1e-5)
    assert run(["next", TEXT, "--pair", PAIR, "-m", "stories"]) == 2
    assert "stories reads no pairs of texts" in capsys.readouterr().err


def test_the_screen_of_next_names_each_mask(bert, capsys):
    assert run(["next", TEXT, "-m", str(bert[1])]) == 0
    screen = capsys.readouterr().out
    assert "What [MASK] number 1 may stand for" in screen
    assert "What [MASK] number 2 may stand for" in screen
    assert run(["next", "The [MASK] barked.", "-m", str(bert[1])]) == 0
    assert "What [MASK] may stand for" in capsys.readouterr().out


def test_a_text_without_a_mask_is_refused_with_an_example(bert, capsys):
    assert run(["next", "The dog barked.", "-m", str(bert[1])]) == 3
    assert 'attncli next "The [MASK] barked."' in capsys.readouterr().err
    with pytest.raises(BadInput, match="34 tokens"):
        attncli.load(bert[1]).fill("[MASK] " * 32)


def test_tokenize_shows_the_tokens_around_a_text_and_decodes_without_them(bert, capsys):
    found = told(capsys, "tokenize", "The dog [MASK].", "-m", str(bert[1]))
    assert [token["text"] for token in found["tokens"]] == ["[CLS]", "The", " dog", " [MASK]", ".", "[SEP]"]
    assert [token["of_text"] for token in found["tokens"]] == [False, True, True, True, True, False]
    assert run(["tokenize", "The dog", "--ids", "-m", str(bert[1])]) == 0
    ids = capsys.readouterr().out
    assert ids.split()[0] == "2"
    assert ids.split()[-1] == "3"
    assert run(["tokenize", "--decode", ids, "-m", str(bert[1])]) == 0
    assert capsys.readouterr().out == "the dog\n"
    assert run(["tokenize", "The dog", "-m", str(bert[1])]) == 0
    assert "[SEP] is not part of the text: the tokenizer adds it after every text" in capsys.readouterr().out


def test_explain_reads_a_pair_with_the_weights_of_transformers(bert, capsys):
    arguments = ["explain", "The dog barked.", "--pair", PAIR, "-m", str(bert[1])]
    found = told(capsys, *arguments, "--view", "map", "--head", "1.2")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(bert[1] / "tokenizer.json"), model_input_names=["input_ids", "token_type_ids"]
    )
    inputs = tokenizer("The dog barked.", PAIR, return_tensors="pt")
    eager = transformers.BertForMaskedLM.from_pretrained(bert[1], attn_implementation="eager")
    with torch.no_grad():
        weights = eager(**inputs, output_attentions=True).attentions[1][0, 2]
    torch.testing.assert_close(torch.tensor(found["map"]["weights"]), weights, rtol=0, atol=1e-5)
    assert run([*arguments[:-1], "stories"]) == 2
    assert "stories reads no pairs of texts" in capsys.readouterr().err


def hidden_states(bert, text):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bert[1] / "tokenizer.json"))
    with torch.no_grad():
        return [states[0] for states in bert[0](**tokenizer(text, return_tensors="pt"), output_hidden_states=True)[1]]


def test_compare_reads_the_whole_text_and_gives_the_cosines_of_transformers(bert, capsys):
    texts = "The dog barked.", "A dog runs."
    found = told(capsys, "compare", *texts, "--token", "dog", "-m", str(bert[1]))
    pairs = zip(*(hidden_states(bert, text) for text in texts), strict=True)
    at = [text["word"]["last"] for text in found["texts"]]
    expected = [torch.cosine_similarity(one[at[0]], other[at[1]], 0).item() for one, other in pairs]
    assert found["cosines"] == pytest.approx(expected, abs=1e-5)
    assert (found["feed_forward"], found["embedding"], found["texts"][0]["pulls"]) == (None, None, None)
    for text in found["texts"]:
        assert len(text["shares"]) == len(text["tokens"])
        assert sum(text["shares"]) == pytest.approx(1)
    assert run(["compare", *texts, "--token", "dog", "-m", str(bert[1])]) == 0
    screen = capsys.readouterr().out
    assert "cannot affect" not in screen
    assert "A norm follows every sum" in screen


def test_neighbors_in_a_text_are_those_of_the_last_hidden_state(bert, capsys):
    found = told(capsys, "neighbors", "dog", "--in", "The dog barked.", "-k", "3", "-m", str(bert[1]))
    vectors = bert[0].get_input_embeddings().weight
    cosines = torch.cosine_similarity(hidden_states(bert, "The dog barked.")[-1][2], vectors, -1)
    near = found["nearest"]
    assert [token["cosine"] for token in near] == pytest.approx(cosines.topk(3).values.tolist(), abs=1e-5)


def test_info_shows_no_cache(bert, capsys):
    found = told(capsys, "info", str(bert[1]))
    assert found["memory_bytes"]["float32"]["cache_per_token"] == 0
    assert found["lengths"][-1] | {"tokens": 32, "attention_weights": 2 * 4 * 32 * 32} == found["lengths"][-1]
    assert run(["info", str(bert[1])]) == 0
    assert "none, because an encoder reads a text at once" in capsys.readouterr().out


def test_ablation_changes_the_masked_word(bert, capsys):
    found = told(capsys, "ablate", "The [MASK] barked.", "-m", str(bert[1]))
    ((_, probabilities),) = expected(bert, "The [MASK] barked.")
    assert found["token"] == 2
    assert found["predicted"]["id"] == int(probabilities.argmax())
    assert found["before"]["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert len(found["effects"]) == 8
    assert run(["ablate", "The [MASK] barked.", "-m", str(bert[1]), "--edge", "1:barked"]) == 0
    assert "Candidates for ␣[MASK] [2]" in capsys.readouterr().out
    paired = told(capsys, "ablate", "The [MASK] barked.", "--pair", PAIR, "-m", str(bert[1]), "--token", "2")
    assert paired["before"]["probability"] == pytest.approx(
        float(expected(bert, "The [MASK] barked.", PAIR)[0][1].max()), abs=1e-5
    )
    assert run(["ablate", "The dog", "--pair", PAIR, "-m", "stories"]) == 2
    assert "stories reads no pairs of texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["generate", "The dog"], "continues no text"),
        (["explain", "The dog", "--generate", "3"], "continues no text"),
        (["bench"], "continues no text"),
        (["next", "The [MASK].", "--truncate"], "continues no text, so --truncate does not apply"),
    ],
)
def test_a_command_that_an_encoder_alone_cannot_run_gives_the_reason(bert, capsys, arguments, why):
    assert run([*arguments, "-m", str(bert[1])]) == 2
    assert f"bert is an encoder alone, which {why}." in capsys.readouterr().err


def test_the_library_and_the_scores_refuse_an_encoder_alone(bert, tmp_path, capsys):
    model = attncli.load(bert[1])
    for call in (lambda: model.next("The"), lambda: model.score("The dog"), lambda: next(iter(model.generate("The")))):
        with pytest.raises(UsageProblem, match="bert is an encoder alone"):
            call()
    (tmp_path / "text.txt").write_text("The dog barked at the cat. " * 40)
    assert run(["eval", str(bert[1]), str(tmp_path / "text.txt")]) == 2
    assert "has no perplexity" in capsys.readouterr().err
    new = ["--out", str(tmp_path / "new"), "--steps", "1"]
    assert run(["train", str(tmp_path / "text.txt"), "--from", str(bert[1]), *new]) == 2
    assert "is not trained here" in capsys.readouterr().err
