"""A stopped run continues from the newest undamaged save, on the same text, and refuses another text."""

import hashlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.lock import lock
from attncli.cli.main import run
from attncli.cli.options import option_name
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import BadCheckpoint
from attncli.training import new_job, resume_job, train
from attncli.training.resume import _newest_good
from tests.support.texts import story
from tests.support.training import SMALL, contents, digest

FILES = [
    *(directory.CONFIG, directory.GENERATION, directory.TOKENIZER, directory.TOKENIZER_CONFIG, directory.WEIGHTS),
    *(directory.RUN, directory.METRICS, directory.MANIFEST, directory.STATE_TENSORS, directory.STATE_FACTS),
]


# Damaged saves, changed records and other reasons to refuse or warn


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Returns a folder with a text, and with a run that was stopped at step 8, after a save at step 6."""
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
    """Returns a copy of the folder `stopped`, which a test may damage."""
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
def test_a_torn_save_falls_back_to_the_previous_save(run_there, name, how):
    damage(run_there / "m" / name, how)
    found, notes = _newest_good(run_there / "m")
    assert found.state.facts["step"] == 6
    assert "Continuing from the previous save." in notes[0]
    assert Path(name).name in notes[0]
    assert read_resumable(run_there / "m").state.facts["step"] == 6  # the good save is now the current one


@pytest.mark.parametrize("name", FILES)
def test_a_torn_save_without_a_previous_save_is_refused(run_there, name):
    shutil.rmtree(run_there / ".m.previous")
    damage(run_there / "m" / name, "truncate")
    with pytest.raises(BadCheckpoint) as raised:
        resume_job(run_there / "m")
    assert raised.value.exit_code == 3
    assert name in raised.value.message


def changed(document, path, value):
    """Returns a JSON document with another value at a path of keys; the value `...` removes the key."""
    key, *rest = path
    if rest:
        return document | {key: changed(document[key], rest, value)}
    return {name: held for name, held in document.items() if name != key} | ({} if value is ... else {key: value})


def with_digest(folder, name, data):
    """Replaces the bytes of a file, and writes their digest to the manifest."""
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
def test_a_changed_record_with_a_matching_digest_is_refused(run_there, monkeypatch, capsys, name, path, value):
    monkeypatch.chdir(run_there)
    shutil.rmtree(".m.previous")
    document = changed(json.loads(Path("m", name).read_text()), path, value)
    with_digest(Path("m"), name, json.dumps(document).encode())
    assert run(["train", "--resume", "--out", "m"]) == 3
    assert len(capsys.readouterr().err.rstrip().splitlines()) <= 4


def test_a_changed_record_is_named_by_its_field_and_the_previous_save_is_used(run_there):
    path = run_there / "m" / directory.STATE_FACTS
    with_digest(run_there / "m", directory.STATE_FACTS, path.read_bytes().replace(b'"step": 8', b'"step": "8"'))
    found, notes = _newest_good(run_there / "m")
    assert found.state.facts["step"] == 6
    assert "state.json: step is '8', and must be a whole number. Continuing from the previous save." in notes[0]


@pytest.mark.parametrize(
    "data", [b"x", b"[1]\n", b"{}\nx\n", b'{"kind": "step"}\n', b'{"kind": 1, "step": 1}\n', "utf-16"]
)
def test_changed_metrics_with_a_matching_digest_are_refused(run_there, data):
    shutil.rmtree(run_there / ".m.previous")
    before = (run_there / "m" / directory.METRICS).read_text()
    with_digest(run_there / "m", directory.METRICS, before.encode(data) if isinstance(data, str) else data + b"\n")
    with pytest.raises(BadCheckpoint, match=r"metrics\.jsonl"):
        resume_job(run_there / "m")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype", "nan", "steps"])
@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_a_state_with_wrong_tensors_is_refused(run_there, monkeypatch, capsys, part, change):
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


def test_a_run_resumed_from_the_previous_save_ends_with_the_same_bits(run_there, monkeypatch, capsys):
    monkeypatch.chdir(run_there)
    damage(run_there / "m" / directory.STATE_TENSORS, "flip")
    assert run(["train", "--resume", "--out", "m"]) == 0
    err = capsys.readouterr().err
    assert "state.safetensors is damaged" in err
    assert "Continuing from the previous save" in err
    assert digest(run_there / "m") == digest(run_there / "whole")
    assert not [path.name for path in run_there.iterdir() if path.name.startswith(".m")]


def test_a_finished_run_does_not_fall_back_to_an_earlier_save(run_there, capsys):
    shutil.rmtree(run_there / "m")
    (run_there / "whole").rename(run_there / "m")
    with pytest.raises(BadCheckpoint, match="no state to resume from") as caught:
        resume_job(run_there / "m")
    assert caught.value.hint.endswith(f"""train("FILE", start={str(run_there / "m")!r}, name="NEW")""")
    assert run(["train", "--resume", "--out", str(run_there / "m")]) == 3
    assert f"attncli train FILE --from {run_there / 'm'} --name NEW\n" in capsys.readouterr().err
    load_model(run_there / "m", torch.device("cpu"), torch.float32)


def test_a_run_is_not_resumed_on_an_edited_text(run_there, monkeypatch, capsys):
    monkeypatch.chdir(run_there)
    Path("story.txt").write_text(story(1500).replace("moon", "noon", 1))
    before = contents(run_there / "m")
    assert run(["train", "story.txt", "--resume", "--out", "m"]) == 3
    assert "not the one that m was trained on" in capsys.readouterr().err
    assert contents(run_there / "m") == before


def test_resuming_with_fewer_threads_gives_a_warning(run_there, monkeypatch):
    assert resume_job(run_there / "m").notes == ()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert resume_job(run_there / "m").notes == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads - 1)
    assert "not bit-identical" in resume_job(run_there / "m").notes[0]


def test_resuming_with_another_version_of_torch_gives_a_warning(run_there, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.0.0")
    assert "not bit-identical" in resume_job(run_there / "m").notes[0]


def test_the_hint_for_a_missing_run_is_spelled_for_the_library_and_for_the_command_line(stopped, monkeypatch):
    monkeypatch.chdir(stopped)
    (stopped / "checkpoints").mkdir(exist_ok=True)
    shutil.copytree(stopped / "m", stopped / "checkpoints" / "m", dirs_exist_ok=True)
    with pytest.raises(BadCheckpoint) as raised:
        resume_job(Path("nosuch"))
    assert raised.value.hint == "To begin one, leave resume out; to resume one of m: train(resume=True, name='m')."
    raised.value.spell(option_name)
    resume = "attncli train --resume --name m"
    assert raised.value.hint == f"To begin one, leave --resume out; to resume one of m: {resume}."


def test_a_text_named_twice_is_trained_on_twice_and_needs_a_validation_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("story.txt", "other.txt", "val.txt")):
        Path(name).write_text(story(1500, seed=seed))
    given = ["train", "story.txt", "story.txt", "other.txt"]
    options = ["--steps", "2", "--size", "1x32", "--context", "16", "--vocab-size", "300", "--name", "m"]
    assert run([*given, *options]) == 2
    assert "or trained and validated on" in capsys.readouterr().err
    assert run([*given, "--val-file", "val.txt", *options]) == 0
    assert "2 x story.txt, other.txt: " in " ".join(capsys.readouterr().err.split())
    corpus = json.loads(Path("checkpoints/m/run.json").read_text())["corpus"]
    assert corpus["sources"] == given[1:]
    characters = [len(Path(name).read_text()) for name in given[1:]]
    assert corpus["train_characters"] == sum(characters)


def test_a_validation_text_that_was_moved_can_be_named_when_resuming(tmp_path, monkeypatch, capsys):
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
