"""attncli export, and the other commands on the file that it writes."""

import json
from pathlib import Path

import pytest

from attncli.checkpoint.gguf import verify
from attncli.cli.main import run
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.checkpoints import write_random_model, write_random_translator
from tests.support.gguf_files import model_directory
from tests.support.texts import story


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "find_spec", lambda name: None)  # llama.cpp is compared by hand
    model_directory(tmp_path / "m", train_tokenizer([story(60)], "bpe", 320))
    return tmp_path


def printed(arguments, capsys, code=0):
    capsys.readouterr()
    assert run(arguments) == code
    return capsys.readouterr()


def test_an_exported_model_is_used_by_every_kind_of_command(folder, capsys):
    told = printed(["export", "m", "--gguf", "m.gguf"], capsys).out
    assert "gpt2 (gpt-2)" in told and "equal for 19 texts" in told
    for command in (
        ["generate", "Once", "-n", "5", "-t", "0", "-s", "1", "--json"],
        ["next", "Once", "--json"],
        ["explain", "Once upon a time", "--json"],
        ["tokenize", "Once upon", "--json"],
    ):
        one, other = (json.loads(printed([*command, "-m", name], capsys).out) for name in ("m", "m.gguf"))
        for document in (one, other):
            document.pop("model", None)
            document.pop("tokenizer", None)
            document.pop("throughput", None)
        assert one == other
    shape, other = (json.loads(printed(["info", name, "--json"], capsys).out)["shape"] for name in ("m", "m.gguf"))
    assert shape == other
    Path("text.txt").write_text(story(80))
    one, other = (json.loads(printed(["eval", name, "text.txt", "--json"], capsys).out) for name in ("m", "m.gguf"))
    assert one["bits_per_byte"] == other["bits_per_byte"]


def test_an_existing_file_is_replaced_only_with_force(folder, capsys):
    Path("m.gguf").write_text("mine")
    assert "exists" in printed(["export", "m", "--gguf", "m.gguf"], capsys, 2).err
    assert Path("m.gguf").read_text() == "mine"
    document = json.loads(
        printed(["export", "m", "--gguf", "m.gguf", "--force", "--dtype", "q8_0", "--json"], capsys).out
    )
    assert document["dtype"] == "q8_0" and document["checked"]["weight_error"] > 0
    assert Path("m.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m"], "nothing to write"),
        (["m", "--gguf", "m.bin"], "does not write files such as m.bin"),
        (["m", "--gguf", "m.gguf", "--dtype", "q4_0"], "q4_0"),
        (["translator", "--gguf", "m.gguf"], "the model is an encoder-decoder"),
        (["endless", "--gguf", "m.gguf"], "no token ends a text"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_no_file(folder, capsys, arguments, said):
    tokenizer = train_tokenizer([story(20)], "byte")
    write_random_translator(folder / "translator", tokenizer)
    write_random_model(folder / "endless", tokenizer)
    described = json.loads((folder / "endless/tokenizer.json").read_text())
    described["added_tokens"] = []
    described["model"]["vocab"].pop("<|endoftext|>", None)
    (folder / "endless/tokenizer.json").write_text(json.dumps(described))
    (folder / "endless/manifest.json").unlink()
    assert said in " ".join(printed(["export", *arguments], capsys, 2).err.split())
    assert sorted(path.name for path in folder.iterdir()) == ["endless", "m", "translator"]


def test_a_file_that_fails_its_check_gets_no_name(folder, capsys, monkeypatch):
    monkeypatch.setattr(verify, "rounding_error", lambda tensor, kind: tensor * 0 - 1)
    assert "The GGUF file is wrong" in printed(["export", "m", "--gguf", "m.gguf"], capsys, 1).err
    assert sorted(path.name for path in folder.iterdir()) == ["m"]
