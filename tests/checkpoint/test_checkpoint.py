"""Model directories: whole or not at all when written, and nothing believed or run when read."""

import ctypes
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from attncli.checkpoint import catalog, directory, tensors, weights
from attncli.checkpoint import load as loading
from attncli.checkpoint.atomic import previous_of, settle
from attncli.checkpoint.catalog import find_model, list_models
from attncli.checkpoint.directory import read_json
from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.lock import lock
from attncli.checkpoint.save import Checkpoint, State, fall_back, write_checkpoint
from attncli.checkpoint.tensors import TYPES, open_tensors, write_tensors
from attncli.errors import BadCheckpoint, OutOfRoom
from attncli.model import native
from attncli.model.attention import rotation_table
from attncli.model.backend import Segment
from attncli.model.transformer import Transformer
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import CPU, checkpoint
from tests.support.models import tiny_model


def load(path):
    return load_model(path, CPU, torch.float32)


@pytest.fixture
def saved(tmp_path):
    write_checkpoint(tmp_path / "m", checkpoint())
    return tmp_path / "m"


def test_what_is_written_is_read_back(saved):
    loaded, expected = load(saved), tiny_model(vocab_size=257)
    assert loaded.model.config == expected.config
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], tensor, rtol=0, atol=0)
    assert (loaded.start_of_text, loaded.name, loaded.run) == (10, "m", {"step": 0})
    again = read_resumable(saved)
    assert (again.state.facts, again.metrics) == ({"step": 0}, [{"kind": "step", "step": 0}])


def test_files_can_be_read_by_others_and_every_one_has_a_digest(saved):
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert files == set(json.loads((saved / directory.MANIFEST).read_text())["sha256"]) | {directory.MANIFEST}
    assert all((saved / file).stat().st_mode & 0o044 for file in files)


def test_a_model_card_stays_when_the_model_is_written_again(saved):
    (saved / "README.md").write_text("a card")
    for step in (1, 2):
        write_checkpoint(saved, checkpoint(step=step))
    assert ((saved / "README.md").read_text(), load(saved).run) == ("a card", {"step": 2})
    assert "README.md" not in json.loads((saved / directory.MANIFEST).read_text())["sha256"]  # so it may be edited
    (saved / directory.RUN).write_text("damaged")
    (saved / "README.md").write_text("a later card")
    fall_back(saved)
    assert ((saved / "README.md").read_text(), load(saved).run) == ("a later card", {"step": 1})


@pytest.mark.parametrize(
    "put", [lambda card: card.symlink_to("nowhere"), Path.mkdir, lambda card: card.write_bytes(b" " * (2 << 20))]
)
def test_what_is_no_model_card_does_not_stand_in_the_way_of_a_save(saved, put):
    put(saved / "README.md")
    assert directory.ModelFolder(saved).foreign() == ["README.md"]  # so --force refuses
    write_checkpoint(saved, checkpoint(step=1))
    assert load(saved).run == {"step": 1}


def killing_calls(monkeypatch, after):
    """Makes the process 'die' at the call number `after` of those that touch the disk: nothing runs after it."""
    calls = 0

    class Killed(BaseException):
        pass

    def counted(real):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > after:
                raise Killed
            return real(*args, **options)

        return call

    for owner, name in ((os, "fsync"), (type(Path()), "rename"), (type(Path()), "mkdir")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return Killed


@pytest.mark.parametrize("after", range(24))
def test_killed_at_any_point_of_a_save_the_old_or_the_new_one_loads(tmp_path, after):
    target = tmp_path / "m"
    write_checkpoint(target, checkpoint(seed=0, step=1))
    write_checkpoint(target, checkpoint(seed=1, step=2))
    with pytest.MonkeyPatch.context() as patch:
        killed = killing_calls(patch, after)
        try:
            write_checkpoint(target, checkpoint(seed=2, step=3))
            finished = True
        except killed:
            finished = False
    settle(target)
    found = read_resumable(find_model(str(target)))
    assert found.state.facts["step"] in ((3,) if finished else (2, 3))
    load(find_model(str(target)))
    write_checkpoint(target, checkpoint(seed=3, step=4))  # and the next save works
    assert read_resumable(target).state.facts["step"] == 4
    assert not list(tmp_path.glob(".m.writing-*"))


def test_the_save_before_stays_until_the_run_ends(saved):
    write_checkpoint(saved, checkpoint(step=5))
    assert read_resumable(previous_of(saved)).state.facts["step"] == 0
    write_checkpoint(saved, checkpoint(step=9, state=False))
    assert not previous_of(saved).exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_one_and_nothing_else(saved, monkeypatch, code):
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfRoom, match=r"MB needed, .* MB free"):
        write_checkpoint(saved, checkpoint(step=7))
    assert read_resumable(saved).state.facts["step"] == 0
    assert [path.name for path in saved.parent.iterdir()] == ["m"]


def test_no_room_is_found_before_writing(saved, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutOfRoom, match=r"0\.0 MB free") as raised:
        write_checkpoint(saved, checkpoint())
    assert raised.value.exit_code == 4


def test_one_directory_belongs_to_one_run(tmp_path):
    with lock(tmp_path / "m"), pytest.raises(BadCheckpoint, match=f"process {os.getpid()}"), lock(tmp_path / "m"):
        pass
    with lock(tmp_path / "m"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "state/state.safetensors", "state/state.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_state_is_refused(saved, name, damage):
    path = saved / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(BadCheckpoint):
        read_resumable(saved)


def test_weights_whose_bytes_changed_are_refused_and_named(saved):
    path = saved / directory.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors is damaged"):
        load(saved)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "run.json", "generation_config.json"])
def test_every_file_that_is_read_is_held_to_its_digest(saved, name):
    text = (saved / name).read_text()
    (saved / name).write_text(text + " ")
    with pytest.raises(BadCheckpoint, match=f"{re.escape(name)} is damaged"):
        load(saved)


YARN = {"rope_type": "yarn", "factor": 2.0}


def without_manifest(path):
    (path / directory.MANIFEST).unlink()
    return path


def change_config(path, **changes):
    config = json.loads((path / directory.CONFIG).read_text())
    (without_manifest(path) / directory.CONFIG).write_text(json.dumps(config | changes))


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
        ({"auto_map": {"AutoModel": "evil.Model"}}, "names code of its own"),
        ({"hidden_act": "relu"}, "only silu"),
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
    """The network in C has 32-bit integers: 2^32 + 1 would become a window of one token."""
    model = tiny_model(vocab_size=257, qk_norm=False, window=96)
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), byte_tokenizer(), 10))
    change_config(tmp_path / "m", sliding_window=window)
    loaded = load(tmp_path / "m").model
    assert loaded.config.window == (96 if window is not None else None)
    torch.testing.assert_close(loaded(torch.arange(90)[None]), model(torch.arange(90)[None]))


@pytest.mark.parametrize("first", [3, 28, 10**30])
def test_a_first_layer_with_a_window_past_the_last_is_none(saved, first):
    change_config(saved, use_sliding_window=True, sliding_window=5, max_window_layers=first)
    config = load(saved).model.config
    assert [config.window_of(layer) for layer in range(3)] == [None] * 3


@pytest.mark.parametrize("setting", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [True, [True], -1, 10**30, 1.5, "1", [[1]], {}])
def test_a_token_that_is_none_is_not_taken_for_one(saved, setting, value):
    without_manifest(saved)
    for name in (directory.CONFIG, directory.GENERATION):
        described = json.loads((saved / name).read_text())
        (saved / name).write_text(json.dumps(described | {setting: value}))
    loaded = load(saved)
    assert (loaded.start_of_text, loaded.end_ids) == (256 if setting == "bos_token_id" else 10, {256})


def test_a_context_costs_nothing_before_it_is_read(saved):
    change_config(saved, max_position_embeddings=1 << 24)
    model = load(saved).model
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.long))
    assert len(model.rotation(1).cos) == 4096
    whole, grown = rotation_table(model.config, 1 << 15, CPU), model.rotation(9000)
    assert torch.equal(grown.cos[:9000], whole.cos[:9000])
    assert torch.equal(grown.sin[:4096], model.rotation(1).sin[:4096])
    if native.available():
        backend = native.NativeBackend(model, threads=1)
        ids = [1, 2, 3] * 1400
        logits = backend.read(backend.new_cache(1), [Segment(0, 0, ids)])
        torch.testing.assert_close(logits, model(torch.tensor([ids]))[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("listed", [True, False])
def test_a_tensor_that_is_not_needed_takes_no_memory(saved, monkeypatch, listed):
    """64 MB beside the weights, with digests and without: no tensor of that size is made, and 8 MB are read at once."""
    path = saved / directory.WEIGHTS
    size, header = 64 << 20, path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    entries, data = json.loads(header[8 : 8 + length]), header[8 + length :]
    offsets = [len(data), len(data) + size]
    entries["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
        "dtype": "F32",
        "shape": [size // 4],
        "data_offsets": offsets,
    }
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    os.truncate(path, path.stat().st_size + size)
    if listed:
        manifest = json.loads((saved / directory.MANIFEST).read_text())
        with path.open("rb") as file:
            manifest["sha256"][directory.WEIGHTS] = hashlib.file_digest(file, "sha256").hexdigest()
        (saved / directory.MANIFEST).write_text(json.dumps(manifest))
    else:
        without_manifest(saved)
    filled, sizes = tensors._bytes_of, []
    monkeypatch.setattr(tensors, "_bytes_of", lambda tensor: sizes.append(tensor.nbytes) or filled(tensor))
    tracemalloc.start()
    try:
        load(saved)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < max(sizes) < size / 8
    assert peak < size / 8


def test_names_are_checked_before_many_layers_are_built(saved, monkeypatch):
    """1,000 layers in the header, of one tensor each."""
    change_config(saved, num_hidden_layers=1000)
    save_file(
        {f"model.layers.{layer}.input_layernorm.weight": torch.ones(32) for layer in range(1000)},
        saved / directory.WEIGHTS,
    )
    monkeypatch.setattr(weights, "Transformer", lambda config: built.append(config.layers) or Transformer(config))
    built = []
    with pytest.raises(BadCheckpoint, match=r"lacks model\.embed_tokens\.weight"):
        load(saved)
    assert built == [1]


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


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_a_pickle_is_never_read(saved, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (without_manifest(saved) / directory.WEIGHTS).unlink()
    (saved / name).write_bytes(pickle.dumps(Canary()))
    message = "not a safetensors file" if name == directory.WEIGHTS else "holds no model.safetensors"
    with pytest.raises(BadCheckpoint, match=message) as raised:
        load(saved)
    assert name == directory.WEIGHTS or "pickled weights can run code" in raised.value.hint
    assert not (tmp_path / "canary").exists()


def header_of(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 90)
        + b'{"a":{"dtype":"F32","shape":[99999999,99999999],"data_offsets":[0,4]}}'.ljust(90)
        + b"0000",
        header_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 4300 + b"]}}"),
        header_of(b'{"a":{"dtype":"F32","shape":[0,' + b"9" * 4300 + b'],"data_offsets":[0,0]}}'),
        header_of(b'{"a":{"dtype":"F32","shape":[0,9223372036854775807,2],"data_offsets":[0,0]}}'),
    ],
)
def test_a_header_that_lies_is_refused(saved, data):
    (without_manifest(saved) / directory.WEIGHTS).write_bytes(data)
    with pytest.raises(BadCheckpoint):
        load(saved)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype", "nan"])
def test_tensors_that_do_not_fit_are_refused(saved, change):
    path = without_manifest(saved) / directory.WEIGHTS
    tensors = load_file(path)
    name = "model.layers.1.self_attn.q_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(32)
    elif change == "shape":
        tensors[name] = tensors[name].T[:, :16].contiguous()
    elif change == "dtype":
        tensors[name] = tensors[name].to(torch.int32)
    else:
        tensors[name][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(BadCheckpoint, match=r"self_attn\.q_proj"):
        load(saved)


def test_weights_cut_while_they_are_read_are_an_error_not_a_crash(saved, monkeypatch):
    path = without_manifest(saved) / directory.WEIGHTS
    check = weights._check_headers

    def check_then_cut(*args):
        check(*args)
        os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(weights, "_check_headers", check_then_cut)
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        load(saved)


def test_a_model_is_found_by_path_name_variable_or_age(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in ((200, "old"), (100, "new")):
        write_checkpoint(tmp_path / "checkpoints" / name, checkpoint(state=False))
        config = tmp_path / "checkpoints" / name / directory.CONFIG
        os.utime(config, (config.stat().st_mtime - age,) * 2)
    assert find_model(None).name == "new"
    assert find_model("old").name == "old"
    assert find_model(str(tmp_path / "checkpoints" / "old")).name == "old"
    monkeypatch.setenv("ATTNCLI_MODEL", "old")
    assert find_model(None).name == "old"
    assert [entry.name for entry in list_models()] == ["new", "old"]
    with pytest.raises(BadCheckpoint, match="no model 'other'") as raised:
        find_model("other")
    assert "new, old" in raised.value.hint


def test_a_model_of_which_only_the_save_before_is_there_is_listed_under_its_name(tmp_path, monkeypatch):
    """As a kill between the two renames of a save leaves it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_checkpoint(Path("checkpoints") / name, checkpoint())
        write_checkpoint(Path("checkpoints") / name, checkpoint())
    shutil.rmtree("checkpoints/a")
    os.utime("checkpoints/b/config.json", (1, 1))
    assert [(entry.name, entry.path.name) for entry in list_models()] == [("a", ".a.previous"), ("b", "b")]
    assert load(find_model(None)).model.config == checkpoint().config
    assert find_model(None).name == ".a.previous"


def test_the_model_that_ships_is_there_until_another_is(tmp_path, monkeypatch):
    shipped = tmp_path / "installed" / catalog.SHIPPED
    write_checkpoint(shipped, checkpoint(state=False))
    monkeypatch.setattr(catalog, "_SHIPPED_PLACES", (tmp_path / "nowhere", shipped))
    monkeypatch.chdir(tmp_path)
    assert find_model(None) == find_model(catalog.SHIPPED) == shipped
    write_checkpoint(Path("checkpoints/mine"), checkpoint(state=False))
    assert find_model(None).name == "mine"
    assert find_model(catalog.SHIPPED) == shipped
    write_checkpoint(Path("checkpoints") / catalog.SHIPPED, checkpoint(state=False))
    assert find_model(catalog.SHIPPED) == Path("checkpoints") / catalog.SHIPPED


def test_no_model_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"no model in \./checkpoints") as raised:
        find_model(None)
    assert "attncli train FILE" in raised.value.hint


def test_a_directory_replaced_while_it_is_read_is_read_again(saved, monkeypatch):
    real, calls = loading.read_weights, []

    def replaced_meanwhile(*args):
        calls.append(args)
        if len(calls) == 1:
            write_checkpoint(saved, checkpoint(seed=4, step=8))
        return real(*args)

    monkeypatch.setattr(loading, "read_weights", replaced_meanwhile)
    assert load(saved).run == {"step": 8}
    assert len(calls) == 2


# Shards


@pytest.fixture
def sharded(saved):
    """The same model in three files and an index, with no manifest."""
    path = without_manifest(saved)
    tensors = load_file(path / directory.WEIGHTS)
    (path / directory.WEIGHTS).unlink()
    index = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, path / file)
    write_index(path, index)
    return path


def write_index(path, index):
    (path / directory.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def read_index(path):
    return json.loads((path / directory.INDEX).read_text())["weight_map"]


def test_weights_in_shards_are_those_in_one_file(sharded):
    for name, tensor in tiny_model(vocab_size=257).state_dict().items():
        torch.testing.assert_close(load(sharded).model.state_dict()[name], tensor, rtol=0, atol=0)


SHARD = "model-00002-of-00003.safetensors"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("way", ["../", "/", "a/", "a\\", "./", "\0"])
def test_an_index_names_files_of_its_directory_alone(sharded, way, monkeypatch):
    """Nothing outside is even opened: neither what the index names, nor what a link in its place leads to."""
    (sharded / SHARD).rename(sharded.parent / SHARD)
    named = str(sharded.parent / SHARD) if way == "/" else way + SHARD
    write_index(sharded, {name: named if file == SHARD else file for name, file in read_index(sharded).items()})
    with only_opened_in(sharded, monkeypatch), pytest.raises(BadCheckpoint, match="no safetensors file of this"):
        load(sharded)


@pytest.mark.parametrize("what", ["file", "folder", "chain"])
def test_a_link_out_of_the_directory_is_not_followed(sharded, what, monkeypatch):
    outside = sharded.parent / "outside"
    outside.mkdir()
    (sharded / SHARD).rename(outside / SHARD)
    if what == "chain":
        (sharded / "inner").symlink_to(outside)
        (sharded / SHARD).symlink_to("inner/" + SHARD)
    else:
        (sharded / SHARD).symlink_to(outside / SHARD if what == "file" else Path("../outside") / SHARD)
    with only_opened_in(sharded, monkeypatch), pytest.raises(BadCheckpoint, match="leads out of its directory"):
        load(sharded)


@contextmanager
def only_opened_in(folder, monkeypatch):
    """Fails when a file elsewhere, links followed, is opened."""
    real = os.open

    def watched(path, *args, **options):
        assert Path(path).resolve().is_relative_to(folder.resolve()), f"{path} was opened"
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        yield


def test_a_directory_of_the_hubs_cache_is_one_of_links(sharded):
    """Its files lie beside it, under their digests; a link that leads out of the model's cache is refused there too."""
    cache = sharded.parent / "models--someone--tiny"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(sharded.iterdir())):
        if file.is_file():
            file.rename(cache / "blobs" / str(number))
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    load(snapshot)
    (snapshot / SHARD).resolve().rename(sharded / SHARD)
    (snapshot / SHARD).unlink()
    (snapshot / SHARD).symlink_to(sharded / SHARD)
    with pytest.raises(BadCheckpoint, match="leads out of its directory"):
        load(snapshot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a tensor in two shards", f"holds '{QUERY}', which model.safetensors.index.json does not say .0 missing, 1"),
        ("a tensor under two names", "norm.weight' twice"),
        ("a tensor in another shard", f"does not hold '{QUERY}' .1 missing, 1 extra"),
        ("a tensor that only the index has", "does not hold 'x' .1 missing, 0 extra"),
        ("a tensor in neither", f"lacks {QUERY} .1 missing, 0 extra"),
        ("a tensor too many", "holds 'x', which the model does not have .0 missing, 1 extra"),
        ("a shard that is missing", f"{SHARD} is missing"),
        ("a shard that is a pickle", "not a safetensors file"),
        ("a shard cut short", "bytes, and its header says"),
        ("a number that is none", "not a finite number"),
        ("an index of no tensors", "lists no tensors"),
        ("an index of lists", "lists no tensors"),
        ("an index that is a list", "lists no tensors"),
        ("an index of too many files", "the most are 512"),
    ],
)
def test_shards_that_do_not_fit_are_refused(sharded, change, message):
    index = read_index(sharded)
    first, second = sharded / SHARD.replace("2-", "1-"), sharded / SHARD
    if index[QUERY] != first.name:
        first, second = second, first
        assert index[QUERY] == first.name
    held, other = load_file(first), load_file(second)
    if change == "a tensor in two shards":
        other[QUERY] = held[QUERY]
    elif change == "a tensor under two names":
        index["norm.weight"] = second.name
        other["norm.weight"] = torch.zeros(32)
    elif change == "a tensor in another shard":
        other[QUERY] = held.pop(QUERY)
    elif change == "a tensor that only the index has":
        index["x"] = first.name
    elif change == "a tensor in neither":
        del held[QUERY], index[QUERY]
    elif change == "a tensor too many":
        held["x"], index["x"] = torch.zeros(1), first.name
    elif change == "a number that is none":
        held[QUERY][0, 0] = float("inf")
    elif change == "an index of no tensors":
        index = {}
    elif change == "an index of lists":
        index[QUERY] = [first.name]
    elif change == "an index that is a list":
        index = list(index)
    elif change == "an index of too many files":
        index = {str(number): f"{number}.safetensors" for number in range(600)}
    save_file(held, first)
    save_file(other, second)
    write_index(sharded, index)
    if change == "a shard that is missing":
        (sharded / SHARD).unlink()
    elif change == "a shard that is a pickle":
        first.write_bytes(pickle.dumps(Canary()))
    elif change == "a shard cut short":
        os.truncate(first, first.stat().st_size - 1)
    with pytest.raises(BadCheckpoint, match=message):
        load(sharded)
    assert not (Path.cwd() / "canary").exists()


# Files of tensors: what we write and read, held to the library of the format


TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=9).filter(lambda name: name != "__metadata__" and name.isprintable()),
    st.tuples(st.sampled_from(list(TYPES.values())), st.lists(st.integers(0, 4), max_size=4)),
    max_size=6,
)


def drawn(described):
    """Tensors of those types and shapes, of random bytes."""
    generator = torch.Generator().manual_seed(0)

    def tensor(dtype, shape):
        size = torch.empty(shape, dtype=dtype).nbytes
        data = torch.randint(256, (size,), generator=generator, dtype=torch.uint8)
        return data.view(dtype).reshape(shape)

    return {name: tensor(dtype, shape) for name, (dtype, shape) in described.items()}


def same_bits(tensors, others):
    return tensors.keys() == others.keys() and all(
        (tensor.dtype, tensor.shape) == (others[name].dtype, others[name].shape)
        and torch.equal(tensor.reshape(-1).view(torch.uint8), others[name].reshape(-1).view(torch.uint8))
        for name, tensor in tensors.items()
    )


def read_all(path):
    with open_tensors(path) as file:
        return dict(file.tensors()), file.sha256()


@given(TENSORS, st.sampled_from([None, {"format": "pt"}]))
def test_a_file_is_byte_for_byte_that_of_the_library(tmp_path_factory, described, metadata):
    path, tensors = tmp_path_factory.mktemp("t") / "x.safetensors", drawn(described)
    digest = write_tensors(path, tensors, metadata)
    assert path.read_bytes() == safetensors.torch.save(tensors, metadata)
    found, again = read_all(path)
    assert same_bits(found, tensors)
    assert digest == again == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_no_contiguous_piece_of_memory_is_written_as_what_it_holds(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"turned": whole.T, "column": whole[:, 2], "grown": torch.ones(1).expand(5), "needs": whole.clone()}
    tensors["needs"].requires_grad_()
    write_tensors(tmp_path / "x", tensors)
    found, _ = read_all(tmp_path / "x")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert same_bits(found, load_file(tmp_path / "x"))


@settings(max_examples=300)
@given(st.data())
def test_a_file_that_was_changed_is_refused_or_read_as_the_library_reads_it(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3), "c": torch.ones(2).half()})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789[]{}",:')))
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    try:
        found, _ = read_all(path)
    except BadCheckpoint as problem:
        assert str(path) in problem.message
        return
    assert same_bits(found, load_file(path))


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    "content",
    [
        header([]),
        header("x"),
        header({"a": None}),
        header(entry(shape=[-2])),
        header(entry(shape=[True, 2]), bytes(8)),
        header(entry(shape=[2.0]), bytes(8)),
        header(entry(shape="2"), bytes(8)),
        header(entry(shape=[1 << 40, 1 << 40]), bytes(8)),
        header(entry(shape=[1] * 10_000 + [2]), bytes(8)),
        header(entry(dtype="F99"), bytes(8)),
        header(entry(dtype=["F32"]), bytes(8)),
        header(entry(data_offsets=[0, 8, 9]), bytes(8)),
        header(entry(data_offsets=[-8, 0]), bytes(8)),
        header(entry(data_offsets=[8, 16]), bytes(16)),
        header(entry(data_offsets=[0, 1 << 62]), bytes(8)),
        header(entry(), bytes(7)),
        header(entry(), bytes(9)),
        header(entry() | {"b": entry()["a"]}, bytes(8)),
        struct.pack("<Q", 1 << 20) + b"[" * (1 << 20),
        struct.pack("<Q", 64 << 20) + bytes(100),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadCheckpoint), open_tensors(tmp_path / "x"):
        pass


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    write_tensors(tmp_path / "x", {"a": torch.zeros(1 << 18), "b": torch.zeros(1 << 18), "c": torch.zeros(1 << 18)})
    with pytest.raises(BadCheckpoint, match="ends within 'b'"), open_tensors(tmp_path / "x") as file:
        for name, _ in file.tensors():
            assert name == "a"
            os.truncate(tmp_path / "x", 1 << 20)


def test_what_is_no_file_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadCheckpoint, match="cannot be read"), open_tensors(path):
            pass


def peak_beyond(work):
    """Megabytes of memory that the work takes at its peak beyond those held before it."""

    def held(what):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) / 1e3

    ctypes.CDLL(None).malloc_trim(0)  # else the work could use what earlier tests have freed
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = held("VmRSS")
    result = work()
    return held("VmHWM") - before, result


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory are told by Linux alone")
def test_a_save_takes_no_memory_and_a_load_that_of_the_weights(tmp_path):
    model = tiny_model(vocab_size=257, layers=4, width=512, heads=8, kv_heads=8, head_width=64, feed_forward_width=2048)
    weights = model.state_dict()
    size = sum(tensor.nbytes for tensor in weights.values()) / 1e6
    whole = Checkpoint(model.config, weights, byte_tokenizer(), 10, state=State(weights, {"step": 1}))
    write_checkpoint(tmp_path / "warm", checkpoint())
    load(tmp_path / "warm")
    saving, _ = peak_beyond(lambda: write_checkpoint(tmp_path / "m", whole))
    assert saving < 0.2 * size
    loading, _ = peak_beyond(lambda: load(tmp_path / "m"))
    assert 0.8 * size < loading < 1.2 * size
    resuming, _ = peak_beyond(lambda: read_resumable(tmp_path / "m"))
    assert resuming < 2.2 * size


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory are told by Linux alone")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [1, 4])
def test_weights_of_16_bits_are_loaded_without_a_wider_copy(tmp_path, dtype, shards):
    """Also not of one tensor: the largest here is nearly half of the model, and twice as large in float32."""
    model = tiny_model(dtype=dtype, vocab_size=20_000, layers=4, width=512, feed_forward_width=2048, head_width=64)
    weights = model.state_dict()
    size = sum(tensor.nbytes for tensor in weights.values()) / 1e6
    assert model.embedding.weight.nbytes / 1e6 > 0.4 * size  # and the first in the file
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, weights, byte_tokenizer(), 10))
    if shards > 1:
        tensors = load_file(without_manifest(tmp_path / "m") / directory.WEIGHTS)
        (tmp_path / "m" / directory.WEIGHTS).unlink()
        index = {name: f"{i % shards}.safetensors" for i, name in enumerate(tensors)}
        for file in set(index.values()):
            save_file({name: tensors[name] for name in tensors if index[name] == file}, tmp_path / "m" / file)
        write_index(tmp_path / "m", index)
        del tensors
    write_checkpoint(tmp_path / "warm", checkpoint())
    load_model(tmp_path / "warm", CPU, dtype)
    loading, loaded = peak_beyond(lambda: load_model(tmp_path / "m", CPU, dtype))
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {dtype}
    assert 0.8 * size < loading < 1.2 * size


def test_weights_of_any_type_can_be_trained_on_from(saved):
    path = without_manifest(saved) / directory.WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    loaded = load(saved).model
    model = Transformer(loaded.config, dropout=0.1).train()
    model.load_state_dict(loaded.state_dict())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert model.embedding.weight.grad is not None
