"""Paths that cannot be looked at, files that are no regular ones: an error of two lines, never a wait or a bug."""

import errno
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from attncli.checkpoint import directory
from attncli.checkpoint.directory import find_model, list_models, read_json
from attncli.checkpoint.store import load_model, read_resumable, write_checkpoint
from attncli.cli.main import run
from attncli.errors import BadCheckpoint
from attncli.paths import exists, is_file, is_folder, look, open_regular, read_regular
from tests.test_checkpoint import CPU, checkpoint

FILES = [
    *(directory.CONFIG, directory.GENERATION, directory.TOKENIZER, directory.TOKENIZER_CONFIG, directory.WEIGHTS),
    *(directory.RUN, directory.METRICS, directory.MANIFEST, directory.STATE_TENSORS, directory.STATE_FACTS),
]


def device(path):
    """What ends at once is put where /dev/zero would never end."""
    path.symlink_to(os.devnull)


STRANGE = {"pipe": os.mkfifo, "device": device, "folder": Path.mkdir}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("checkpoints/m"), checkpoint())
    return Path("checkpoints/m")


@contextmanager
def unprivileged():
    """Root may read and write anything, and so becomes someone else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def locked(monkeypatch):
    """A folder that anyone may enter, with a model, a directory that nobody may look into, and a text."""
    place = Path(tempfile.mkdtemp())
    monkeypatch.chdir(place)
    write_checkpoint(Path("checkpoints/m"), checkpoint())
    write_checkpoint(Path("checkpoints/locked"), checkpoint())
    Path("text.txt").write_text("some words of a text\n" * 200)
    Path("cache").mkdir()
    monkeypatch.setenv("ATTNCLI_CACHE", str(place / "cache"))
    place.chmod(0o755)
    Path("checkpoints/locked").chmod(0)
    yield place
    Path("checkpoints/locked").chmod(0o755)
    shutil.rmtree(place)


# Looking


@pytest.mark.parametrize("path", ["missing", "file/x", "x" * 300, "a\0b", "\ud800", ""])
def test_nothing_is_at_a_path_that_nothing_has(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert not is_file(path)
    assert exists(path) == is_folder(path) == (path == "")  # the working directory
    assert (look(Path(path)) is None) == (path != "")


def test_a_path_that_cannot_be_looked_at_is_an_error_or_nothing(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links") as raised:
        look(tmp_path / "loop")
    assert raised.value.errno == errno.ELOOP
    assert not exists(tmp_path / "loop")
    assert stat.S_ISLNK(look(tmp_path / "loop", follow=False).st_mode)


# Opening


@pytest.mark.parametrize("kind", STRANGE)
def test_only_a_regular_file_is_opened(tmp_path, kind):
    STRANGE[kind](tmp_path / "x")
    free = os.dup(0)
    os.close(free)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "x")
    assert os.dup(0) == free  # nothing is left open
    os.close(free)


def test_a_file_is_read_no_further_than_its_size(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", 3) == b"abc"
    with pytest.raises(OSError, match="larger than") as raised:
        read_regular(tmp_path / "x", 2)
    assert raised.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="a link, which is not followed"):
        read_regular(tmp_path / "link", follow=False)
    if Path("/proc/self/status").exists():
        assert read_regular(Path("/proc/self/status")) == b""  # of no size, though there is more


# Models


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_model_that_is_no_regular_file_is_refused_at_once(saved, name, kind):
    (saved / name).unlink()
    STRANGE[kind](saved / name)
    with pytest.raises(BadCheckpoint, match="not a regular file") as raised:
        read_resumable(saved)
    assert str(saved / name) in raised.value.message
    if name in (directory.CONFIG, directory.WEIGHTS, directory.TOKENIZER, directory.RUN, directory.MANIFEST):
        with pytest.raises(BadCheckpoint, match="not a regular file"):
            load_model(saved, CPU, None)
    assert (list_models() == []) == (name in (directory.CONFIG, directory.RUN))


@pytest.mark.parametrize("name", ["x" * 300, f"some/{'y' * 300}", "a\0b", "\udcff", "\ud800", "z/" * 3000])
def test_a_name_that_no_file_can_have_is_no_model(saved, monkeypatch, capsys, name):
    with pytest.raises(BadCheckpoint, match="There is no model"):
        find_model(name)
    for arguments in (["info", name], ["tokenize", "-m", name, "hello"], ["plot", name]):
        assert run(arguments) in (2, 3)
    monkeypatch.setenv("ATTNCLI_MODEL", "none" if "\0" in name else name.replace("\ud800", "\udcff"))
    assert run(["info"]) in (2, 3)
    assert run(["models"]) == 0


def test_a_loop_of_links_is_an_error_that_says_so(saved):
    Path("checkpoints/loop").symlink_to("loop")
    with pytest.raises(BadCheckpoint, match="cannot be read: Too many levels of symbolic links"):
        find_model("loop")
    assert [entry.name for entry in list_models()] == ["m"]


def test_a_directory_that_cannot_be_read_is_said_to_be_so_and_disturbs_no_other(locked, capsys):
    with unprivileged():
        assert [entry.name for entry in list_models()] == ["m"]
        assert run(["models"]) == 0
        assert run(["info", "m"]) == run(["info"]) == run(["tokenize", "a"]) == 0
        capsys.readouterr()
        for name in ("locked", "locked/deep", "checkpoints/locked/config.json"):
            for command in (["info", name], ["plot", name], ["tokenize", "-m", name, "hello"]):
                assert run(command) == 3
                err = capsys.readouterr().err
                assert "cannot be read: Permission denied" in err
                assert err.count("\n") == 2
        assert run(["eval", "text.txt", "-m", "locked"]) == 3


def test_a_folder_of_models_that_cannot_be_read_is_said_to_be_so(locked, capsys):
    Path("checkpoints").chmod(0)
    try:
        with unprivileged():
            for command in (["models"], ["info"], ["info", "m"]):
                assert run(command) == 3
                assert "cannot be read: Permission denied" in capsys.readouterr().err
    finally:
        Path("checkpoints").chmod(0o755)


# JSON


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_is_not_finite_is_no_json(tmp_path, number):
    (tmp_path / "x.json").write_text(f'{{"a": [{number}]}}')
    with pytest.raises(BadCheckpoint, match="is not a number"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": 1.5e300}')
    assert read_json(tmp_path / "x.json") == {"a": 1.5e300}


def test_one_record_with_an_endless_number_leaves_the_others_listed(saved, capsys):
    write_checkpoint(Path("checkpoints/n"), checkpoint())
    Path("checkpoints/n/run.json").write_text('{"results": {"bits_per_byte": 1e999}}')
    assert run(["models", "--json"]) == 0
    assert run(["info", "n", "--json"]) == 3
