"""Unreadable paths and files that are not regular files give an error of two lines; they never block or crash."""

import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import resource
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from attncli.checkpoint import directory
from attncli.checkpoint import lock as lock_module
from attncli.checkpoint.atomic import previous_of, settle
from attncli.checkpoint.catalog import find_model, known_models, list_models, status_of
from attncli.checkpoint.directory import ModelFolder, read_json
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.lock import is_held, lock, lock_of
from attncli.checkpoint.save import write_checkpoint
from attncli.cli.main import run
from attncli.cli.resolving import note_default
from attncli.errors import AttnError, BadCheckpoint, OutOfRoom
from attncli.folders import models_folder
from attncli.paths import exists, is_file, is_folder, look, open_regular, read_regular, unreadable, unwritable
from attncli.training.resume import _newest_good
from tests.support.checkpoints import CPU, checkpoint
from tests.support.faults import fault_at
from tests.support.texts import story

FILES = [
    *(directory.CONFIG, directory.GENERATION, directory.TOKENIZER, directory.TOKENIZER_CONFIG, directory.WEIGHTS),
    *(directory.RUN, directory.METRICS, directory.MANIFEST, directory.STATE_TENSORS, directory.STATE_FACTS),
]


def device(path):
    """Creates a link to a device whose content ends at once. A test with /dev/zero might never end."""
    path.symlink_to(os.devnull)


STRANGE = {"pipe": os.mkfifo, "device": device, "folder": Path.mkdir}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("checkpoints/m"), checkpoint())
    return Path("checkpoints/m")


@contextmanager
def unprivileged():
    """Within this context, the process lacks the capability of root to read and write every file."""
    library, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    root = os.geteuid() == 0
    if root:
        assert library.capget(header, sets) == 0
        effective = sets[0]
        sets[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert library.capset(header, sets) == 0
    try:
        yield
    finally:
        if root:
            sets[0] = effective
            assert library.capset(header, sets) == 0


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """Creates a text, a model, and a model in an unreadable directory. ./checkpoints is not writable."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("checkpoints/m"), checkpoint())
    write_checkpoint(Path("checkpoints/locked"), checkpoint())
    Path("text.txt").write_text("some words of a text\n" * 200)
    Path("checkpoints/locked").chmod(0)
    Path("checkpoints").chmod(0o555)
    yield
    Path("checkpoints").chmod(0o755)
    Path("checkpoints/locked").chmod(0o755)


# Stat of a path


@pytest.mark.parametrize("path", ["missing", "file/x", "x" * 300, "a\0b", "\ud800", ""])
def test_a_path_that_does_not_exist_has_no_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert not is_file(path)
    assert exists(path) == is_folder(path) == (path == "")  # the working directory
    assert (look(Path(path)) is None) == (path != "")


def test_a_loop_of_links_is_an_error_in_look_and_does_not_exist(tmp_path):
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
    assert os.dup(0) == free  # no descriptor was left open
    os.close(free)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", 3) == b"abc"
    with pytest.raises(OSError, match="larger than") as raised:
        read_regular(tmp_path / "x", 2)
    assert raised.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="a link, which is not followed"):
        read_regular(tmp_path / "link", follow=False)
    if Path("/proc/self/status").exists():
        assert read_regular(Path("/proc/self/status")) == b""  # the file reports size 0, although it has content


# Models


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", FILES)
def test_a_model_file_that_is_not_a_regular_file_is_refused_at_once(saved, name, kind):
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
def test_a_name_that_no_file_can_have_names_no_model(saved, monkeypatch, capsys, name):
    with pytest.raises(BadCheckpoint, match="There is no model"):
        find_model(name)
    for arguments in (["info", name], ["tokenize", "-m", name, "hello"], ["plot", name]):
        assert run(arguments) in (2, 3)
    monkeypatch.setenv("ATTNCLI_MODEL", "none" if "\0" in name else name.replace("\ud800", "\udcff"))
    assert run(["info"]) in (2, 3)
    assert run(["models"]) == 0


def test_the_error_for_a_model_names_a_loop_of_links(saved):
    Path("checkpoints/loop").symlink_to("loop")
    with pytest.raises(BadCheckpoint, match="cannot be read: Too many levels of symbolic links"):
        find_model("loop")
    assert [entry.name for entry in list_models()] == ["m"]


def test_an_unreadable_model_is_an_error_and_does_not_affect_other_models(locked, capsys):
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


def test_an_unreadable_folder_of_models_is_an_error(locked, capsys):
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
def test_a_number_that_is_not_finite_is_refused_in_json(tmp_path, number):
    (tmp_path / "x.json").write_text(f'{{"a": [{number}]}}')
    with pytest.raises(BadCheckpoint, match="is not a finite number"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": 1.5e300}')
    assert read_json(tmp_path / "x.json") == {"a": 1.5e300}


def test_a_model_with_an_infinite_number_in_its_record_does_not_affect_the_list(saved, capsys):
    write_checkpoint(Path("checkpoints/n"), checkpoint())
    Path("checkpoints/n/run.json").write_text('{"results": {"bits_per_byte": 1e999}}')
    assert run(["models", "--json"]) == 0
    assert run(["info", "n", "--json"]) == 3


# Where a model goes


TRAIN = ["train", "text.txt", "--steps", "4", "--size", "1x32", "--context", "16", "--batch-size", "2", "--seed", "1"]
TRAIN += ["--dtype", "float32", "--vocab-size", "300"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("text.txt").write_text(story(600))
    return tmp_path / "here"


def test_a_model_whose_name_is_a_link_is_written_to_the_target_of_the_link(text, capsys):
    """After several saves the link remains, and the previous save and the lock are next to the real directory."""
    disk = text.parent / "disk"
    write_checkpoint(disk / "m", checkpoint(state=False))
    Path("checkpoints").mkdir()
    Path("checkpoints/m").symlink_to("../../disk/m")
    for _ in range(2):
        assert run([*TRAIN, "--name", "m", "--force"]) == 0
        assert Path("checkpoints/m").is_symlink()
        assert [path.name for path in disk.iterdir()] == ["m"]
    assert run([*TRAIN, "--name", "m"]) == 2
    assert [path.name for path in Path("checkpoints").iterdir()] == ["m"]
    for step in (1, 2, 3):
        write_checkpoint(Path("checkpoints/m"), checkpoint(step=step))
    assert sorted(path.name for path in disk.iterdir()) == [".m.previous", "m"]
    assert read_resumable(find_model("m")).state.facts["step"] == 3
    shutil.rmtree(disk / "m")  # the state after a kill between the two renames of a save
    assert read_resumable(find_model("m")).state.facts["step"] == 2
    with lock(Path("checkpoints/m")), pytest.raises(BadCheckpoint, match="another run"), lock(disk / "m"):
        pass


def test_an_error_without_a_reason_gives_the_type_of_the_exception(tmp_path):
    assert unwritable(tmp_path / "m", OSError("why")).message.endswith("cannot be written: why.")
    assert unreadable(tmp_path / "m", OSError()).message.endswith("cannot be read: OSError.")


def test_an_existing_target_is_refused_before_torch_is_imported(text):
    target = Path("checkpoints/text")
    target.mkdir(parents=True)
    (target / "note.txt").touch()
    code = f"import sys; from attncli.cli.main import run; sys.exit(run({TRAIN!r}) + 9 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds note.txt, which is not a file of a model" in done.stderr


def test_the_working_directory_is_not_replaced(text, capsys):
    for out in (".", "../here", str(text)):
        assert run([*TRAIN, "--out", out]) == 2
        assert "is the working directory" in capsys.readouterr().err
    assert [path.name for path in text.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("put", [Path.mkdir, Path.touch, lambda path: path.symlink_to("text.txt")])
def test_a_file_with_the_name_of_a_save_is_neither_used_nor_removed(text, capsys, put):
    Path("checkpoints").mkdir()
    strange = Path("checkpoints/.zz.previous")
    put(strange)
    assert list_models() == []
    with pytest.raises(BadCheckpoint, match="There is no model"):
        find_model("zz")
    settle(Path("checkpoints/zz"))
    assert run([*TRAIN, "--name", "zz"]) == 2
    assert ".zz.previous is not a save" in capsys.readouterr().err
    with lock(Path("checkpoints/zz")):
        write_checkpoint(Path("checkpoints/zz"), checkpoint())
        with pytest.raises(OutOfRoom, match="has the name of the previous save"):
            write_checkpoint(Path("checkpoints/zz"), checkpoint())
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == [".zz.previous", "zz"]
    assert os.path.lexists(strange)
    Path("checkpoints/.zz.writing-notes").mkdir()  # also a directory of the user
    strange.rename("elsewhere")
    write_checkpoint(Path("checkpoints/zz"), checkpoint())
    assert Path("checkpoints/.zz.writing-notes").exists()


@pytest.mark.parametrize("planted", ["link", "pipe", "folder"])
def test_a_lock_that_is_not_a_regular_file_is_refused_and_links_are_not_followed(text, capsys, planted):
    Path("checkpoints").mkdir()
    planting = STRANGE | {"link": lambda path: path.symlink_to("../text.txt")}
    planting[planted](Path("checkpoints/.m.lock"))
    before = Path("text.txt").read_text()
    assert run([*TRAIN, "--name", "m"]) == 4
    assert "cannot be written" in capsys.readouterr().err
    assert Path("text.txt").read_text() == before
    assert status_of(Path("checkpoints/m"), {"status": "running"}) == "interrupted"


def test_a_leftover_lock_file_locks_nothing_and_a_run_removes_its_lock(tmp_path):
    lock_of(tmp_path / "m").write_text("123")
    assert status_of(tmp_path / "m", {"status": "running"}) == "interrupted"
    with pytest.raises(SystemExit), lock(tmp_path / "m"):
        assert lock_of(tmp_path / "m").read_text() == str(os.getpid())
        assert status_of(tmp_path / "m", {"status": "running"}) == "running"
        raise SystemExit
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_checks_a_lock_does_not_prevent_a_run(tmp_path, monkeypatch):
    path = lock_of(tmp_path / "m")
    path.touch()
    with path.open() as looking:
        lock_module._hold(looking.fileno(), shared=True)
        monkeypatch.setattr(lock_module, "is_held", lambda target: is_held(target) or looking.close())
        with lock(tmp_path / "m"):
            assert is_held(tmp_path / "m")


def test_on_windows_a_directory_is_locked_through_msvcrt(tmp_path, monkeypatch):
    """This msvcrt locks the whole file instead of a byte, and fails as that of Windows does."""

    def locking(handle, mode, count):
        assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR) > 20) == ("without waiting", 1, True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    msvcrt = SimpleNamespace(LK_NBLCK="without waiting", locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not is_held(tmp_path / "m")
    with lock(tmp_path / "m"):
        assert is_held(tmp_path / "m")
        with pytest.raises(BadCheckpoint, match=f"process {os.getpid()}"), lock(tmp_path / "m"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_model_card_that_is_a_link_is_not_copied(saved):
    Path("secret").write_text("a secret")
    (saved / "README.md").symlink_to("../../secret")
    assert ModelFolder(saved).foreign() == ["README.md"]
    write_checkpoint(saved, checkpoint())
    assert not (saved / "README.md").exists()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, "y" * 240])
def test_a_name_that_is_too_long_is_refused(text, capsys, name):
    for option in (["--name", name], ["--out", name]):
        assert run([*TRAIN, *option]) == 4
        assert "cannot be written: File name too long" in capsys.readouterr().err
    assert [path.name for path in text.iterdir() if path.name != "checkpoints"] == ["text.txt"]
    assert not list(Path("checkpoints").iterdir())


def test_the_hint_for_an_unwritable_place_is_spelled_for_the_library_and_for_the_command_line(locked, capsys):
    assert unwritable(Path("m"), OSError(errno.EACCES, "no")).hint == "Choose another directory with out."
    with unprivileged():
        assert run([*TRAIN, "--out", "checkpoints/new"]) == 4
    assert "Choose another directory with --out." in capsys.readouterr().err


def test_an_inaccessible_place_cannot_be_read_or_written(locked, capsys):
    with unprivileged():
        for out in ("checkpoints/locked/new", "checkpoints/new"):
            assert run([*TRAIN, "--out", out]) == 4
            assert f"{out} cannot be written: Permission denied" in capsys.readouterr().err
        assert run(["train", "text.txt", "--from", "locked", "--out", "new"]) == 3
        assert "locked/config.json cannot be read: Permission denied" in capsys.readouterr().err
        for option, file in (("--svg", "checkpoints/locked/x.svg"), ("--html", "checkpoints/x.html")):
            assert run(["explain", "a b", option, file]) == 4
            assert "cannot be written: Permission denied" in capsys.readouterr().err
        assert run(["tokenize", "--train", "text.txt", "--out", "checkpoints/locked/tok"]) == 4
        assert "cannot be written: Permission denied" in capsys.readouterr().err


# Directories that are not models, and other errors of places


def test_an_adapter_and_a_gguf_file_are_refused_by_their_kind(text, capsys):
    Path("lora").mkdir()
    Path("lora/adapter_config.json").write_text('{"peft_type": "LORA"}')
    Path("lora/adapter_model.safetensors").touch()
    Path("quantized").mkdir()
    Path("quantized/tiny.Q4_K_M.gguf").touch()
    told = {
        "lora": ("holds an adapter (adapter_config.json)", "give --adapter"),
        "quantized": ("holds tiny.Q4_K_M.gguf, a GGUF file", "Give the file: quantized/tiny.Q4_K_M.gguf"),
        "quantized/tiny.Q4_K_M.gguf": ("is not a readable GGUF file: it does not begin with GGUF", "Copy it again"),
    }
    for name, words in told.items():
        for command in (["info", name], ["tokenize", "-m", name, "a"], ["train", "text.txt", "--from", name]):
            assert run(command) == 3
            err = capsys.readouterr().err
            assert all(word in err for word in words)
            assert "Train one first" not in err


def test_a_tokenizer_that_does_not_fit_on_the_disk_leaves_no_file(text, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert run(["tokenize", "--train", "text.txt", "--out", "tok"]) == 4
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "tok/tokenizer.json cannot be written: File too large" in capsys.readouterr().err
    assert list(Path("tok").iterdir()) == []


def test_a_deleted_working_directory_is_an_error(saved, tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in (["models"], ["info"], ["generate", "a"], ["train", "text.txt"], ["explain", "a", "--svg", "x.svg"]):
        assert run(command) == 3
        assert "The working directory cannot be used: No such file" in capsys.readouterr().err
    assert run(["--help"]) == 0


# A user's own folder of models


@pytest.fixture
def own(saved, monkeypatch):
    """Returns the user's models folder with a model `b` and a newer model `c`. `m` in ./checkpoints is the oldest."""
    folder = saved.parent.parent / "own"
    for age, path in enumerate((folder / "c", folder / "b", saved)):
        if path is not saved:
            write_checkpoint(path, checkpoint(state=False))
        os.utime(path / directory.CONFIG, (10**9 - age, 10**9 - age))
    monkeypatch.setenv("ATTNCLI_MODELS", str(folder.absolute()))
    return folder.absolute()


def test_the_models_folder_of_the_user_is_searched_after_the_working_directory(own, monkeypatch, capsys):
    assert find_model("b") == own / "b"
    assert find_model("m") == find_model(None) == Path("checkpoints/m")
    write_checkpoint(Path("checkpoints/b"), checkpoint(state=False))
    assert find_model("b") == Path("checkpoints/b")
    assert [(entry.name, entry.path) for entry in known_models()] == [
        ("b", Path("checkpoints/b")), ("m", Path("checkpoints/m")), ("c", own / "c"),
    ]  # fmt: skip
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert find_model(None) == own / "c"
    note_default(None)
    assert f"model c, the newest in {own}" in capsys.readouterr().err
    assert run(["models", "--json"]) == run(["models"]) == 0
    assert run(["info", "b"]) == 0
    with pytest.raises(BadCheckpoint, match=f"none of this name in ./checkpoints or {own}") as raised:
        find_model("x")
    assert raised.value.hint == "There is: b, c."


def test_a_model_can_be_trained_into_the_models_folder_of_the_user(own, text):
    assert run([*TRAIN, "--out", str(own / "mine")]) == 0
    assert find_model("mine") == find_model(None) == own / "mine"


def test_an_unreadable_models_folder_of_the_user_is_ignored(own):
    own.chmod(0)
    try:
        with unprivileged():
            assert [entry.name for entry in known_models()] == ["m"]
            assert find_model(None) == Path("checkpoints/m")
            with pytest.raises(BadCheckpoint, match="There is no model 'b'"):
                find_model("b")
    finally:
        own.chmod(0o755)


def test_environment_variables_set_the_models_folder_of_the_user(monkeypatch, tmp_path):
    assert models_folder() == Path(os.devnull)
    monkeypatch.delenv("ATTNCLI_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "attncli" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / ".local" / "share" / "attncli" / "models"


# Every system call fails once


CALLS = (
    *("open", "write", "ftruncate", "fsync", "close", "stat", "lstat", "fstat", "statvfs", "scandir", "listdir"),
    *("mkdir", "rename", "unlink", "rmdir"),
)
CODES = [errno.ENOSPC, errno.EIO]


def whole(path):
    """Returns the step of a save, after comparing every file with its digest in the manifest."""
    digests = read_json(path / directory.MANIFEST)["sha256"]
    assert len(digests) in (7, 9)
    assert all(hashlib.sha256((path / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    return read_json(path / directory.RUN)["step"]


def failing(code):
    def fail():
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("last", [False, True], ids=["running", "last"])
def test_a_complete_save_remains_whichever_system_call_of_a_save_fails(tmp_path, monkeypatch, code, last):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # fsync takes most of the time of a save
    base, target = tmp_path / "base", tmp_path / "there" / "m"
    for step in (1, 2):
        write_checkpoint(base / "m", checkpoint(step=step))
        (base / "m" / directory.CARD).write_text("a card")
    new, refused = checkpoint(step=3, state=not last), 0
    for n in itertools.count():
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(base, target.parent, copy_function=os.link)
        with fault_at(n, failing(code), calls=CALLS) as happened:
            try:
                with lock(target):
                    write_checkpoint(target, new)
                saved = True
            except AttnError as problem:
                assert (problem.exit_code, problem.message.count("\n")) == (4, 0)
                saved = False
        if not happened:
            break
        refused += not saved
        names = {path.name for path in target.parent.iterdir()}
        assert names <= {"m", ".m.previous"}
        step = whole(target)
        assert (target / directory.CARD).read_text() == "a card"
        assert step == 3 if saved else step in (2, 3)
        if ".m.previous" in names:
            assert whole(previous_of(target)) == step - 1
    assert saved
    assert n > 60
    assert refused > 30


@pytest.mark.parametrize("code", CODES)
def test_both_saves_remain_whichever_system_call_of_a_resumption_fails(tmp_path, code):
    base, target = tmp_path / "base", tmp_path / "there" / "m"
    for step in (1, 2):
        write_checkpoint(base / "m", checkpoint(step=step))
    for n in itertools.count():
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(base, target.parent, copy_function=os.link)
        with fault_at(n, failing(code), calls=CALLS) as happened, suppress(AttnError), lock(target):
            settle(target)
            found, notes = _newest_good(target)
            assert (found.state.facts["step"], notes) == (2, ())
        if not happened:
            break
        assert {path.name for path in target.parent.iterdir()} == {"m", ".m.previous"}
        assert (whole(target), whole(previous_of(target))) == (2, 1)
    assert n > 40
