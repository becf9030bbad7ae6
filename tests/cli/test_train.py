"""`attncli train` on a small text: the plan, refused options, signals, kills and resuming."""

import itertools
import json
import re
import shutil
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from attncli.cli import clock
from tests.support.commands import BRIEF, QUICK, ask
from tests.support.forking import ForkedCommand
from tests.support.texts import story


def test_train_prints_a_plan_its_progress_and_a_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    code, out, err = ask(capsys, "train", "story.txt", *QUICK)
    assert code == 0
    for figure in ("nats per token", "bits per byte", "nats per character", "checkpoints/story", "A sample"):
        assert figure in out
    for line in ("Training checkpoints/story", "step 30/30", "attncli generate -m story", "attncli explain -m story"):
        assert line in err
    assert {path.name for path in Path("checkpoints").iterdir()} == {"story"}


def test_train_json_is_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    code, out, _ = ask(capsys, "train", "story.txt", *QUICK, "--json", "--out", "here")
    document = json.loads(out)
    assert code == 0
    assert (document["path"], document["steps"], document["finished"]) == ("here", 30, True)
    assert document["validation"]["bits_per_byte"] > 0


def test_a_model_of_the_same_name_is_not_overwritten(at_home, capsys):
    before = (at_home / "checkpoints/story/manifest.json").read_bytes()
    code, _, err = ask(capsys, "train", "story.txt", *QUICK)
    assert code == 2
    assert all(word in err for word in ("exists", "--name", "--force"))
    assert "--resume" not in err  # the run has finished
    assert (at_home / "checkpoints/story/manifest.json").read_bytes() == before


def test_force_replaces_only_a_model(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text((home / "story.txt").read_text())
    for _ in range(2):
        assert ask(capsys, "train", "story.txt", *BRIEF, "--out", "m", "--force")[0] == 0
        Path("m/README.md").write_text("a model card")
    assert ask(capsys, "train", "story.txt", *BRIEF, "--out", "m", "--force")[0] == 0
    assert Path("m/README.md").read_text() == "a model card"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    Path("file").write_text("mine too")
    for place in ("mine", "file"):
        code, _, err = ask(capsys, "train", "story.txt", *BRIEF, "--out", place, "--force")
        assert code == 2
        assert place in err
    assert Path("mine/thesis.txt").read_text() == "years of work"
    assert Path("file").read_text() == "mine too"
    Path("m/notes.txt").write_text("kept")
    assert ask(capsys, "train", "story.txt", *BRIEF, "--out", "m", "--force")[0] == 2
    assert Path("m/notes.txt").read_text() == "kept"


def test_a_folder_of_text_does_not_hide_the_model_of_the_same_name(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/a.txt").write_text((home / "story.txt").read_text())
    assert ask(capsys, "train", "notes", *BRIEF)[0] == 0
    assert ask(capsys, "generate", "The", "-m", "notes", "-n", "2", "-t", "0")[0] == 0


def test_the_error_for_too_little_memory_names_the_options_to_change(at_home, monkeypatch, capsys):
    from attncli.training import measure

    def exhausted(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(measure, "measure_step", exhausted)
    code, _, err = ask(capsys, "train", "story.txt", *QUICK, "--name", "big")
    assert code == 4
    assert "--batch-size" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_run_and_names_the_command_that_resumes_it(home, tmp_path, monkeypatch, capsys, number):
    arguments = ["--steps", "100k", "--size", "1x32", "--context", "32", "--seed", "1"]
    process = ForkedCommand("train", str(home / "story.txt"), *arguments, folder=tmp_path)
    for line in process.stderr:
        if line.startswith("machine"):  # the last line of the plan, before the training loop
            break
    while not (tmp_path / "checkpoints/story/manifest.json").exists():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert "attncli train --resume --name story" in err
    run_file = json.loads((tmp_path / "checkpoints/story/run.json").read_text())
    assert run_file["status"] == "stopped"
    monkeypatch.chdir(tmp_path)
    code, _, err = ask(capsys, "train", str(home / "story.txt"))
    assert code == 2
    assert all(word in err for word in ("exists", "--resume", "--name", "--force"))
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left <= {"story", ".story.previous"}  # no lock and no incomplete save


@contextmanager
def interrupted(after):
    """Interrupts a run after it has checked for signals `after` times."""
    import attncli.cli.bodies.train as module

    class Watched:
        asked = itertools.count()
        received = (signal.SIGINT,)

        def __bool__(self):
            return next(self.asked) >= after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "StopRequests", lambda: nullcontext(Watched()))
        yield


def test_a_stopped_run_is_resumed_to_its_end(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text((home / "story.txt").read_text())
    with interrupted(after=10):
        assert ask(capsys, "train", "story.txt", *QUICK)[0] == 130
    code, out, _ = ask(capsys, "train", "--resume")
    assert code == 0
    assert "30 steps" in out
    assert (home / "checkpoints/story/model.safetensors").read_bytes() == Path(
        "checkpoints/story/model.safetensors"
    ).read_bytes()


def test_a_forced_run_that_is_stopped_before_a_score_keeps_the_model(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "checkpoints", "checkpoints")
    before = Path("checkpoints/story/manifest.json").read_bytes()
    with interrupted(after=0):
        code, _, err = ask(capsys, "train", str(home / "story.txt"), *QUICK, "--force")
    assert code == 130
    assert "nothing is saved" in err
    assert "--resume" not in err
    assert Path("checkpoints/story/manifest.json").read_bytes() == before


def test_a_run_killed_between_the_renames_of_a_save_is_found_and_resumed(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with interrupted(after=10):
        assert ask(capsys, "train", str(home / "story.txt"), *QUICK)[0] == 130
    shutil.rmtree("checkpoints/.story.previous", ignore_errors=True)
    Path("checkpoints/story").rename("checkpoints/.story.previous")
    assert "story ←" in ask(capsys, "models")[1]
    assert ask(capsys, "generate", "The", "-n", "2", "-t", "0")[0] == 0
    assert ask(capsys, "train", "--resume")[0] == 0
    assert [path.name for path in Path("checkpoints").iterdir()] == ["story"]


def test_a_run_on_a_folder_that_contains_its_model_is_resumed(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("story.txt").write_text(story(3000))
    assert ask(capsys, "train", "story.txt", *QUICK)[0] == 0
    with interrupted(after=10):
        assert ask(capsys, "train", ".", *QUICK, "--name", "all")[0] == 130
    assert ask(capsys, "train", "--resume")[0] == 0
    weights = [Path(f"checkpoints/{name}/model.safetensors").read_bytes() for name in ("story", "all")]
    assert weights[0] == weights[1]


def test_a_run_is_not_resumed_on_another_text(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with interrupted(after=2):
        assert ask(capsys, "train", str(home / "story.txt"), *QUICK, "--out", "m")[0] == 130
    Path("other.txt").write_text(story(3000, seed=9))
    code, _, err = ask(capsys, "train", "other.txt", "--resume", "--out", "m")
    assert code == 3
    assert "not the one that m was trained on" in err


# Kills the run two steps after a number of saves.
KILLED = """
import itertools, os, signal
from attncli.training import loop, saver
steps = itertools.count()
write, step, saved = saver.write_checkpoint, loop._Loop._step, []
def writing(*given):
    write(*given)
    saved.append(given)
def stepping(*given):
    if len(saved) > saves and next(steps) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given)
saver.write_checkpoint, loop._Loop._step = writing, stepping
"""


@pytest.mark.parametrize("saves", [1, 3])
def test_a_killed_run_resumes_and_ends_with_the_same_bits(home, tmp_path, monkeypatch, capsys, saves):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(home / "story.txt"), *QUICK, "--name", "killed"]
    with ForkedCommand(*command, folder=tmp_path, before=f"saves = {saves}\n{KILLED}") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert ask(capsys, "generate", "The", "-n", "3", "-t", "0", "-m", "killed")[0] == 0
    assert "interrupted" in ask(capsys, "models")[1]
    code, _, err = ask(capsys, "train", "--resume", "--name", "killed")
    assert code == 0
    assert "going on at step" in err
    weights = [path / "model.safetensors" for path in (home / "checkpoints/story", Path("checkpoints/killed"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [path.name for path in Path("checkpoints").iterdir()] == ["killed"]


def test_a_run_writes_a_sample_from_a_prompt_longer_than_its_context(tmp_path, monkeypatch, capsys):
    """The sample of a run begins with words of the text, which can be longer than a small context."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    small = ("--context", "8", "--tokenizer", "char", "--steps", "24", "--size", "1x32")
    assert ask(capsys, "train", "t.txt", *small)[0] == 0


def test_plan_prints_a_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    code, out, _ = ask(capsys, "train", "t.txt", "--steps", "24", "--size", "1x32", "--plan", "--name", "p")
    assert code == 0
    assert "1 layer x 1 head, width 32" in out
    code, out, _ = ask(capsys, "train", "t.txt", "--tokens", "5k", "--size", "1x32", "--plan", "--json")
    assert json.loads(out)["model"]["layers"] == 1
    assert not Path("checkpoints/p").exists()


def test_a_run_from_a_model_refuses_options_that_the_model_determines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(story(1500))
    Path("u.txt").write_text(story(900, seed=1))
    small = ("--context", "16", "--steps", "24")
    assert ask(capsys, "train", "t.txt", *small, "--size", "1x32")[0] == 0
    code, _, err = ask(capsys, "train", "u.txt", *small, "--from", "t")
    assert code == 0
    assert "cuts this text" not in err
    assert re.search(r"went on from +(checkpoints/)?t\b", ask(capsys, "info", "u")[1])
    Path("w.txt").write_text("река и лес у дороги " * 60)
    assert "into pieces of 1.0 bytes" in ask(capsys, "train", "w.txt", *small, "--from", "t", "--plan")[2]
    code, _, err = ask(capsys, "train", "u.txt", "--from", "t", "--size", "2x32", "--name", "v")
    assert code == 2
    assert "--size cannot be given" in err
    code, _, err = ask(capsys, "train", "u.txt", "--from", "t", "--adam-lr", "0.1", "--name", "v")
    assert code == 2
    assert "--adam-lr" in err


def test_the_time_of_a_run_counts_from_the_command_not_from_the_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock, "started", clock.started - 1e6)
    Path("t.txt").write_text(story(1500))
    code, out, _ = ask(capsys, "train", "t.txt", "--time", "2m", "--size", "1x32", "--plan", "--json")
    assert (code, json.loads(out)["seconds"]) == (0, 120)


def test_a_plan_says_whether_its_run_would_be_refused(at_home, capsys):
    plan = ("train", "story.txt", *QUICK, "--plan")
    assert "would be refused: checkpoints/story exists" in ask(capsys, *plan)[2]
    for free in (("--force",), ("--name", "other")):
        code, _, err = ask(capsys, *plan, *free)
        assert code == 0
        assert "refused" not in err
