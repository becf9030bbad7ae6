"""A model directory is untrusted: its files are checked, and no code in it is run."""

import ctypes
import hashlib
import json
import os
import pickle
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint import directory, tensors, weights
from attncli.checkpoint import load as loading
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.save import Checkpoint, State, write_checkpoint
from attncli.errors import BadCheckpoint
from attncli.model import native
from attncli.model.attention import rotation_table
from attncli.model.backend import Segment
from attncli.model.transformer import Transformer
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import CPU, Canary, change_config, checkpoint, load, without_manifest, write_index
from tests.support.models import tiny_model


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
def test_the_digest_of_every_read_file_is_checked(saved, name):
    text = (saved / name).read_text()
    (saved / name).write_text(text + " ")
    with pytest.raises(BadCheckpoint, match=f"{re.escape(name)} is damaged"):
        load(saved)


def test_a_long_context_uses_no_memory_before_it_is_read(saved):
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
    """An extra tensor of 64 MB is skipped, with digests and without: no tensor of this size is allocated."""
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


def test_weights_cut_while_they_are_read_are_an_error_not_a_crash(saved, monkeypatch):
    path = without_manifest(saved) / directory.WEIGHTS
    check = weights._check_headers

    def check_then_cut(*args):
        check(*args)
        os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(weights, "_check_headers", check_then_cut)
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        load(saved)


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


# Files of tensors, compared with the safetensors library


def peak_beyond(work):
    """Returns the peak memory of the work in MB, beyond the memory before it."""

    def held(what):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) / 1e3

    ctypes.CDLL(None).malloc_trim(0)  # otherwise, the work could reuse memory that earlier tests freed
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = held("VmRSS")
    result = work()
    return held("VmHWM") - before, result


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory are told by Linux alone")
def test_a_save_needs_no_memory_and_a_load_only_the_weights(tmp_path):
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
    """No single tensor is copied either: the largest is nearly half of the model, and would double in float32."""
    model = tiny_model(dtype=dtype, vocab_size=20_000, layers=4, width=512, feed_forward_width=2048, head_width=64)
    weights = model.state_dict()
    size = sum(tensor.nbytes for tensor in weights.values()) / 1e6
    assert model.embedding.weight.nbytes / 1e6 > 0.4 * size  # the largest tensor is the first in the file
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
