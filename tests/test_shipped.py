"""The shipped model is complete and small, and its card states measured scores."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from attncli.checkpoint import catalog, directory
from attncli.checkpoint.directory import ModelFolder
from attncli.text.files import read_documents
from tests.support.places import ROOT

MODEL = ROOT / "checkpoints" / catalog.SHIPPED
MOST = 12_000_000  # bytes


def script(name):
    """Imports a script that made the shipped model."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "checkpoints" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_is_small_and_complete():
    assert sum(path.stat().st_size for path in MODEL.rglob("*")) <= MOST
    folder, listed = ModelFolder(MODEL), json.loads((MODEL / directory.MANIFEST).read_text())["sha256"]
    assert folder.foreign() == []
    for name in listed:
        folder.read(name)  # reading compares the file with its digest


def test_the_run_record_contains_no_absolute_paths():
    run = json.loads((MODEL / directory.RUN).read_text())
    places = [*run["corpus"]["sources"], run["corpus"]["val_file"], *([run["from"]] if "from" in run else [])]
    assert all(not Path(place).is_absolute() for place in places)


def test_the_card_has_the_score_of_the_run():
    """The card scores the whole validation text in float32; the run scored a part of it in the training type."""
    card = (MODEL / directory.CARD).read_text()
    assert len(script("card")._MEASURED.findall(card)) == 1
    scored = float(card.split("this model, by `attncli eval`")[1].split("|")[1])
    run = json.loads((MODEL / directory.RUN).read_text())
    assert scored == pytest.approx(run["results"]["bits_per_byte"], abs=0.002)


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
