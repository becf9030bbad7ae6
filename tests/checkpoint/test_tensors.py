"""Reading and writing safetensors files, compared with the safetensors library."""

import hashlib
import os
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from attncli.checkpoint.tensors import TYPES, open_tensors, write_tensors
from attncli.errors import BadCheckpoint
from tests.support.checkpoints import entry, header

# Files of tensors, compared with the safetensors library


TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=9).filter(lambda name: name != "__metadata__" and name.isprintable()),
    st.tuples(st.sampled_from(list(TYPES.values())), st.lists(st.integers(0, 4), max_size=4)),
    max_size=6,
)


def drawn(described):
    """Returns tensors of these types and shapes with random bytes."""
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


def test_tensors_that_are_not_contiguous_are_written_by_their_values(tmp_path):
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
def test_an_impossible_header_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadCheckpoint), open_tensors(tmp_path / "x"):
        pass


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    write_tensors(tmp_path / "x", {"a": torch.zeros(1 << 18), "b": torch.zeros(1 << 18), "c": torch.zeros(1 << 18)})
    with pytest.raises(BadCheckpoint, match="ends within 'b'"), open_tensors(tmp_path / "x") as file:
        for name, _ in file.tensors():
            assert name == "a"
            os.truncate(tmp_path / "x", 1 << 20)


def test_a_path_that_is_no_file_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadCheckpoint, match="cannot be read"), open_tensors(path):
            pass
