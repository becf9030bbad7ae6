"""native.c is compiled once to a library; if that fails, PyTorch generates the text."""

import ctypes
import grp
import os
import pwd
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from attncli import folders
from attncli.cli.compiling import begin_compiling
from attncli.cli.loading import load_to_generate
from attncli.cli.shared import ModelSource
from attncli.config import SampleConfig
from attncli.generation.engine import generate
from attncli.generation.events import Text
from attncli.model import library_store, native, native_library
from attncli.model.backend import TorchBackend
from attncli.model.native_library import _Compilation, library
from tests.support.commands import ask

CC = native_library._compiler()
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler")
KEY = "0123456789abcdef" * 2
QUICK = ("-O0",)  # the speed of the library does not matter here


SMALL = '__attribute__((visibility("default"))) int supports_float16(void) { return 1; }\n'


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(request, tmp_path, monkeypatch):
    """Gives each test its own cache, and a source that compiles at once, unless the test generates text."""
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "own"))
    if "at_home" not in request.fixturenames:
        (tmp_path / "native.c").write_text(SMALL)
        monkeypatch.setitem(native_library.SOURCES, "native", tmp_path / "native.c")
    monkeypatch.setattr(native_library, "FLAGS", (*QUICK, "-shared", "-fPIC"))


KNOWS_ALL = 'case "$*" in *-fsyntax-only*) exit 0;; esac'


def compiler(folder, script, probe=KNOWS_ALL):
    """Returns a compiler that runs a shell script; `probe` answers which flags it accepts."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{probe}\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def counting(folder):
    """Returns a working compiler that records each call."""
    return compiler(folder, f'echo >> {folder}/calls\nexec {CC[0]} "$@"')


def calls(folder):
    return len((folder / "calls").read_text()) if (folder / "calls").exists() else 0


def loads(path):
    return ctypes.CDLL(str(path)).supports_float16() in (0, 1)


def made(cc, folder, key=KEY):
    """Returns the path of the library, or None."""
    found = _Compilation(cc, folder, key).result()
    return found and found.path


@needs_compiler
def test_a_library_is_made_once_and_nothing_else_is_left(tmp_path):
    cc, folder = counting(tmp_path), tmp_path / "own"
    path = made(cc, folder)
    assert list(folder.iterdir()) == [path]
    assert loads(path)
    assert made(cc, folder) == path
    assert calls(tmp_path) == 1
    assert made(cc, folder, "other") != path
    assert calls(tmp_path) == 2


@needs_compiler
@pytest.mark.parametrize("keep", [0, 100, 4096, 0.5, 0.99])
def test_a_library_that_was_cut_short_is_made_again(tmp_path, keep):
    cc, folder = counting(tmp_path), tmp_path / "own"
    path = made(cc, folder)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    again = made(cc, folder)
    assert calls(tmp_path) == 2
    assert again.read_bytes() == whole
    assert list(folder.iterdir()) == [again]
    assert loads(again)


@needs_compiler
def test_two_processes_that_compile_at_once_both_get_the_library(tmp_path, monkeypatch):
    cc, folder = counting(tmp_path), tmp_path / "own"
    one = _Compilation(cc, folder, KEY)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    two = _Compilation(cc, folder, KEY)
    assert calls_come(tmp_path, 2)
    assert loads(two.result().name)
    assert loads(one.result().name)
    assert not list(folder.glob("*.tmp"))


def calls_come(folder, count):
    end = time.monotonic() + 30
    while calls(folder) < count and time.monotonic() < end:
        os.sched_yield()
    return calls(folder) == count


@pytest.mark.parametrize(
    ("script", "told", "remembered"),
    [
        ("exit 1", "exit code 1", True),
        ("kill -9 $$", "exit code -9", False),
        ('while [ "$1" != -o ]; do shift; done; echo part > "$2"; exit 3', "exit code 3", True),
        ("echo 'a.c:1: fatal error: no math.h' >&2; echo 'error: more' >&2; exit 1", "a.c:1: fatal error: no", True),
        ("echo one >&2; echo two >&2; echo >&2; exit 1", "fails: two", True),
    ],
)
def test_a_compiler_that_fails_runs_once_and_its_error_is_printed(tmp_path, script, told, remembered):
    cc = compiler(tmp_path, f"echo >> {tmp_path}/calls\n{script}")
    for _ in range(2):
        begun = _Compilation(cc, tmp_path / "own", KEY)
        assert begun.result() is None
        assert told in begun.problem
        assert [path.name for path in (tmp_path / "own").iterdir()] == [f"{KEY}.failed"] * remembered
    assert calls(tmp_path) == (1 if remembered else 2)
    if remembered:
        os.utime(tmp_path / "own" / f"{KEY}.failed", (0, 0))  # long ago
        assert told in problem_of(cc, tmp_path / "own")
        assert calls(tmp_path) == 2


def problem_of(cc, folder):
    begun = _Compilation(cc, folder, KEY)
    begun.result()
    return begun.problem


@needs_compiler
@pytest.mark.parametrize(
    ("probe", "flags"),
    [
        (KNOWS_ALL, "-march=native"),
        ('case "$*" in *-march*) exit 1;; *-fsyntax-only*) exit 0;; esac', "-mcpu=native"),
        ('case "$*" in *-march*|*-mcpu*) exit 1;; esac', ""),
    ],
)
def test_a_compiler_is_given_no_flag_that_it_does_not_know(tmp_path, probe, flags):
    cc = compiler(tmp_path, f'echo "$*" >> {tmp_path}/calls\nexec {CC[0]} "$@"', probe)
    assert loads(made(cc, tmp_path / "own"))
    assert re.findall("-m[a-z]*=native", (tmp_path / "calls").read_text()) == flags.split()


def test_no_compiler_runs_if_the_folder_cannot_be_written(tmp_path):
    cc = compiler(tmp_path, f"echo >> {tmp_path}/calls")
    (tmp_path / "own").write_text("a file where a folder should be")
    for folder in (tmp_path / "own", tmp_path / "own" / "native", Path("/proc/native")):
        begun = _Compilation(cc, folder, KEY)
        assert begun.result() is None
        assert str(folder) in begun.problem
    assert calls(tmp_path) == 0
    begun = _Compilation(["/nowhere/cc"], tmp_path / "there", KEY)
    assert begun.result() is None
    assert begun.problem == "/nowhere/cc cannot be started: No such file or directory"
    assert not list((tmp_path / "there").iterdir())


@pytest.fixture
def alive(tmp_path):
    """Returns a pipe that a script opens for writing, and the descriptor of the reading end.

    The pipe ends when the last process that writes to it has ended. A process id is no such sign, because it stays in
    use until a parent waits for the process.
    """
    os.mkfifo(tmp_path / "alive")
    descriptor = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def ends(alive):
    """Whether a word was written to the pipe and every writer has then closed it."""
    said = b""
    while select.select([alive], [], [], 30)[0]:
        part = os.read(alive, 100)
        if not part:
            return said == b"started\n"
        said += part
    return False


def test_a_compiler_that_takes_too_long_is_stopped_with_its_child_processes(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(native_library, "_SECONDS", 0.05)
    script = f"exec 3> {tmp_path}/alive; sleep 1000 & echo started >&3; wait"
    begun = _Compilation(compiler(tmp_path, script), tmp_path / "own", KEY)
    assert select.select([alive], [], [], 30)[0]
    assert begun.result() is None
    assert "has not finished after 0 seconds" in begun.problem
    assert not list((tmp_path / "own").glob("*.tmp"))
    assert ends(alive)


BUSY = """
kill = os.killpg
def busy(*given):
    if threading.current_thread() is threading.main_thread():
        threading.Event().wait()
    kill(*given)
os.killpg = busy
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("os.kill(os.getpid(), signal.SIGTERM)", 143), (BUSY, 143)],
    ids=["end", "signal", "signal on a busy machine"],
)
def test_a_process_that_ends_early_leaves_no_compiler_behind(tmp_path, alive, end, code):
    """`BUSY`: the main thread has begun to stop the compiler, and comes no further before its grace period is over."""
    (cc,) = compiler(tmp_path, f"exec 3> {tmp_path}/alive; echo started >&3; echo x > {tmp_path}/started; sleep 1000")
    script = f"""
import os, pathlib, signal, threading
from attncli import stopping
from attncli.model.native_library import begin
stopping.install()
stopping.unwind()
begin()
while not pathlib.Path({str(tmp_path / "started")!r}).read_text().strip(): pass
{end}
"""
    (tmp_path / "started").touch()
    assert python(script, CC=cc).returncode == code
    assert not list((tmp_path / "own/native").iterdir())
    assert ends(alive)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def anew():
    """Clears what this process knows about the library, before and after the test."""
    found_out = (native_library._begun, native_library._found, native._functions)
    for function in found_out:
        function.cache_clear()
    yield
    for function in found_out:
        function.cache_clear()


@pytest.mark.parametrize(
    ("name", "value"), [("CC", "nonexistent"), ("ATTNCLI_NATIVE", "0"), ("CC", "false"), (None, None)]
)
def test_with_and_without_a_library_the_text_is_the_same(at_home, monkeypatch, capsys, anew, name, value):
    if name:
        monkeypatch.setenv(name, value)
    assert native.available() == (name is None and CC is not None)
    loaded, backend = load_to_generate(ModelSource(device="cpu"), "auto", keep=True)
    assert isinstance(backend, native.NativeBackend if native.available() else TorchBackend)
    assert loaded.model.embedding.weight.numel() > 0
    released = load_to_generate(ModelSource(device="cpu"), "auto")[0].model.embedding.weight.numel() == 0
    assert released == native.available()
    capsys.readouterr()
    code, out, err = ask(capsys, "generate", "The cat", "-n", "12", "-t", "0")
    told = {"nonexistent": "CC=nonexistent is no compiler", "false": "false fails: exit code 1"}.get(value, "")
    assert (code, err) == (0, f"PyTorch generates, about four times slower than C would: {told}\n" if told else "")
    prompt = [loaded.tokenizer.encode("The cat")]
    events = generate(
        TorchBackend(loaded.model), loaded.tokenizer, prompt, SampleConfig(temperature=0, max_new_tokens=12)
    )
    assert out == "The cat" + "".join(event.text for event in events if isinstance(event, Text)) + "\n"


@needs_compiler
def test_without_a_valid_library_pytorch_runs_the_network(monkeypatch, anew, tmp_path):
    (cc,) = compiler(tmp_path, 'while [ "$1" != -o ]; do shift; done; echo text > "$2"')
    monkeypatch.setenv("CC", cc)
    assert library().path.read_text() == "text\n"
    assert not native.available()
    assert native_library.problem().startswith("the compiled library cannot be loaded: ")


@pytest.mark.parametrize(("device", "told"), [("cpu", 1), ("auto", 1), ("cuda", 0)])
def test_a_running_compiler_is_announced_at_once(monkeypatch, capsys, anew, tmp_path, device, told):
    (cc,) = compiler(tmp_path, "sleep 1000")
    monkeypatch.setenv("CC", cc)
    begin_compiling(device)
    assert capsys.readouterr().err.count("compiling the network in C for this processor") == told
    if told:
        native_library.begin()._stop()


def test_integers_without_a_library_are_refused(at_home, monkeypatch, capsys):
    monkeypatch.setattr(native, "available", lambda: False)
    code, _, err = ask(capsys, "generate", "The cat", "--dtype", "int8")
    assert code == 2
    assert "--dtype int8 needs a CPU, a C compiler" in err


@needs_compiler
def test_the_library_s_name_covers_everything_it_depends_on(monkeypatch):
    one = native_library._key(CC)
    monkeypatch.setattr(native_library, "FLAGS", ("-O1",))
    assert native_library._key(CC) != one
    assert native_library._key(["another"]) != native_library._key(CC)
    assert native_library._key(CC, "training") != native_library._key(CC)


# A library that others can change is never loaded


@needs_compiler
def test_the_checked_file_is_loaded_even_if_it_was_replaced(tmp_path):
    found = _Compilation(CC, tmp_path / "own", KEY).result()
    found.path.rename(tmp_path / "elsewhere")
    found.path.write_text("a library of somebody else's")
    assert loads(found.name)


def kept(folder):
    """Returns a file that counts as a library, in its own folder."""
    content = b"a library"
    path = folder / f"{KEY}.{library_store.digest(content)}.so"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o700)
    return path


def test_a_library_that_another_could_have_written_is_removed(tmp_path):
    path = kept(tmp_path / "own")
    assert made(["false"], tmp_path / "own") == path
    path.chmod(0o722)
    assert made(["false"], tmp_path / "own") is None
    assert not path.exists()
    target = kept(tmp_path / "target")
    path.symlink_to(target)
    assert made(["false"], tmp_path / "own") is None
    assert target.exists()
    path.mkdir()
    assert "cannot be stored" in problem_of(["false"], tmp_path / "own")


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, above):
    path = kept(tmp_path / "a" / "b" / "own")
    open_ = [path.parent, *path.parents][above + 1 if above else 0]
    assert made(["false"], path.parent) == path
    open_.chmod(0o1777)
    assert made(["false"], path.parent) == (
        path if above else None
    )  # in a sticky parent, others cannot replace our folder
    open_.chmod(0o777)
    begun = _Compilation(compiler(tmp_path, "exit 1"), path.parent, KEY)
    assert begun.result() is None
    assert path.exists()


@needs_compiler
def test_where_others_can_write_the_library_is_compiled_in_private(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    begun = _Compilation(CC, tmp_path / "open" / "own", KEY)
    found = begun.result()
    assert loads(found.name)
    assert tmp_path not in found.path.parents
    assert found.path.parent.stat().st_mode & 0o777 == 0o700
    assert f"{tmp_path / 'open'} is a link, or others can write to it" in begun.problem
    assert list((tmp_path / "open" / "own").iterdir()) == []
    shutil.rmtree(found.path.parent)


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    old = [target / f"{KEY}.{digest}" for digest in (f"{KEY[:16]}.tmp", f"{KEY}.so", "failed")]
    for path in old:
        path.touch()
        os.utime(path, (0, 0))
    (tmp_path / "native").symlink_to(target)
    assert made(compiler(tmp_path, "exit 1"), tmp_path / "native") is None
    assert sorted(target.iterdir()) == sorted(old)


def test_a_folder_of_another_user_is_exposed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(folders, "_is_owner", lambda found: found.st_uid == 54321)
    assert folders.exposed(tmp_path) == tmp_path


def test_a_group_of_this_user_alone_is_trusted(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    user = pwd.getpwuid(os.geteuid())
    for name, members, other in ((user.pw_name, [], None), ("staff", [], tmp_path), (user.pw_name, ["eve"], tmp_path)):
        group = SimpleNamespace(gr_name=name, gr_mem=members)
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        monkeypatch.setattr(
            pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=user.pw_name, pw_gid=tmp_path.stat().st_gid)
        )
        assert folders.exposed(tmp_path) == other


def test_old_files_of_killed_processes_are_removed(tmp_path):
    names = [f"{KEY}.{KEY[:16]}.tmp", f"{KEY}.{KEY[1:]}0.tmp", "notes.tmp"]
    path = kept(tmp_path / "own")
    for name in names:
        (path.parent / name).touch()
    made(["false"], path.parent)
    assert len(list(path.parent.iterdir())) == 4
    for name in names:
        os.utime(path.parent / name, (0, 0))
    assert made(["false"], path.parent) == path
    assert {left.name for left in path.parent.iterdir()} == {path.name, *names[1:]}


def test_an_open_quote_in_cc_means_no_compiler(monkeypatch, anew):
    monkeypatch.setenv("CC", "gcc '")
    assert native_library._compiler() is None
