"""Weights in one file or in shards: only tensors that the config needs, only from the model's own directory."""

import json
import os
import pickle
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint import directory, weights
from attncli.errors import BadCheckpoint
from attncli.model.transformer import Transformer
from tests.support.checkpoints import Canary, change_config, load, without_manifest, write_index
from tests.support.models import tiny_model


def test_names_are_checked_before_many_layers_are_built(saved, monkeypatch):
    """The header has 1,000 layers of one tensor each."""
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


# Shards


@pytest.fixture
def sharded(saved):
    """Returns the saved model as three shards and an index, without a manifest."""
    path = without_manifest(saved)
    tensors = load_file(path / directory.WEIGHTS)
    (path / directory.WEIGHTS).unlink()
    index = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, path / file)
    write_index(path, index)
    return path


def read_index(path):
    return json.loads((path / directory.INDEX).read_text())["weight_map"]


def test_weights_in_shards_are_those_in_one_file(sharded):
    for name, tensor in tiny_model(vocab_size=257).state_dict().items():
        torch.testing.assert_close(load(sharded).model.state_dict()[name], tensor, rtol=0, atol=0)


SHARD = "model-00002-of-00003.safetensors"


QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("way", ["../", "/", "a/", "a\\", "./", "\0"])
def test_an_index_names_files_of_its_directory_alone(sharded, way, monkeypatch):
    """No file outside is opened: neither a file that the index names, nor the target of a link."""
    (sharded / SHARD).rename(sharded.parent / SHARD)
    named = str(sharded.parent / SHARD) if way == "/" else way + SHARD
    write_index(sharded, {name: named if file == SHARD else file for name, file in read_index(sharded).items()})
    with only_opened_in(sharded, monkeypatch), pytest.raises(BadCheckpoint, match="not a safetensors file of this"):
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
    """Makes the test fail if a file outside the folder is opened, also through a link."""
    real = os.open

    def watched(path, *args, **options):
        assert Path(path).resolve().is_relative_to(folder.resolve()), f"{path} was opened"
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        yield


def test_a_model_of_the_hub_s_cache_is_read_through_its_links(sharded):
    """Its files are links to files named by their digests; a link out of the model's cache is refused."""
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
        ("a tensor in two shards", f"holds '{QUERY}', which model.safetensors.index.json does not list .0 missing, 1"),
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
        ("an index of too many files", "at most 512 are allowed"),
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
