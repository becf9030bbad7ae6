"""An error in a run keeps the last good save, and says what to do."""

import errno
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attncli.checkpoint import directory
from attncli.checkpoint.atomic import previous_of
from attncli.checkpoint.load import read_resumable
from attncli.checkpoint.lock import lock
from attncli.cli.main import run
from attncli.errors import Diverged, OutOfRoom
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.training import step, train
from attncli.training.reports import SaveReport
from tests.support.forking import ForkedCommand
from tests.support.texts import story
from tests.support.training import COMMAND, contents, digest, reports_of


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Errors in a run


def poisoned(monkeypatch, target, poison):
    """Applies `poison` to the loss of the fifth step after the first save, in a run by PyTorch's operations."""
    monkeypatch.setattr(step, "supports", lambda model: False)
    real, count = Transformer.loss, itertools.count()

    def loss(model, rows):
        value = real(model, rows)
        return poison(value) if (target / directory.MANIFEST).exists() and next(count) == 5 else value

    monkeypatch.setattr(Transformer, "loss", loss)


def endless_gradient(loss):
    loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss


def exhausted(loss):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")


def exhausted_by_a_thread(loss):
    raise RuntimeError("can't start new thread")


def exhausted_gpu(loss):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("poison", "code", "words"),
    [
        (lambda loss: loss * float("nan"), 5, ("diverged at step", "loss nan", "--lr")),
        (lambda loss: loss * float("inf"), 5, ("diverged at step", "loss inf", "--lr")),
        (endless_gradient, 5, ("diverged at step", "gradient norm", "--lr")),
        (exhausted, 4, ("not enough memory", "--batch-size", "--context")),
        (exhausted_by_a_thread, 4, ("not enough memory", "--batch-size", "--context")),
        (exhausted_gpu, 4, ("not enough memory", "--batch-size", "--context")),
    ],
    ids=["nan", "inf", "gradient", "memory", "thread", "gpu-memory"],
)
def test_an_error_in_training_keeps_the_last_save(tmp_path, monkeypatch, capsys, poison, code, words):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(1500))
    poisoned(monkeypatch, tmp_path / "out" / "m", poison)
    assert run(["train", "story.txt", *COMMAND, "--out", "out/m"]) == code
    err = capsys.readouterr().err
    assert all(word in err for word in words)
    assert "Traceback" not in err
    found = read_resumable(Path("out/m"))
    assert all(tensor.isfinite().all() for tensor in found.state.tensors.values())
    assert {path.name for path in Path("out").iterdir()} <= {"m", ".m.previous"}


# Leaves less memory than the first step needs.
EXHAUSTED = """
import resource
from pathlib import Path
from attncli.training import loop, measure
measure.measure_step = lambda *given: measure.StepTime(0.1, 1.0)
step = loop._Loop._step
def limited(*given):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return step(*given)
loop._Loop._step = limited
"""


def test_running_out_of_memory_is_an_error_of_two_lines(tmp_path):
    (tmp_path / "story.txt").write_text(story(1500))
    arguments = ["train", "story.txt", *COMMAND, "--batch-size", "20k", "--out", "m"]
    with ForkedCommand(*arguments, folder=tmp_path, before=EXHAUSTED) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (4, "")
    *_, plan, message, hint = err.splitlines()
    assert plan.startswith("needs")
    assert message == "error: There is not enough memory for this."
    assert "--batch-size" in hint
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


def test_a_divergence_advises_a_smaller_learning_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(1500))
    assert run(["train", "story.txt", *COMMAND, "--lr", "1e35", "--out", "m"]) == 5
    err = capsys.readouterr().err
    assert all(word in err for word in ("diverged at step", "--lr"))
    found = read_resumable(Path("m"))
    assert all(tensor.isfinite().all() for tensor in found.state.tensors.values())


def stop_at_3():
    asked = itertools.count(1)
    return lambda: next(asked) >= 3


def no_room(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    return lambda: False


def nothing_finite(monkeypatch):
    monkeypatch.setattr(
        "attncli.training.tasks.text.evaluate", lambda *args, **options: Score(float("nan"), 10, 20.0, 20.0)
    )
    return lambda: False


@pytest.mark.parametrize("end", ["stopped", "diverged", "full"])
def test_a_model_is_not_replaced_by_a_run_that_ends_without_a_score(corpus, plan, tmp_path, monkeypatch, end):
    target = tmp_path / "m" / "m"
    reports_of(corpus, plan, target)
    before = contents(target)
    if end == "stopped":
        reports = reports_of(corpus, plan, target, stop=stop_at_3())
        assert not any(isinstance(report, SaveReport) for report in reports)
        assert not reports[-1].finished
    else:
        stop = (no_room if end == "full" else nothing_finite)(monkeypatch)
        with pytest.raises(OutOfRoom if end == "full" else Diverged):
            reports_of(corpus, plan, target, stop=stop)
    assert contents(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_a_model_is_replaced_by_the_first_save_with_a_score(corpus, plan, tmp_path):
    target = tmp_path / "m"
    reports_of(corpus, plan, target)
    before, old = contents(target), digest(target)
    for report in train(corpus, replace(plan, seed=5), target, facts={}):
        if isinstance(report, SaveReport):
            assert report.step == 10
            assert digest(previous_of(target)) == old
            break
        assert contents(target) == before
    assert digest(target) != old
    found = read_resumable(target)
    reports_of(corpus, replace(plan, seed=5), target, resume=found)
    reports_of(corpus, replace(plan, seed=5), tmp_path / "whole")
    assert digest(target) == digest(tmp_path / "whole")


@pytest.mark.parametrize("nats", [float("nan"), float("inf")])
def test_weights_with_a_score_that_is_not_finite_are_never_the_best(corpus, plan, tmp_path, monkeypatch, nats):
    """An update can be too large although its loss was finite. The score is then the first figure that shows it."""
    monkeypatch.setattr("attncli.training.tasks.text.evaluate", lambda *args, **options: Score(nats, 10, 20.0, 20.0))
    with pytest.raises(Diverged, match="at step 10: the validation loss is"):
        reports_of(corpus, plan, tmp_path / "m")
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


# Two runs on one directory


def test_a_second_run_is_refused_with_the_process_id_of_the_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(1500))
    with lock(Path("m")):
        for arguments in (["story.txt", *COMMAND], ["story.txt", *COMMAND, "--force"], ["--resume"]):
            assert run(["train", *arguments, "--out", "m"]) == 3
            assert f"process {os.getpid()}" in capsys.readouterr().err
    assert run(["train", "story.txt", *COMMAND, "--out", "m"]) == 0


# The text of a run; text/test_files.py and cli/test_main.py test each kind of text


def test_a_run_accepts_a_byte_order_mark_mixed_line_ends_and_a_very_long_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = story(300).replace("\n", "\r\n") + story(20_000).replace("\n", " ")
    Path("text.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run(["train", "text.txt", *COMMAND, "--vocab-size", "300", "--out", "m"]) == 0
    assert f"{round(len(text) * 0.9):,}"[:3] in capsys.readouterr().err
