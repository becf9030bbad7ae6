"""The shipped models are complete and small, and their cards state measured scores."""

import hashlib
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from attncli.checkpoint import catalog, directory
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.text.files import read_documents
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.alignments import GOLD_LINES
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.pairs import made_pairs, write_pairs
from tests.support.places import ROOT

MOST = {"stories": 12_000_000, "translate": 6_000_000}  # bytes of each shipped model
SCORED = {  # the row of a card with the bits per byte that the run measured
    "stories": "this model, by `attncli eval`",
    "translate": "validation pairs, which chose the best weights",
}
MODELS = [pytest.param(ROOT / "checkpoints" / name, id=name) for name in catalog.SHIPPED]


def script(name):
    """Imports a script that made the shipped models."""
    return importlib.import_module(f"checkpoints.{name}")


def record(model):
    return json.loads((model / directory.RUN).read_text())


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_small_and_complete(model):
    assert sum(path.stat().st_size for path in model.rglob("*")) <= MOST[model.name]
    assert_complete(model)


def assert_complete(model):
    folder, listed = ModelFolder(model), json.loads((model / directory.MANIFEST).read_text())["sha256"]
    assert folder.foreign() == []
    for name in listed:
        folder.read(name)  # reading compares the file with its digest


@pytest.mark.parametrize("model", MODELS)
def test_the_run_record_contains_no_absolute_paths(model):
    run = record(model)
    places = [*run["corpus"]["sources"], run["corpus"]["val_file"], *([run["from"]] if "from" in run else [])]
    assert all(not Path(place).is_absolute() for place in places)


@pytest.mark.parametrize("model", MODELS)
def test_a_card_has_the_score_of_the_run(model):
    """A card scores all validation data in float32; the run scored a part of it, or in the training type."""
    card = (model / directory.CARD).read_text()
    assert len(script("card").MEASURED.findall(card)) == 1
    scored = float(card.split(SCORED[model.name])[1].split("|")[1])
    assert scored == pytest.approx(record(model)["results"]["bits_per_byte"], abs=0.002)


@pytest.mark.parametrize("model", MODELS)
def test_a_card_has_the_command_of_the_makefile(model):
    text = (ROOT / "Makefile").read_text()
    (command,) = re.findall(rf"^{model.name.upper()} := (.*?[^\\])$", text, re.MULTILINE | re.DOTALL)
    card = " ".join((model / directory.CARD).read_text().split())
    for option in re.findall(r"--[a-z-]+ [\w.]+", command.replace("\\\n", " ").replace("$(PAIRS)/", "")):
        assert option in card


def test_every_shipped_model_is_in_both_distributions():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    for name in catalog.SHIPPED:
        assert targets["wheel"]["force-include"][f"checkpoints/{name}"] == f"attncli/checkpoints/{name}"
        assert f"/checkpoints/{name}" in targets["sdist"]["include"]


@pytest.fixture
def translator(tmp_path):
    """Returns the directory of a tiny random model, with the record of a run on pairs."""
    tokenizer = train_pair_tokenizer([f"{source} {target}" for source, target in made_pairs()], "bpe", 300)
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300, "context": 160})
    run = {
        "plan": {"report_every": 2},
        "corpus": {"kind": "pairs", "sources": ["/far/away/train.tsv"], "val_file": "/far/away/valid.tsv"},
    }
    metrics = [{"kind": kind, "step": step} for step in range(2, 62, 2) for kind in ("step", "eval")]
    path, end = tmp_path / "translator", frozenset({2})
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, 2, run, metrics, end_ids=end))
    return path


def test_slim_keeps_every_tenth_report_of_a_step(translator, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["slim.py", str(translator)])
    script("slim").main()
    reports = [json.loads(line) for line in (translator / directory.METRICS).read_text().splitlines()]
    assert [report["step"] for report in reports if report["kind"] == "step"] == [20, 40, 60]
    assert sum(report["kind"] == "eval" for report in reports) == 30
    assert record(translator)["corpus"] == {"kind": "pairs", "sources": ["train.tsv"], "val_file": "valid.tsv"}
    assert_complete(translator)
    before = {path: path.read_bytes() for path in translator.iterdir()}
    script("slim").main()
    assert before == {path: path.read_bytes() for path in translator.iterdir()}


def test_the_card_of_a_translator_is_measured(translator, tmp_path, monkeypatch):
    card, pair_card, align = script("card"), script("pair_card"), importlib.import_module("benchmarks.align")
    rows = [line.split("\t") for line in GOLD_LINES]
    write_pairs(tmp_path / "tatoeba-en-de.train.tsv", made_pairs(60))
    write_pairs(tmp_path / "tatoeba-en-de.valid.tsv", made_pairs(10, 1))
    test = Path(write_pairs(tmp_path / "tatoeba-en-de.test.tsv", [(source, target) for source, target, _ in rows]))
    flipped = "".join(f"{target}\t{source}\t0-0\n" for source, target, _ in rows)
    (tmp_path / align.EUROPARL).write_text(flipped, encoding="utf-8")
    digests = [hashlib.sha256(line.encode()).hexdigest()[:16] for line in test.read_text("utf-8").splitlines()]
    gold = "".join(f"{n}\t{digest}\t{row[2]}\n" for n, (digest, row) in enumerate(zip(digests, rows, strict=True), 1))
    (tmp_path / "gold.tsv").write_text(f"# header\n{gold}")
    monkeypatch.setattr(align, "GOLD", tmp_path / "gold.tsv")
    monkeypatch.setattr(pair_card, "BEAMS", 2)
    page = translator / directory.CARD
    page.write_text("before\n<!-- measured -->\nreplaced\n<!-- end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["card.py", str(translator), str(tmp_path)])
    card.main()
    written = page.read_text()
    assert written.startswith(
        "before\n<!-- measured -->\n\n| 20 test sources, compared with 20 targets | BLEU | chrF2 |\n"
    )
    assert written.endswith("\n<!-- end -->\nafter\n")
    assert "replaced" not in written
    for row in (
        "greedy",
        "2 beams",
        "target of the nearest training source",
        "1 to 5: 7 sources",
        "10 validation pairs",
    ):
        assert f"\n| {row}" in written
    assert "| alignment error rate, in % | 20 test pairs | 20 pairs of Europarl |" in written
    assert all(f"\n| {sentence} | " in written for sentence in pair_card.SENTENCES)
    page.write_text("no place")
    with pytest.raises(SystemExit, match="has no place for the results"):
        card.main()


def test_short_copies_whole_stories_in_order(tmp_path, monkeypatch, capfdbinary):
    text = tmp_path / "t.txt"
    text.write_text("\nfirst\n\n<|endoftext|>\ntoo long\n<|endoftext|>\n\n<|endoftext|>\nsé\ncond <|endoftext|>\n")
    monkeypatch.setattr(sys, "argv", ["short.py", str(text), "25"])
    assert script("short").main() is None
    assert capfdbinary.readouterr().out.decode() == (
        "first\n<|endoftext|>\ntoo long\n<|endoftext|>\nsé\ncond <|endoftext|>\n"
    )
    monkeypatch.setattr(sys, "argv", ["short.py", str(text), "5"])
    script("short").main()
    short = tmp_path / "short.txt"
    short.write_bytes(capfdbinary.readouterr().out)
    assert "".join(piece for piece, _ in read_documents([str(short)]).read()).strip() == "first"
