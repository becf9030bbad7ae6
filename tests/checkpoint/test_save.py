"""Saves are atomic: after any fault, the old or the new model directory is complete."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from attncli.checkpoint import directory
from attncli.checkpoint.atomic import previous_of, settle
from attncli.checkpoint.catalog import find_model
from attncli.checkpoint.load import read_resumable
from attncli.checkpoint.lock import lock
from attncli.checkpoint.save import fall_back, write_checkpoint
from attncli.errors import BadCheckpoint, OutOfRoom
from tests.support.checkpoints import checkpoint, load
from tests.support.models import tiny_model


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
    assert "README.md" not in json.loads((saved / directory.MANIFEST).read_text())["sha256"]  # so a user may edit it
    (saved / directory.RUN).write_text("damaged")
    (saved / "README.md").write_text("a later card")
    fall_back(saved)
    assert ((saved / "README.md").read_text(), load(saved).run) == ("a later card", {"step": 1})


@pytest.mark.parametrize(
    "put", [lambda card: card.symlink_to("nowhere"), Path.mkdir, lambda card: card.write_bytes(b" " * (2 << 20))]
)
def test_a_file_that_is_no_model_card_does_not_prevent_a_save(saved, put):
    put(saved / "README.md")
    assert directory.ModelFolder(saved).foreign() == ["README.md"]  # so --force refuses to replace it
    write_checkpoint(saved, checkpoint(step=1))
    assert load(saved).run == {"step": 1}


def killing_calls(monkeypatch, after):
    """Makes the process 'die' at the disk operation with number `after`: no later operation has an effect."""
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
def test_after_a_kill_at_any_point_of_a_save_the_old_or_new_checkpoint_loads(tmp_path, after):
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
    write_checkpoint(target, checkpoint(seed=3, step=4))  # the next save works
    assert read_resumable(target).state.facts["step"] == 4
    assert not list(tmp_path.glob(".m.writing-*"))


def test_the_previous_save_is_kept_until_the_run_ends(saved):
    write_checkpoint(saved, checkpoint(step=5))
    assert read_resumable(previous_of(saved)).state.facts["step"] == 0
    write_checkpoint(saved, checkpoint(step=9, state=False))
    assert not previous_of(saved).exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_other_file(saved, monkeypatch, code):
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


def test_a_full_disk_is_noticed_before_writing(saved, monkeypatch):
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
