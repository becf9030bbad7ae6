"""What can go wrong in a run, made to happen: kills, signals, a full disk, no memory, false numbers, torn saves."""

import errno
import hashlib
import itertools
import json
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
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint import directory
from attncli.checkpoint.atomic import previous_of, settle
from attncli.checkpoint.catalog import find_model
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.lock import lock
from attncli.checkpoint.save import State, write_checkpoint
from attncli.cli.main import run
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import BadCheckpoint, Diverged, OutOfRoom
from attncli.evaluation.score import Score
from attncli.model.transformer import Transformer
from attncli.stopping import StopRequests
from attncli.training import new_job, recipe, resume_job, saver, train
from attncli.training.reports import Result, SaveReport, StepReport
from attncli.training.resume import _newest_good
from attncli.training.run import begin_run, weights_of
from tests.support.faults import fault_at
from tests.support.forking import ForkedCommand
from tests.support.places import ROOT
from tests.support.texts import story
from tests.support.training import SMALL

COMMAND = [
    "--steps",
    "60",
    "--size",
    "1x32",
    "--context",
    "16",
    "--batch-size",
    "2",
    "--seed",
    "1",
    "--dtype",
    "float32",
]
FILES = [
    *(directory.CONFIG, directory.GENERATION, directory.TOKENIZER, directory.TOKENIZER_CONFIG, directory.WEIGHTS),
    *(directory.RUN, directory.METRICS, directory.MANIFEST, directory.STATE_TENSORS, directory.STATE_FACTS),
]


@pytest.fixture
def beside(monkeypatch):
    """Every save of a run that goes on is written by the thread."""
    monkeypatch.setattr(recipe, "COPIED_STATE", 0)


def reports_of(corpus, plan, target, **options):
    return list(train(corpus, plan, target, facts={}, **options))


def digest(target):
    return hashlib.sha256((target / directory.WEIGHTS).read_bytes()).hexdigest()


def contents(target):
    return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}


def cloned(checkpoint):
    """A save that the run can no longer change."""
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    state = checkpoint.state
    if state is not None:
        state = State({name: tensor.clone() for name, tensor in state.tensors.items()}, state.facts)
    return replace(checkpoint, weights=weights, state=state)


def saves_of(corpus, plan, target, monkeypatch):
    """Everything that a whole run saves, in order."""
    saves = []

    def kept(place, checkpoint):
        saves.append(cloned(checkpoint))
        write_checkpoint(place, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(saver, "write_checkpoint", kept)
        reports_of(corpus, plan, target)
    return saves


def same(state, other):
    return state.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in state.tensors.items()
    )


def in_a_child(work):
    """How a copy of this process that does the work, and computes nothing, ends: as `os.waitpid` says."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed_at(n, work):
    """Whether the work, done by another process, comes to an nth change of the disk, where that is killed."""

    def until_killed():
        with fault_at(n, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            work()

    status = in_a_child(until_killed)
    assert status in (0, signal.SIGKILL)
    return status != 0


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# T1, a kill


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("victim", "torn"), [(3, False), (3, True), (4, False)], ids=["running", "torn", "last"])
def test_killed_at_every_write_flush_and_rename_of_a_save(corpus, plan, tmp_path, monkeypatch, victim, torn):
    """`torn`: the save before is damaged, so that the one before it is the only good one."""
    saves = saves_of(corpus, plan, tmp_path / "whole", monkeypatch)
    assert [save.state and save.state.facts["step"] for save in saves] == [0, 10, 20, 30, None]
    base = tmp_path / "base"
    for save in saves[victim - 2 : victim]:
        write_checkpoint(base / "m", save)
    good = victim - 1
    if torn:
        (base / "m" / directory.STATE_TENSORS).unlink()
        good = _newest_good(base / "m")[0].state.facts["step"] // 10
        assert good == victim - 2
    target, resumed = tmp_path / "kills" / "m", set()
    for n in itertools.count():
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(base, target.parent)
        if not killed_at(n, lambda: write_checkpoint(target, saves[victim])):
            break
        settle(target)
        if not (target / directory.STATE_FACTS).exists():  # the last save is complete
            assert victim == 4
            load_model(target, torch.device("cpu"), torch.float32)
            assert digest(target) == digest(tmp_path / "whole")
            continue
        found, notes = _newest_good(target)
        step = found.state.facts["step"]
        assert not notes
        assert step in (good * 10, victim * 10)
        assert same(found.state, saves[step // 10].state)
        if step not in resumed:
            resumed.add(step)
            reports_of(corpus, plan, target, resume=found)
            assert digest(target) == digest(tmp_path / "whole")
            assert [path.name for path in target.parent.iterdir()] == ["m"]
    assert n > 40
    assert resumed == ({good * 10, victim * 10} if victim == 3 else {good * 10})


BESIDE = "from attncli.training import saver; saver._COPIED_FROM = 0"
SHORT_SAMPLES = "from attncli.training import recipe; recipe.SAMPLE_TOKENS, recipe.FINAL_SAMPLE_TOKENS = 12, 60"


@pytest.fixture
def trained(tmp_path, request):
    """Calls `attncli train` in `tmp_path`, killed after some seconds; gives its exit code, negative when killed.

    The process is forked from one that has imported PyTorch, or has a fresh interpreter with --slow.
    """
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    fresh = request.config.getoption("--slow")

    def call(arguments, beside, delay):
        before = f"{SHORT_SAMPLES}\n{BESIDE if beside else ''}\n"
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


def test_killed_at_random_moments_every_run_ends_with_the_same_bits(tmp_path, trained, request):
    kills = 50 if request.config.getoption("--slow") else 5
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
            continue  # killed before the first save
        found = find_model(str(target))
        if (found / directory.STATE_FACTS).exists():
            read_resumable(found)
        else:
            assert digest(found) == digest(tmp_path / "whole")
            target = tmp_path / str(next(names) + 1)


# A save beside the training


def test_a_save_beside_the_training_is_of_its_own_step_and_reported_when_it_is_safe(
    corpus, plan, tmp_path, monkeypatch, beside
):
    """Each write of a running state is held up until five more steps were taken."""
    expected = saves_of(corpus, plan, tmp_path / "in place", monkeypatch)
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
def test_a_stop_while_a_save_is_written_saves_both(corpus, plan, tmp_path, beside, at):
    reports_of(corpus, plan, tmp_path / "whole")
    asked = itertools.count(1)
    reports = reports_of(corpus, plan, tmp_path / "m", stop=lambda: next(asked) >= at)
    saved = [report.step for report in reports if isinstance(report, SaveReport)]
    assert saved == sorted({0, at // 10 * 10, at})
    assert isinstance(reports[-1], Result)
    found = read_resumable(tmp_path / "m")
    assert (found.state.facts["step"], found.run["status"]) == (at, "stopped")
    reports_of(corpus, plan, tmp_path / "m", resume=found)
    assert digest(tmp_path / "m") == digest(tmp_path / "whole")


def test_an_error_does_not_end_the_run_before_its_save_is_written(corpus, plan, tmp_path, monkeypatch, beside):
    begun, held = begin_run(plan), threading.Event()
    place = saver.Saver(tmp_path / "m", corpus, plan, {})
    shut = place._thread.shutdown
    monkeypatch.setattr(place._thread, "shutdown", lambda *args, **options: (held.set(), shut(*args, **options)))
    with pytest.raises(KeyError), place:
        place._thread.submit(held.wait)
        place.save_beside(begun, 0.0)
        assert not (tmp_path / "m").exists()
        raise KeyError
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


def test_weights_that_nothing_has_scored_yet_are_copied_too(corpus, plan, tmp_path, beside):
    begun = begin_run(plan)
    with saver.Saver(tmp_path / "m", corpus, plan, {}) as place:
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


def test_a_copy_that_would_not_fit_the_memory_is_not_made(corpus, plan, tmp_path, monkeypatch, beside):
    def no_copy(tensors):
        raise AssertionError("copied")

    with monkeypatch.context() as patch:
        patch.setattr(saver, "physical_memory", lambda: 1000)
        begun = begin_run(plan)
        patch.setattr(saver, "copies_of", no_copy)
        with saver.Saver(tmp_path / "m", corpus, plan, {}) as place:
            place.save_beside(begun, 0.0)
            assert list(place.safe()) == [0]


# T2, signals (the first one: test_cli.py)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_at_once_also_while_a_save_is_written(corpus, plan, tmp_path, monkeypatch, number):
    saves = saves_of(corpus, plan, tmp_path / "whole", monkeypatch)
    for save in saves[1:3]:
        write_checkpoint(tmp_path / "m", save)

    def signalled():
        signal.signal(number, signal.SIG_DFL)  # also where a shell has it ignored
        with StopRequests() as stop:
            os.kill(os.getpid(), number)
            assert stop.received == [number]
            with fault_at(9, lambda: os.kill(os.getpid(), signal.SIGTERM)):
                write_checkpoint(tmp_path / "m", saves[3])

    assert in_a_child(signalled) == signal.SIGTERM
    assert read_resumable(tmp_path / "m").state.facts["step"] == 20


# T3, a full disk


def test_wherever_the_disk_is_full_the_old_save_stays_and_nothing_else(corpus, plan, tmp_path, monkeypatch):
    saves = saves_of(corpus, plan, tmp_path / "whole", monkeypatch)
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
def test_a_file_that_may_not_grow_is_a_full_disk(corpus, plan, tmp_path, monkeypatch):
    saves = saves_of(corpus, plan, tmp_path / "whole", monkeypatch)
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
def test_a_lock_that_cannot_be_written_is_a_full_disk_and_leaves_no_file(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises(OutOfRoom, match=r"MB needed, .* MB free"), lock(tmp_path / "m"):
            pytest.fail("locked")

    assert in_a_child(limited) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_disk_that_fills_up_beside_the_training_ends_it(corpus, plan, tmp_path, monkeypatch, beside, after):
    """Also when it is the last save of a running state that failed."""
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


# T4, a place that cannot be written


@contextmanager
def another_user():
    """Root may write anywhere, and so becomes someone else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_directory_that_cannot_be_written_is_found_out_at_once(monkeypatch, capsys):
    monkeypatch.setattr("attncli.training.job.new_job", lambda *args, **options: pytest.fail("read the text first"))
    place = Path(tempfile.mkdtemp())  # where another user may look
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


# T5, T6: what ends a run from within


def poisoned(monkeypatch, target, poison):
    """Once a save is there, the loss of the fifth step from then on is what `poison` makes of it."""
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
def test_what_ends_a_run_from_within_leaves_the_save(tmp_path, monkeypatch, capsys, poison, code, words):
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


# Leaves the first step less memory than it takes.
EXHAUSTED = """
import resource
from pathlib import Path
from attncli.__main__ import main
from attncli.training import loop, measure
measure.measure_step = lambda *given: measure.StepTime(0.1, 1.0)
step = loop._Loop._step
def limited(*given):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return step(*given)
loop._Loop._step = limited
main()
"""


def test_memory_that_is_really_not_there_is_told_in_two_lines(tmp_path):
    (tmp_path / "story.txt").write_text(story(1500))
    arguments = ["train", "story.txt", *COMMAND, "--batch-size", "20k", "--out", "m"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-c", EXHAUSTED, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    *_, plan, message, hint = done.stderr.splitlines()
    assert plan.startswith("needs")
    assert message == "error: There is not enough memory for this."
    assert "--batch-size" in hint
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


def test_a_rate_out_of_all_bounds_is_said_to_be_the_cause(tmp_path, monkeypatch, capsys):
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
        "attncli.training.evaluations.evaluate", lambda *args, **options: Score(float("nan"), 10, 20.0, 20.0)
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
def test_weights_that_score_nothing_finite_are_not_kept_as_the_best(corpus, plan, tmp_path, monkeypatch, nats):
    """One update may be too large though its loss was finite: it is the score that shows it first."""
    monkeypatch.setattr("attncli.training.evaluations.evaluate", lambda *args, **options: Score(nats, 10, 20.0, 20.0))
    with pytest.raises(Diverged, match="at step 10: the validation loss is"):
        reports_of(corpus, plan, tmp_path / "m")
    assert read_resumable(tmp_path / "m").state.facts["step"] == 0


# T7, two runs on one directory


def test_a_second_run_is_told_the_process_of_the_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(1500))
    with lock(Path("m")):
        for arguments in (["story.txt", *COMMAND], ["story.txt", *COMMAND, "--force"], ["--resume"]):
            assert run(["train", *arguments, "--out", "m"]) == 3
            assert f"process {os.getpid()}" in capsys.readouterr().err
    assert run(["train", "story.txt", *COMMAND, "--out", "m"]) == 0


# T8, the text (each kind of it: test_corpus.py and test_cli.py)


def test_a_text_with_a_mark_mixed_line_ends_and_one_endless_line_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = story(300).replace("\n", "\r\n") + story(20_000).replace("\n", " ")
    Path("text.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run(["train", "text.txt", *COMMAND, "--vocab-size", "300", "--out", "m"]) == 0
    assert f"{round(len(text) * 0.9):,}"[:3] in capsys.readouterr().err


# R1, a torn save; R2, other circumstances


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a text and a run on it that was stopped at step 8, after a save at step 6."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "story.txt").write_text(story(1500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCLI_CACHE", str(folder / "cache"))
        job = new_job([str(folder / "story.txt")], None, CorpusConfig(vocab_size=300), SMALL)
        plan, asked = replace(job.plan, eval_every=3), itertools.count(1)
        list(train(job.corpus, plan, folder / "m", facts=job.facts, stop=lambda: next(asked) >= 8))
        list(train(job.corpus, plan, folder / "whole", facts=job.facts))
    assert {path.name for path in folder.iterdir()} >= {"m", ".m.previous"}
    return folder


@pytest.fixture
def run_there(stopped, tmp_path, monkeypatch):
    """A copy of it to damage."""
    shutil.copytree(stopped, tmp_path / "there")
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "there" / "cache"))
    return tmp_path / "there"


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("name", FILES)
def test_from_a_torn_save_a_run_goes_on_from_the_one_before(run_there, name, how):
    damage(run_there / "m" / name, how)
    found, notes = _newest_good(run_there / "m")
    assert found.state.facts["step"] == 6
    assert "Going on from the save before it." in notes[0]
    assert Path(name).name in notes[0]
    assert read_resumable(run_there / "m").state.facts["step"] == 6  # where no further save can harm it


@pytest.mark.parametrize("name", FILES)
def test_a_torn_save_without_one_before_is_refused(run_there, name):
    shutil.rmtree(run_there / ".m.previous")
    damage(run_there / "m" / name, "truncate")
    with pytest.raises(BadCheckpoint) as raised:
        resume_job(run_there / "m")
    assert raised.value.exit_code == 3
    assert name in raised.value.message


def changed(document, path, value):
    """A JSON document with another value at a path of keys; `...` takes the key away."""
    key, *rest = path
    if rest:
        return document | {key: changed(document[key], rest, value)}
    return {name: held for name, held in document.items() if name != key} | ({} if value is ... else {key: value})


def with_digest(folder, name, data):
    """Puts other bytes in the place of a file, and their digest into the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / directory.MANIFEST).read_text())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / directory.MANIFEST).write_text(json.dumps(manifest))


CHANGES = [
    *((directory.STATE_FACTS, [name], ...) for name in ("step", "schedule", "best", "train_loss", "seconds")),
    *((directory.STATE_FACTS, ["step"], value) for value in ("7", 7.5, True, None, -1, 10**30, [])),
    *((directory.STATE_FACTS, ["schedule"], value) for value in ([], [[0]], [[0, "9"]], [7], {}, [[5, 9]], None)),
    *((directory.STATE_FACTS, ["best"], value) for value in ([], {}, "x", {"nats": 1})),
    (directory.STATE_FACTS, ["seconds"], -1e308),
    *((directory.RUN, [name], value) for name in ("plan", "corpus", "format") for value in (..., [], "x", None)),
    *((directory.RUN, ["plan", "model"], value) for value in (..., {}, [])),
    *((directory.RUN, ["plan", name], 0) for name in ("eval_every", "report_every", "batch_size", "train_bytes")),
    *((directory.RUN, ["plan", name], "x") for name in ("dtype", "optimizer", "threads", "schedule", "reasons")),
    (directory.RUN, ["plan", "model", "layers"], 2),
    (directory.RUN, ["plan", "schedule", "warmup"], 0),
    (directory.RUN, ["corpus", "config"], []),
    (directory.RUN, ["corpus", "config", "encoding"], "no such"),
    (directory.RUN, ["corpus", "sources"], "story.txt"),
    (directory.RUN, ["corpus", "digest"], 7),
    *((directory.GENERATION, ["bos_token_id"], value) for value in (..., True, "x", 10**9, [1, 2])),
]


@pytest.mark.parametrize(("name", "path", "value"), CHANGES)
def test_a_record_that_was_changed_with_its_digest_is_refused(run_there, monkeypatch, capsys, name, path, value):
    monkeypatch.chdir(run_there)
    shutil.rmtree(".m.previous")
    document = changed(json.loads(Path("m", name).read_text()), path, value)
    with_digest(Path("m"), name, json.dumps(document).encode())
    assert run(["train", "--resume", "--out", "m"]) == 3
    assert len(capsys.readouterr().err.rstrip().splitlines()) <= 4


def test_a_record_that_was_changed_is_told_by_its_field_and_the_save_before_is_taken(run_there):
    path = run_there / "m" / directory.STATE_FACTS
    with_digest(run_there / "m", directory.STATE_FACTS, path.read_bytes().replace(b'"step": 8', b'"step": "8"'))
    found, notes = _newest_good(run_there / "m")
    assert found.state.facts["step"] == 6
    assert "state.json: step is '8', and must be a whole number. Going on from the save before it." in notes[0]


@pytest.mark.parametrize(
    "data", [b"x", b"[1]\n", b"{}\nx\n", b'{"kind": "step"}\n', b'{"kind": 1, "step": 1}\n', "utf-16"]
)
def test_reports_that_were_changed_with_their_digest_are_refused(run_there, data):
    shutil.rmtree(run_there / ".m.previous")
    before = (run_there / "m" / directory.METRICS).read_text()
    with_digest(run_there / "m", directory.METRICS, before.encode(data) if isinstance(data, str) else data + b"\n")
    with pytest.raises(BadCheckpoint, match=r"metrics\.jsonl"):
        resume_job(run_there / "m")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype", "nan", "steps"])
@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_tensors_of_a_state_that_do_not_fit_are_refused(run_there, monkeypatch, capsys, part, change):
    monkeypatch.chdir(run_there)
    path = Path("m", directory.STATE_TENSORS)
    tensors = load_file(path)
    name = min(name for name in tensors if name.startswith(part) and tensors[name].ndim == 2)
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors[f"{part}.x"] = torch.zeros(1)
    elif change == "shape":
        tensors[name] = tensors[name][:-1].contiguous()
    elif change == "dtype":
        tensors[name] = tensors[name].to(torch.float64)
    elif change == "nan":
        tensors[name][0, 0] = torch.nan
    else:
        tensors["optimizer.adamw.steps"] = torch.tensor(-1)
    save_file(tensors, path)
    with_digest(Path("m"), directory.STATE_TENSORS, path.read_bytes())
    assert run(["train", "--resume", "--out", "m"]) == 3
    assert "state/state.safetensors" in capsys.readouterr().err


def test_a_run_told_of_a_torn_save_ends_with_the_bits_it_would_have_had(run_there, monkeypatch, capsys):
    monkeypatch.chdir(run_there)
    damage(run_there / "m" / directory.STATE_TENSORS, "flip")
    assert run(["train", "--resume", "--out", "m"]) == 0
    err = capsys.readouterr().err
    assert "state.safetensors is damaged" in err
    assert "Going on from the save before it" in err
    assert digest(run_there / "m") == digest(run_there / "whole")
    assert not [path.name for path in run_there.iterdir() if path.name.startswith(".m")]


def test_a_run_that_has_ended_is_not_taken_back_to_a_save_before(run_there):
    shutil.rmtree(run_there / "m")
    (run_there / "whole").rename(run_there / "m")
    with pytest.raises(BadCheckpoint, match="no state to resume from"):
        resume_job(run_there / "m")
    load_model(run_there / "m", torch.device("cpu"), torch.float32)


def test_a_run_on_a_text_that_was_edited_is_refused(run_there, monkeypatch, capsys):
    monkeypatch.chdir(run_there)
    Path("story.txt").write_text(story(1500).replace("moon", "noon", 1))
    before = contents(run_there / "m")
    assert run(["train", "story.txt", "--resume", "--out", "m"]) == 3
    assert "not the one that m was trained on" in capsys.readouterr().err
    assert contents(run_there / "m") == before


def test_fewer_threads_are_a_warning(run_there, monkeypatch):
    assert resume_job(run_there / "m").notes == ()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert resume_job(run_there / "m").notes == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads - 1)
    assert "not bit-identical" in resume_job(run_there / "m").notes[0]


def test_another_torch_is_a_warning(run_there, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.0.0")
    assert "not bit-identical" in resume_job(run_there / "m").notes[0]


def test_a_text_named_twice_is_seen_twice_and_only_beside_another_to_validate_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("story.txt", "other.txt", "val.txt")):
        Path(name).write_text(story(1500, seed=seed))
    given = ["train", "story.txt", "story.txt", "other.txt"]
    options = ["--steps", "2", "--size", "1x32", "--context", "16", "--vocab-size", "300", "--name", "m"]
    assert run([*given, *options]) == 2
    assert "may be trained on too" in capsys.readouterr().err
    assert run([*given, "--val-file", "val.txt", *options]) == 0
    assert "2 x story.txt, other.txt: " in " ".join(capsys.readouterr().err.split())
    corpus = json.loads(Path("checkpoints/m/run.json").read_text())["corpus"]
    assert corpus["sources"] == given[1:]
    characters = [len(Path(name).read_text()) for name in given[1:]]
    assert corpus["train_characters"] == sum(characters)


def test_the_validation_text_of_a_stopped_run_may_lie_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(1500))
    Path("val.txt").write_text(story(600, seed=1))
    config = TrainConfig(steps=12, size="1x32", context=16)
    job = new_job(["story.txt"], "val.txt", CorpusConfig(vocab_size=300), config)
    asked = itertools.count(1)
    with lock(Path("m")):
        list(train(job.corpus, job.plan, Path("m"), facts=job.facts, stop=lambda: next(asked) >= 4))
    Path("val.txt").rename("moved.txt")
    assert run(["train", "--resume", "--out", "m"]) == 3
    assert "val.txt" in capsys.readouterr().err
    assert run(["train", "--resume", "--out", "m", "--val-file", "story.txt"]) == 3
    assert "not the one" in capsys.readouterr().err
    assert run(["train", "--resume", "--out", "m", "--val-file", "moved.txt"]) == 0
