"""An unsuitable config.json is refused, and the error names the setting."""

import json

import pytest
import torch

from attncli.checkpoint import directory
from attncli.checkpoint.directory import read_json
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadCheckpoint
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import change_config, load, without_manifest
from tests.support.models import tiny_model

YARN = {"rope_type": "yarn", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "layers is 1000000000"),
        ({"num_hidden_layers": -1}, "layers is -1"),
        ({"num_hidden_layers": 2.5}, "layers is 2.5"),
        ({"num_hidden_layers": True}, "layers is True"),
        ({"num_hidden_layers": 4}, "holds 3 layers, and config.json says 4"),
        ({"hidden_size": 64}, "has shape"),
        ({"vocab_size": 300}, "has shape"),
        ({"hidden_size": "32"}, "width is '32'"),
        ({"hidden_size": 1 << 40}, "width is"),
        ({"num_key_value_heads": 3}, "a divisor of heads"),
        ({"model_type": "gpt_bigcode"}, "model_type is 'gpt_bigcode'"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": ["qwen3"]}, "model_type is"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "names its own code"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', which is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "lacks 'low_freq_factor'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8}}, "rotary scaling 'longrope' is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope factor is 0"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope factor is '2'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": None}}, "rope factor is None"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": "x"}}, "rope truncate is 'x'"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "only a part of each head"),
        ({"partial_rotary_factor": 0.5}, "only a part of each head"),
        ({"rope_scaling": [1]}, "rotary settings are not an object"),
        ({"model_type": "smollm3"}, "model_type is 'smollm3', which is not supported"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": 10**400}, "rope_theta is an integer of over 40 digits"),
        ({"rms_norm_eps": 1e300}, r"norm_eps is 1e\+300, and must be a number from 1e-30 to 1e\+06"),
        ({"hidden_size": int("9" * 4300)}, "is an integer of over 40 digits"),
        ({"num_attention_heads": 1 << 20, "num_key_value_heads": 1, "head_dim": 1 << 20}, "heads x head_width is"),
        ({"num_hidden_layers": 10_000}, "layers is 10000, and must be a whole number from 1 to 1,000"),
        ({"rope_scaling": {**YARN, "beta_slow": 5e-324}}, "rope beta_slow is 5e-324"),
        ({"rope_scaling": {**YARN, "mscale": 1, "mscale_all_dim": -10}}, "mscale_all_dim is -10, and must be"),
        ({"rope_scaling": {**YARN, "mscale": 10**300, "mscale_all_dim": 1}}, "rope mscale is an integer of over"),
        ({"rope_scaling": YARN, "rope_theta": 1 + 1e-15}, "at least 1.01 for yarn"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "rotary scaling"),
        ({"model_type": "mistral", "sliding_window": 0}, "window is 0"),
        ({"model_type": "mistral", "sliding_window": True}, "window is True"),
        ({"use_sliding_window": True, "sliding_window": 5, "max_window_layers": -1}, "window_from is -1"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"vocab_size": 100}, "tokenizer has 257 ids"),
        ({"model_type": "llama"}, "which the model does not have"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, changes, message):
    change_config(saved, **changes)
    with pytest.raises(BadCheckpoint, match=message):
        load(saved)


@pytest.mark.parametrize("window", [96, 97, 2**31, 2**32 + 1, 10**30, None])
def test_a_window_longer_than_the_context_is_the_context(tmp_path, window):
    """The network in C has 32-bit integers, in which 2^32 + 1 would become a window of one token."""
    model = tiny_model(vocab_size=257, qk_norm=False, window=96)
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), byte_tokenizer(), 10))
    change_config(tmp_path / "m", sliding_window=window)
    loaded = load(tmp_path / "m").model
    assert loaded.config.window == (96 if window is not None else None)
    torch.testing.assert_close(loaded(torch.arange(90)[None]), model(torch.arange(90)[None]))


@pytest.mark.parametrize("first", [3, 28, 10**30])
def test_a_window_that_begins_after_the_last_layer_applies_to_no_layer(saved, first):
    change_config(saved, use_sliding_window=True, sliding_window=5, max_window_layers=first)
    config = load(saved).model.config
    assert [config.window_of(layer) for layer in range(3)] == [None] * 3


@pytest.mark.parametrize("setting", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [True, [True], -1, 10**30, 1.5, "1", [[1]], {}])
def test_an_invalid_token_id_is_ignored(saved, setting, value):
    without_manifest(saved)
    for name in (directory.CONFIG, directory.GENERATION):
        described = json.loads((saved / name).read_text())
        (saved / name).write_text(json.dumps(described | {setting: value}))
    loaded = load(saved)
    assert (loaded.start_of_text, loaded.end_ids) == (256 if setting == "bos_token_id" else 10, {256})


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"a": NaN}', '{"vocab_size": ' + "9" * 5000 + "}", '"\\ud800"', "\x80"]
)
def test_json_that_is_not_an_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadCheckpoint):
        read_json(tmp_path / "config.json")


def test_a_missing_setting_is_named():
    with pytest.raises(BadCheckpoint, match="lacks 'num_attention_heads'"):
        config_from_json({"model_type": "llama"})
