"""Saves of a run: interrupted by a kill, in the background, on a full disk, in a directory that cannot be written."""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from attncli.checkpoint import directory
from attncli.checkpoint.atomic import previous_of, settle
from attncli.checkpoint.catalog import find_model
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.lock import lock
from attncli.checkpoint.save import write_checkpoint
from attncli.cli.main import run
from attncli.errors import OutOfRoom
from attncli.stopping import StopRequests
from attncli.training import recipe, saver, train
from attncli.training.reports import Result, SaveReport, StepReport
from attncli.training.resume import _newest_good
from attncli.training.run import begin_run, weights_of
from attncli.training.tasks.registry import task_of
from tests.support.commands import RECIPE
from tests.support.faults import fault_at
from tests.support.forking import ForkedCommand
from tests.support.places import ROOT
from tests.support.texts import story
from tests.support.training import COMMAND, cloned, contents, digest, reports_of


@pytest.fixture
def beside(monkeypatch):
    """Writes every save of a running run in the background."""
    monkeypatch.setattr(recipe, "COPIED_STATE", 0)


def same(state, other):
    return state.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in state.tensors.items()
    )


def in_a_child(work):
    """Does the work, which must not compute with PyTorch, in a forked process. Returns its status from `os.waitpid`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def states_of_the_disk(base, work, copies):
    """Does the work in a child process. Returns the number of its changes of the disk, and copies of the folder `base`.

    There is a copy before each change and at the end. A process that is killed at one of these moments leaves the
    folder in exactly this state. A copy that equals the one before it is left out.
    """
    numbers, copying = itertools.count(), []

    def copy():
        if not copying:  # a copy changes the disk, too
            copying.append(True)
            shutil.copytree(base, copies / str(next(numbers)))
            copying.clear()

    def copied():
        with fault_at(None, copy):
            work()
        shutil.copytree(base, copies / str(next(numbers)))

    assert in_a_child(copied) == 0
    states = sorted(copies.iterdir(), key=lambda copy: int(copy.name))
    seen = [
        {path.relative_to(state): path.is_dir() or path.read_bytes() for path in state.rglob("*")} for state in states
    ]
    return len(states) - 1, [state for at, state in enumerate(states) if at == 0 or seen[at] != seen[at - 1]]


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# A kill


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("victim", "torn"), [(3, False), (3, True), (4, False)], ids=["running", "torn", "last"])
def test_a_kill_at_any_write_flush_or_rename_of_a_save_leaves_a_good_save(
    corpus, plan, whole_run, tmp_path, victim, torn
):
    """`torn`: the current save is damaged, so that only the previous save is good."""
    folder, _, saves = whole_run(plan)
    assert [save.state and save.state.facts["step"] for save in saves] == [0, 10, 20, 30, None]
    base = tmp_path / "base"
    for save in saves[victim - 2 : victim]:
        write_checkpoint(base / "m", save)
    good = victim - 1
    if torn:
        (base / "m" / directory.STATE_TENSORS).unlink()
        good = _newest_good(base / "m")[0].state.facts["step"] // 10
        assert good == victim - 2
    changes, states = states_of_the_disk(base, lambda: write_checkpoint(base / "m", saves[victim]), tmp_path / "kills")
    resumed = set()
    for state in states:
        target = state / "m"
        settle(target)
        if not (target / directory.STATE_FACTS).exists():  # the last save is complete
            assert victim == 4
            load_model(target, torch.device("cpu"), torch.float32)
            assert digest(target) == digest(folder)
            continue
        found, notes = _newest_good(target)
        step = found.state.facts["step"]
        assert not notes
        assert step in (good * 10, victim * 10)
        assert same(found.state, saves[step // 10].state)
        if step not in resumed:
            resumed.add(step)
            reports_of(corpus, plan, target, resume=found)
            assert digest(target) == digest(folder)
            assert [path.name for path in target.parent.iterdir()] == ["m"]
    assert changes > 40
    assert resumed == ({good * 10, victim * 10} if victim == 3 else {good * 10})


BESIDE = "from attncli.training import recipe; recipe.COPIED_STATE = 0"
QUICKLY = f"from attncli.training import recipe; vars(recipe).update({RECIPE})"


@pytest.fixture
def trained(tmp_path, request):
    """Returns a function that runs `attncli train` in `tmp_path`, kills it after a delay and returns its exit code.

    The exit code of a killed process is negative. With --slow, each process is a new interpreter; otherwise, it is
    forked from a process that has imported PyTorch.
    """
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    fresh = request.config.getoption("--slow")

    def call(arguments, beside, delay):
        before = f"{QUICKLY}\n{BESIDE if beside else ''}\n"
        if fresh:
            code = f"{before}from attncli.__main__ import main; main()"
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, **streams
            )
        else:
            process = ForkedCommand(*arguments, folder=tmp_path, before=before, **streams)
        with process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            if delay is not None:
                process.kill()
        return process.returncode

    return call


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, trained, request):
    kills = 50 if request.config.getoption("--slow") else 3
    (tmp_path / "story.txt").write_text(story(1500))
    new = ["train", "story.txt", *COMMAND]
    began = time.monotonic()
    assert trained([*new, "--out", "whole"], False, None) == 0
    seconds = time.monotonic() - began
    draw, names, target = random.Random(0), itertools.count(), tmp_path / "0"
    while kills > 0 or target.exists():
        going_on = target.exists() or previous_of(target).exists()
        arguments = ["train", "--resume", "--out", target.name] if going_on else [*new, "--out", target.name]
        code = trained(arguments, kills % 2 == 0, draw.uniform(0, seconds) if kills > 0 else None)
        assert code in (0, -signal.SIGKILL)
        kills -= code != 0
        if not target.exists() and not previous_of(target).exists():
            continue  # the run was killed before its first save
        found = find_model(str(target))
        if (found / directory.STATE_FACTS).exists():
            read_resumable(found)
        else:
            assert digest(found) == digest(tmp_path / "whole")
            target = tmp_path / str(next(names) + 1)


# Saves in the background


def test_a_background_save_contains_the_state_of_its_step_and_is_reported_once_written(
    corpus, plan, whole_run, tmp_path, monkeypatch, beside
):
    """Each write of a running state is delayed until the run has taken five more steps."""
    expected = whole_run(plan).saves
    written, moved_on, steps = [], threading.Event(), []

    def held_up(place, checkpoint):
        if checkpoint.state is not None and checkpoint.state.facts["step"] > 0:
            assert threading.current_thread() is not threading.main_thread()
            assert moved_on.wait(60)
            moved_on.clear()
        written.append(cloned(checkpoint))
        write_checkpoint(place, checkpoint)

    monkeypatch.setattr(saver, "write_checkpoint", held_up)
    for report in train(corpus, plan, tmp_path / "m", facts={}):
        if isinstance(report, SaveReport):
            assert report.step == written[len(steps)].run["progress"]["step"]
            steps.append(report.step)
        elif isinstance(report, StepReport) and report.step in (15, 25, 35):
            assert report.step - 5 not in steps
            moved_on.set()
    assert steps == [0, 10, 20, 30, 40]
    for ours, theirs in zip(written, expected, strict=True):
        assert [line["kind"] for line in ours.metrics] == [line["kind"] for line in theirs.metrics]
        assert all(torch.equal(tensor, theirs.weights[name]) for name, tensor in ours.weights.items())
        assert ours.state is None or same(ours.state, theirs.state)


@pytest.mark.parametrize("at", [3, 10, 12])
def test_a_stop_during_a_background_save_completes_it_and_saves_again(
    corpus, plan, whole_run, tmp_path, monkeypatch, at
):
    whole = whole_run(plan)
    monkeypatch.setattr(recipe, "COPIED_STATE", 0)
    asked = itertools.count(1)
    reports = reports_of(corpus, plan, tmp_path / "m", stop=lambda: next(asked) >= at)
    saved = [report.step for report in reports if isinstance(report, SaveReport)]
    assert saved == sorted({0, at // 10 * 10, at})
    assert isinstance(reports[-1], Result)
    found = read_resumable(tmp_path / "m")
    assert (found.state.facts["step"], found.run["status"]) == (at, "stopped")
    reports_of(corpus, plan, tmp_path / "m", resume=found)
    assert digest(tmp_path / "m") == digest(whole.folder)


def test_an_error_ends_the_run_only_after_its_save_is_written(corpus, plan, tmp_path, monkeypatch, beside):
    begun, held = begin_run(plan), threading.Event()
    place = saver.Saver(tmp_path / "m", task_of(corpus), plan, {})
    shut = place._thread.shutdown
    monkeypatch.setattr(place._thread, "shutdown", lambda *args, **options: (held.set(), shut(*args, **options)))
    with pytest.raises(KeyError), place:
        place._thread.submit(held.wait)
        place.save_beside(begun, 0.0)
        assert not (tmp_path / "m").exists()
        raise KeyError
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


def test_a_background_save_before_the_first_score_copies_the_weights(corpus, plan, tmp_path, beside):
    begun = begin_run(plan)
    with saver.Saver(tmp_path / "m", task_of(corpus), plan, {}) as place:
        held = threading.Event()
        place._thread.submit(held.wait)
        expected = weights_of(begun.model)
        place.save_beside(begun, 0.0)
        with torch.no_grad():
            for parameter in begun.model.parameters():
                parameter.zero_()
        held.set()
        place.wait()
    loaded = load_model(tmp_path / "m", torch.device("cpu"), torch.float32).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_state_too_large_to_copy_in_memory_is_saved_without_a_copy(corpus, plan, tmp_path, monkeypatch, beside):
    def no_copy(tensors):
        raise AssertionError("copied")

    with monkeypatch.context() as patch:
        patch.setattr(saver, "physical_memory", lambda: 1000)
        begun = begin_run(plan)
        patch.setattr(saver, "copies_of", no_copy)
        with saver.Saver(tmp_path / "m", task_of(corpus), plan, {}) as place:
            place.save_beside(begun, 0.0)
            assert list(place.safe()) == [0]


# Signals; cli/test_train.py tests the first signal


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_process_at_once_even_during_a_save(plan, whole_run, tmp_path, number):
    saves = whole_run(plan).saves
    for save in saves[1:3]:
        write_checkpoint(tmp_path / "m", save)

    def signaled():
        signal.signal(number, signal.SIG_DFL)  # even if the shell ignores the signal
        with StopRequests() as stop:
            os.kill(os.getpid(), number)
            assert stop.received == [number]
            with fault_at(9, lambda: os.kill(os.getpid(), signal.SIGTERM)):
                write_checkpoint(tmp_path / "m", saves[3])

    assert in_a_child(signaled) == signal.SIGTERM
    assert read_resumable(tmp_path / "m").state.facts["step"] == 20


# A full disk


def test_a_full_disk_at_any_point_of_a_save_leaves_a_good_save_and_no_other_file(plan, whole_run, tmp_path):
    saves = whole_run(plan).saves
    base, target = tmp_path / "base", tmp_path / "full" / "m"
    for save in saves[1:3]:
        write_checkpoint(base / "m", save)
    for n in itertools.count():
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(base, target.parent)
        with fault_at(n, full, calls=("fsync", "rename", "mkdir")) as happened:
            try:
                write_checkpoint(target, saves[3])
            except OutOfRoom as problem:
                assert problem.exit_code == 4
                assert re.search(r"MB needed, .* MB free", problem.message)
        if not happened:
            break
        found = read_resumable(target)
        assert found.state.facts["step"] in (20, 30)
        assert same(found.state, saves[found.state.facts["step"] // 10].state)
        assert {path.name for path in target.parent.iterdir()} <= {"m", ".m.previous"}
    assert n > 30


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_size_limit_is_reported_as_a_full_disk(plan, whole_run, tmp_path):
    saves = whole_run(plan).saves
    target = tmp_path / "m" / "m"
    write_checkpoint(target, saves[2])
    before = contents(target)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(OutOfRoom, match=r"MB needed, .* MB free"):
            write_checkpoint(target, saves[3])

    assert in_a_child(limited) == 0
    assert contents(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["m"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_cannot_be_written_is_reported_as_a_full_disk_and_leaves_no_file(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises(OutOfRoom, match=r"MB needed, .* MB free"), lock(tmp_path / "m"):
            pytest.fail("locked")

    assert in_a_child(limited) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_disk_that_fills_up_during_a_background_save_ends_the_run(corpus, plan, tmp_path, monkeypatch, beside, after):
    """`after` is the number of saves before the failed one. After 3 saves, the last save of a running state fails."""
    count = itertools.count()

    def fills_up(place, checkpoint):
        with fault_at(5 if next(count) == after else -1, full, calls=()):
            write_checkpoint(place, checkpoint)

    monkeypatch.setattr(saver, "write_checkpoint", fills_up)
    saved = []
    with pytest.raises(OutOfRoom, match="MB needed"):
        for report in train(corpus, plan, tmp_path / "m" / "m", facts={}):
            if isinstance(report, SaveReport):
                saved.append(report.step)
    assert saved == list(range(0, after * 10, 10))
    assert read_resumable(tmp_path / "m" / "m").state.facts["step"] == saved[-1]
    assert {path.name for path in (tmp_path / "m").iterdir()} <= {"m", ".m.previous"}


# A directory that cannot be written


@contextmanager
def another_user():
    """Runs the block as another user if the process runs as root, because root can write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_directory_that_cannot_be_written_is_refused_before_training(monkeypatch, capsys):
    monkeypatch.setattr("attncli.training.job.new_job", lambda *args, **options: pytest.fail("read the text first"))
    place = Path(tempfile.mkdtemp())  # a folder that another user may read
    (place / "file").write_text("a text")
    place.chmod(0o555)

    def refused(out):
        assert run(["train", str(place / "file"), *COMMAND, "--out", str(out)]) == 4
        return capsys.readouterr().err

    assert "cannot be written" in refused(place / "file" / "m")
    with another_user():
        for out in (place / "m", place / "deep" / "m"):
            err = refused(out)
            assert "cannot be written: Permission denied" in err
            assert "--out" in err
    assert [path.name for path in place.iterdir()] == ["file"]
    shutil.rmtree(place)
