"""attncli export --out writes a model, with its adapter merged, as a directory of plain weights."""

import json

import pytest
import torch

from attncli.checkpoint.chat import read_chat_template
from attncli.checkpoint.load import load_model
from attncli.cli.main import run
from tests.support.adapters import peft_model, write_base
from tests.support.checkpoints import CPU, without_manifest
from tests.support.commands import ask
from tests.support.lazily import transformers
from tests.support.models import ids_of
from tests.support.training import contents


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_weights_are_written_as_a_plain_model(tmp_path, monkeypatch, capsys, family):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "m", family)
    theirs = peft_model(tmp_path / "m", family)
    theirs.save_pretrained(tmp_path / "a")
    before = contents(tmp_path / "m"), contents(tmp_path / "a")
    code, out, _ = ask(capsys, "export", "m", "--adapter", "a", "--out", "merged", "--json")
    assert code == 0
    assert json.loads(out)["dtype"] == "float32"
    assert (contents(tmp_path / "m"), contents(tmp_path / "a")) == before
    ids = ids_of(20)
    with torch.no_grad():
        ours = load_model(tmp_path / "merged", CPU, torch.float32).model(ids)
        torch.testing.assert_close(ours, theirs(ids).logits, rtol=0, atol=1e-5)
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(ours, plain(ids).logits, rtol=0, atol=1e-5)


def test_a_model_without_an_adapter_is_written_in_another_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "m", "qwen3")
    assert run(["export", "m", "--out", "half", "--dtype", "bfloat16"]) == 0
    assert "parameters in bfloat16" in capsys.readouterr().out
    halved, whole = (load_model(tmp_path / name, CPU, None) for name in ("half", "m"))
    assert halved.end_ids == whole.end_ids
    expected = {name: tensor.bfloat16() for name, tensor in whole.model.state_dict().items()}
    found = halved.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_export_never_writes_where_it_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "m", "qwen3")
    before = contents(tmp_path / "m")
    for words, told in {
        ("--out", "m", "--force"): "is only read",
        ("--out", "m/inside"): "is only read",
        ("--out", "."): "exists",
        ("--out", "x", "--dtype", "q8_0"): "is for --gguf",
        ("--out", "x", "--gguf", "x.gguf"): "Give one of them",
        (): "There is nothing to write",
    }.items():
        code, _, err = ask(capsys, "export", "m", *words)
        assert code == 2
        assert told in " ".join(err.split())
    assert contents(tmp_path / "m") == before


def test_a_merged_model_keeps_the_chat_template_and_the_special_tokens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "m", "llama")
    without_manifest(tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}é")
    settings = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    settings |= {"bos_token": {"content": "<s>"}, "pad_token": "<pad>", "auto_map": {"AutoTokenizer": "evil.py"}}
    (tmp_path / "m/tokenizer_config.json").write_text(json.dumps(settings))
    assert run(["export", "m", "--out", "merged"]) == 0
    source, found = (read_chat_template(tmp_path / name) for name in ("m", "merged"))
    assert found.source == source.source and found.names == source.names
    assert found.names["bos_token"] == "<s>" and found.names["pad_token"] == "<pad>"
    assert "auto_map" not in json.loads((tmp_path / "merged/tokenizer_config.json").read_text())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == source.source
