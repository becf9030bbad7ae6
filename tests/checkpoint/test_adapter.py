"""Adapters of PEFT: logits equal to PEFT's, and the refusal of what is unsupported, hostile, or of another model."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model
from attncli.cli.main import run
from attncli.errors import BadCheckpoint
from tests.support.adapters import change_settings, peft_model, write_base
from tests.support.checkpoints import CPU, Canary, header
from tests.support.models import ids_of

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


def read(base, adapter):
    return load_model(base, CPU, torch.float32, adapter)


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_an_adapter_of_peft_gives_the_logits_of_peft(tmp_path, family, targets, rslora):
    write_base(tmp_path / "m", family)
    theirs = peft_model(tmp_path / "m", family, targets, use_rslora=rslora)
    theirs.save_pretrained(tmp_path / "a")
    ours, ids = read(tmp_path / "m", tmp_path / "a"), ids_of(40, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
        assert (read(tmp_path / "m", None).model(ids) - ours.model(ids)).abs().max() > 0.1
    assert ours.notes == ()


def test_ranks_and_alphas_of_single_modules_count(tmp_path):
    write_base(tmp_path / "m", "qwen3-untied")
    patterns = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 3}, "alpha_pattern": {"self_attn.q_proj": 5}}
    theirs = peft_model(tmp_path / "m", "qwen3", ["q_proj", "up_proj", "lm_head"], **patterns)
    theirs.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        ours = read(tmp_path / "m", tmp_path / "a").model(ids_of(40))
        torch.testing.assert_close(ours, theirs(ids_of(40)).logits, rtol=0, atol=1e-5)


def test_an_adapter_of_a_model_that_translates_is_merged(tmp_path):
    write_base(tmp_path / "m", "m2m100")
    theirs = peft_model(tmp_path / "m", "m2m100", "all", translates=True)
    theirs.save_pretrained(tmp_path / "a")
    ours, source, target = read(tmp_path / "m", tmp_path / "a").model, ids_of(12) + 9, ids_of(9, seed=1) + 9
    with torch.no_grad():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
        torch.testing.assert_close(ours(target, source=ours.read_source(source)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_merged_into_the_weights_of_a_gguf_file(tmp_path, family):
    write_base(tmp_path / "m", family)
    peft_model(tmp_path / "m", family).save_pretrained(tmp_path / "a")
    assert run(["export", str(tmp_path / "m"), "--gguf", str(tmp_path / "m.gguf")]) == 0
    ids = ids_of(20)
    with torch.no_grad():
        expected, plain = (read(tmp_path / "m", adapter).model(ids) for adapter in (tmp_path / "a", None))
        found = read(tmp_path / "m.gguf", tmp_path / "a").model(ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - plain).abs().max() > 0.1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a folder with the model `m`, its adapter `a`, and another model `other`."""
    folder = tmp_path_factory.mktemp("made")
    write_base(folder / "m", "llama")
    peft_model(folder / "m", "llama", "attention").save_pretrained(folder / "a")
    write_base(folder / "other", "gpt2")
    return folder


@pytest.fixture
def adapter(made, tmp_path):
    """Returns a copy of the adapter, which a test may change."""
    shutil.copytree(made / "a", tmp_path / "a")
    return tmp_path / "a"


UNSUPPORTED = [
    ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
    ({"use_dora": True}, "use_dora is True"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
    ({"bias": "all"}, "bias is 'all'"),
    ({"lora_bias": True}, "lora_bias is True"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ({"layer_replication": [[0, 2]]}, "layer_replication is"),
    ({"something_new": {"x": 1}}, "something_new is"),
    ({"rank_pattern": {"(a+)+$": 2}}, "a regular expression"),
    ({"target_modules": ["q_proj", "W_pack"]}, "names 'W_pack'"),
    ({"target_modules": ["q_proj", "lm_head"]}, "shares its weights with the embedding"),
    ({"target_modules": ["k_proj", "v_proj", "o_proj"]}, "target_modules does not name its module"),
    ({"target_modules": [1]}, "must be a list of names"),
    ({"r": 5}, "must have [5, 32], by the model and the rank"),
    ({"r": 0}, "r is 0"),
    ({"r": True}, "r is True"),
    ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern q_proj is None"),
    ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
]


@pytest.mark.parametrize(("changes", "words"), UNSUPPORTED, ids=[words for _, words in UNSUPPORTED])
def test_settings_that_are_not_supported_are_refused_by_name(made, adapter, changes, words):
    change_settings(adapter, **changes)
    with pytest.raises(BadCheckpoint) as refused:
        read(made / "m", adapter)
    assert words in refused.value.message


def without_one(tensors):
    del tensors[f"{PREFIX}.lora_B.weight"]


def with_embedding(tensors):
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(257, 32)


def with_magnitude(tensors):
    tensors[f"{PREFIX}.lora_magnitude_vector"] = torch.zeros(32)


def of_a_deeper_model(tensors):
    tensors[f"{PREFIX.replace('.0.', '.7.')}.lora_A.weight"] = torch.zeros(4, 32)


def transposed(tensors):
    tensors[f"{PREFIX}.lora_A.weight"] = torch.zeros(32, 4)


def not_finite(tensors):
    tensors[f"{PREFIX}.lora_A.weight"][1, 2] = torch.nan


def whole_numbers(tensors):
    tensors[f"{PREFIX}.lora_A.weight"] = torch.zeros(4, 32, dtype=torch.int32)


def huge(tensors):
    tensors[f"{PREFIX}.lora_A.weight"].fill_(3e38)
    tensors[f"{PREFIX}.lora_B.weight"].fill_(3e38)


TENSORS = {
    without_one: "one of the two matrices",
    with_embedding: "not a part of a LoRA adapter",
    with_magnitude: "not a part of a LoRA adapter",
    of_a_deeper_model: "no such linear layer",
    transposed: "has shape [32, 4]",
    not_finite: "not a finite number",
    whole_numbers: "has type torch.int32",
    huge: "not a finite number",
    dict.clear: "holds no adapter",
}


@pytest.mark.parametrize("change", TENSORS, ids=lambda change: change.__name__)
def test_tensors_that_do_not_fit_are_refused(made, adapter, change):
    path = adapter / directory.ADAPTER_WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(BadCheckpoint) as refused:
        read(made / "m", adapter)
    assert TENSORS[change] in refused.value.message


def test_a_header_bomb_and_a_truncated_file_are_refused_before_memory_is_taken(made, adapter):
    path = adapter / directory.ADAPTER_WEIGHTS
    data = path.read_bytes()
    big = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    for content in (data[:-5], header({f"{PREFIX}.lora_A.weight": big}), b""):
        path.write_bytes(content)
        with pytest.raises(BadCheckpoint, match="is not a safetensors file"):
            read(made / "m", adapter)


def test_pickles_are_never_read(made, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (adapter / directory.ADAPTER_WEIGHTS).unlink()
    torch.save(Canary(), adapter / "adapter_model.bin")
    with pytest.raises(BadCheckpoint) as refused:
        read(made / "m", adapter)
    assert "is not an adapter" in refused.value.message
    assert "adapter_model.bin: pickled weights can run code" in refused.value.hint
    torch.save(Canary(), adapter / directory.ADAPTER_WEIGHTS)
    with pytest.raises(BadCheckpoint, match="is not a safetensors file"):
        read(made / "m", adapter)
    assert not (tmp_path / "canary").exists()


def test_an_adapter_of_another_model_is_refused_or_noted(made, adapter, tmp_path):
    with pytest.raises(BadCheckpoint, match="target_modules names"):
        read(made / "other", adapter)
    shutil.copytree(made / "m", tmp_path / "renamed")
    assert "was trained for another model" in read(tmp_path / "renamed", adapter).notes[0]


def test_the_command_line_merges_an_adapter_into_the_model_that_it_names(made, adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["next", "a b", "--temperatures", "1", "--json", "--adapter", "a"]
    printed = []
    for model in ((), ("-m", str(made / "m"))):
        assert run([*asked, *model]) == 0
        printed.append(capsys.readouterr())
    assert printed[0].out == printed[1].out
    assert run([*asked[:-2], "-m", str(made / "m")]) == 0
    assert json.loads(capsys.readouterr().out) != json.loads(printed[0].out)
    change_settings(adapter, base_model_name_or_path="owner/away")
    assert run(asked) == 2
    assert "changes owner/away, which is not on this machine. Name the model with --model." in " ".join(
        capsys.readouterr().err.split()
    )
    assert run([*asked[:-1], "nowhere"]) == 3
    assert "There is no adapter 'nowhere'" in capsys.readouterr().err


def test_generation_in_c_runs_the_merged_weights(made, adapter, tmp_path, monkeypatch, capsys, in_c):
    monkeypatch.chdir(tmp_path)
    texts = []
    for options in (("--adapter", "a"), ("--adapter", "a", "--device", "cpu", "--dtype", "float32", "--verify"), ()):
        assert run(["generate", "a b", "-m", str(made / "m"), "-t", "0", "-n", "20", "--json", *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["samples"][0]["text"])
    assert texts[0] == texts[1] != texts[2]
