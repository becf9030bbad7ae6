"""attncli align: links as lines and as JSON, the error rate beside the baselines, errors with line numbers."""

import json
import re

import pytest

import attncli
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import UsageProblem
from tests.support.alignments import GOLD_LINES
from tests.support.commands import ask, keys_of
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.places import ROOT
from tests.support.translation import artificial_tokenizer

PAIRS = "The dog sleeps.\tDer Hund schläft.\n\nThe cat is here, too.\tAuch die Katze ist hier.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The directory of a random encoder-decoder with a context of 48 tokens."""
    tokenizer = artificial_tokenizer()
    network = tiny_model(**ENCODER_DECODERS["m2m100"], vocab_size=tokenizer.vocab_size, context=48)
    path = tmp_path_factory.mktemp("models") / "en-de"
    write_checkpoint(path, Checkpoint(network.config, network.state_dict(), tokenizer, 2))
    return str(path)


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    return str(tmp_path / "pairs.tsv")


@pytest.mark.parametrize(
    ("method", "note"),
    [
        ("combined", "links are those of an HMM, trained on 2 pairs, whose prior is what each prediction loses"),
        ("predictions", "links are read from what each prediction loses without each source word"),
        ("attention", "of 8 selections, this agrees best with what each prediction loses without each source word"),
    ],
)
def test_a_line_of_links_for_each_pair(method, note, model, pairs, capsys):
    code, out, err = ask(capsys, "align", pairs, "-m", model, "--method", method)
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 2)
    for line, sizes in zip(lines, ((4, 4), (7, 6)), strict=True):
        links = [tuple(map(int, link.split("-"))) for link in line.split()]
        assert links == sorted(links)
        assert {i for i, _ in links} <= set(range(sizes[0]))
        assert {j for _, j in links} <= set(range(sizes[1]))
    assert note in err


def test_few_pairs_are_aligned_by_predictions_and_many_by_an_hmm_too(model, pairs, tmp_path, capsys):
    chosen = ask(capsys, "align", pairs, "-m", model, "--method", "predictions")
    code, out, err = ask(capsys, "align", pairs, "-m", model)
    assert (code, out) == chosen[:2]
    assert "2 pairs are too few for --method combined" in err
    assert "too few" not in chosen[2]
    (tmp_path / "more.tsv").write_text("".join(f"no {at}\tnein {at}\n" for at in range(1)))
    train = ["--train-file", str(tmp_path / "more.tsv")]
    assert "an HMM, trained on 3 pairs" in ask(capsys, "align", pairs, "-m", model, *train)[2]
    sources, targets = zip(*(line.split("\t") for line in PAIRS.splitlines() * 2 if line), strict=True)
    for count, method in ((2, "predictions"), (3, "combined")):
        found = [attncli.load(model).align_all(sources[:count], targets[:count], method=one) for one in (None, method)]
        assert [one.links for one in found[0]] == [one.links for one in found[1]]


def test_the_document_the_library_and_two_files_give_the_same_links(model, pairs, tmp_path, capsys):
    chosen = ["--head", "1.2", "--shift", "input"]
    _, out, err = ask(capsys, "align", pairs, "-m", model, *chosen)
    assert err.strip() == "links are read from cross-attention of head 1.2, where a target word is read (shift input)"
    document = json.loads(ask(capsys, "align", pairs, "-m", model, *chosen, "--json")[1])
    assert [" ".join(f"{i}-{j}" for i, j in pair["links"]) for pair in document["pairs"]] == out.splitlines()
    assert document["choice"]["heads"] == [[1, 2]]
    assert document["method"] == "attention"
    rows = [line.split("\t") for line in PAIRS.splitlines() if line]
    found = attncli.load(model).align_all(*map(list, zip(*rows, strict=True)), heads=[(1, 2)], shift="input")
    for alignment, pair in zip(found, document["pairs"], strict=True):
        assert [list(link) for link in alignment.links] == pair["links"]
        assert list(alignment.link_weights) == pytest.approx(pair["weights"], abs=1e-6)
    for name, column in (("en.txt", 0), ("de.txt", 1)):
        (tmp_path / name).write_text("".join(f"{row[column]}\n" for row in rows))
    files = ["--source", str(tmp_path / "en.txt"), "--target", str(tmp_path / "de.txt")]
    assert ask(capsys, "align", *files, "-m", model, *chosen)[1] == out


def test_one_pair_in_the_library(model):
    for asked in ({"layer": 0}, {"method": "predictions"}, {}):
        alignment = attncli.load(model).align("The dog sleeps.", "Der Hund schläft.", **asked)
        assert alignment.source == ("The", "dog", "sleeps", ".")
        assert alignment.weights.shape == (4, 4)
    for asked in ({"layer": 0, "method": "combined"}, {"method": "none"}):
        with pytest.raises(UsageProblem, match="is not one that can be used here"):
            attncli.load(model).align("The dog sleeps.", "Der Hund schläft.", **asked)
    with pytest.raises(UsageProblem, match="as many targets as sources"):
        attncli.load(model).align_all(["a", "b"], ["a"])


def test_every_key_of_the_document_is_explained(model, tmp_path, capsys):
    (tmp_path / "gold.tsv").write_text("\n".join(GOLD_LINES))
    document = json.loads(ask(capsys, "align", "--gold", str(tmp_path / "gold.tsv"), "-m", model, "--json")[1])
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = page.partition("## attncli align\n")[2].partition("\n## ")[0]
    names = {*document["scores"]["baselines"]}
    assert keys_of(document) - set(re.findall(r"`([\w-]+)`", section)) - names == set()


def test_the_error_rate_beside_the_baselines(model, tmp_path, capsys):
    (tmp_path / "gold.tsv").write_text("\n".join(GOLD_LINES))
    code, out, _ = ask(capsys, "align", "--gold", str(tmp_path / "gold.tsv"), "-m", model)
    assert code == 0
    assert "20 pairs of" in out
    names = ["combined", "predictions", "attention", "HMM", "IBM", "diagonal"]
    assert [line.split()[0] for line in out.splitlines() if line.endswith("%")] == names
    (tmp_path / "more.tsv").write_text(PAIRS)
    options = ["--gold", str(tmp_path / "gold.tsv"), "--train-file", str(tmp_path / "more.tsv"), "--layer", "1"]
    document = json.loads(ask(capsys, "align", *options, "-m", model, "--json")[1])
    scores = document["scores"]
    assert scores["trained_on"] == 22
    assert scores["model"] == scores["methods"]["attention"]
    assert scores["baselines"]["HMM"]["error_rate"] < scores["baselines"]["diagonal"]["error_rate"]
    assert document["pairs"][0]["source"] == ["The", "dog", "sleeps", "."]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{pairs}", "-m", "stories"], 2, "stories is a decoder alone"),
        (["{pairs}", "-m", "{model}", "--head", "9.0"], 2, "There is no layer 9"),
        (["{pairs}", "-m", "{model}", "--head", "x"], 2, "is not a head"),
        (["{pairs}", "-m", "{model}", "--layer", "0", "--head", "0.0"], 2, "cannot be combined"),
        (["{pairs}", "-m", "{model}", "--method", "predictions", "--head", "0.0"], 2, "reads no attention"),
        (["{pairs}", "-m", "{model}", "--method", "predictions", "--train-file", "{pairs}"], 2, "trains nothing"),
        (["{pairs}", "-m", "{model}", "--split", "tokens", "--train-file", "{pairs}"], 2, "is trained on words"),
        (["-m", "{model}"], 2, "Give pairs in one way"),
        (["--source", "{pairs}", "-m", "{model}"], 2, "are given together"),
        (["{long}", "-m", "{model}"], 3, "long.tsv, line 3: the target has"),
        (["--gold", "{empty}", "-m", "{model}"], 3, "empty.tsv, line 2: the source has no words"),
    ],
)
def test_errors_name_the_option_or_the_line(arguments, code, message, model, pairs, tmp_path, capsys):
    (tmp_path / "long.tsv").write_text(f"a\tb\n\na\t{'no ' * 60}\n")
    (tmp_path / "empty.tsv").write_text("a\tb\t0-0\n \tb\t\n")
    places = {name: tmp_path / f"{name}.tsv" for name in ("long", "empty")}
    given = [argument.format(model=model, pairs=pairs, **places) for argument in arguments]
    failed, out, err = ask(capsys, "align", *given)
    assert (failed, out) == (code, "")
    assert message in err
