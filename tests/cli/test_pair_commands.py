"""`attncli train`, `eval`, `info` and `plot` on pairs: what they print, and the options that they refuse."""

import json
from pathlib import Path

import pytest

from attncli.evaluation import translation
from tests.support.commands import ask
from tests.support.pairs import made_pairs, write_pairs

SHORT = ["--steps", "30", "--size", "1x32", "--batch-size", "512", "--seed", "1", "--vocab-size", "350"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a folder with pairs, and with a model that was trained on them."""
    from attncli.cli.main import run

    folder = tmp_path_factory.mktemp("trained")
    write_pairs(folder / "toy.tsv", made_pairs())
    write_pairs(folder / "valid.tsv", made_pairs(60, seed=9))
    left, right = zip(*made_pairs(60, seed=9), strict=True)
    (folder / "en.txt").write_text("\n".join(left) + "\n")
    (folder / "de.txt").write_text("\n".join(right) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCLI_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", "toy.tsv", *SHORT]) == 0
    return folder


@pytest.fixture
def there(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("ATTNCLI_CACHE", str(trained / "cache"))
    return trained


def test_train_prints_translations_and_scores(there, capsys):
    code, out, err = ask(capsys, "train", "toy.tsv", *SHORT, "--out", "again")
    assert code == 0
    for shown in ("nats per token", "source", "reference", "BLEU", "chrF2", "nearest training source"):
        assert shown in out
    for line in (
        "pairs     toy.tsv:",
        "1 + 1 layer of encoder and decoder",
        "label smoothing 0.1",
        "  translates  The ",
    ):
        assert line in err
    assert "attncli generate -m again 'The " in err


def test_train_json_has_the_translations_and_their_scores(there, capsys, monkeypatch):
    monkeypatch.setattr(translation, "_installed", lambda: False)
    code, out, _ = ask(
        capsys, "train", "--pairs", "toy.tsv", *SHORT, "--out", "json", "--json", "--val-file", "valid.tsv"
    )
    document = json.loads(out)
    assert code == 0
    assert document["sample"] is None
    assert {"source", "output", "reference"} == document["examples"][0].keys()
    assert document["translation"]["model"] is None
    assert "pip install" in document["translation"]["not_scored"]
    assert document["validation"]["bits_per_byte"] > 0


def test_the_plan_of_pairs_names_its_batch(there, capsys):
    code, out, _ = ask(capsys, "train", "toy.tsv", *SHORT, "--plan", "--json", "--out", "none")
    plan = json.loads(out)
    assert code == 0
    assert (plan["batch_size"], plan["label_smoothing"]) == (512, 0.1)
    assert 0 < plan["step_tokens"] < 512
    assert not Path("none").exists()


def test_eval_scores_pairs_and_translations(there, capsys):
    documents = []
    for files in (
        ["toy", "valid.tsv"],
        ["toy", "--source", "en.txt", "--target", "de.txt"],
        ["-m", "toy", "--pairs", "valid.tsv"],
    ):
        code, out, _ = ask(capsys, "eval", *files, "--train-file", "toy.tsv", "--json")
        assert code == 0
        documents.append({key: value for key, value in json.loads(out).items() if key not in ("seconds", "sources")})
    assert documents[0] == documents[1] == documents[2]
    assert documents[0]["pairs"] == 60
    assert documents[0]["translation"]["nearest"]["bleu"] > 0
    code, out, _ = ask(capsys, "eval", "toy", "valid.tsv", "--beams", "2")
    assert "model, 2 beams" in out
    code, out, _ = ask(capsys, "eval", "toy", "valid.tsv")
    assert code == 0
    assert all(shown in out for shown in ("60 pairs", "nats per token", "model, greedy", "BLEU", "version:"))


def test_eval_says_that_the_model_was_trained_on_the_pairs(there, capsys):
    assert "was trained on these pairs" in ask(capsys, "eval", "toy", "toy.tsv")[2]
    assert "was trained on these pairs" not in ask(capsys, "eval", "toy", "valid.tsv")[2]
    known = ask(capsys, "eval", "toy", "valid.tsv", "--train-file", "valid.tsv")[2]
    assert "60 of 60 pairs have a source that is also in valid.tsv" in " ".join(known.split())


def test_info_and_plot_show_a_run_on_pairs(there, capsys):
    code, out, _ = ask(capsys, "info", "toy")
    assert code == 0
    assert "1 in the encoder, 1 in the decoder" in out
    assert "pairs)" in out
    assert "of cache per token of source and of target" in " ".join(out.split())
    assert "tokens of each text" in out
    assert ask(capsys, "plot", "toy")[0] == 0
    assert "AutoModelForSeq2SeqLM" in Path("checkpoints/toy/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "toy.tsv", "--pairs", "toy.tsv"], 2, "not on several of them"),
        (["train", "--source", "en.txt"], 2, "--source and --target belong together"),
        (["train", "toy.tsv", "--watch-heads", "--steps", "1", "--out", "x"], 2, "--watch-heads is for text"),
        (["train", "toy.tsv", "--compile", "--steps", "1", "--out", "x"], 2, "--compile is not for pairs"),
        (["train", "en.txt", "--label-smoothing", "0.1", "--steps", "1", "--out", "x"], 2, "is for pairs"),
        (["train", "--pairs", "en.txt", "--steps", "1", "--out", "x"], 3, "en.txt, line 1"),
        (["train", "en.txt", "--from", "toy", "--steps", "1", "--out", "x"], 2, "translates"),
        (["eval", "toy", "valid.tsv", "--last", "0.5"], 2, "--last is for text"),
        (["eval", "toy", "en.txt", "--pairs", "valid.tsv"], 2, "beside the files of pairs"),
        (["eval", "toy", "en.txt"], 3, "en.txt, line 1"),
    ],
)
def test_options_and_files_that_do_not_fit_pairs_are_refused(there, capsys, arguments, code, said):
    got, _, err = ask(capsys, *arguments)
    assert got == code
    assert said in " ".join(err.split())
